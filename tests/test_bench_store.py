"""bench_store: what it counts, the clock it counts on, and that every case is there. How fast the store is, no test asks."""

import asyncio
import importlib.util
import itertools
import json
import random
import sys

import pytest

from tests.conftest import skip_or_fail
from tools import bench_store
from tools.bench_store import (
    EXTENT_BYTES,
    EXTENTS,
    PATTERNS,
    POLICIES,
    RESIDENCIES,
    Case,
    Drive,
    Model,
    SimulatedLoop,
    ops_in,
    passes_of,
)
from wasmrt.store.fetcher import AT_ONCE
from wasmrt.store.source import MemorySource
from wasmrt.store.store import Part

N = 16  # segments of --quick
WARM = 2  # its passes


@pytest.fixture(scope="module")
def quick():
    """What --quick prints."""
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr(sys, "argv", ["bench_store.py", "--quick", "--json"])
        patch.setattr("builtins.print", lambda text, **_: printed.append(text))
        assert bench_store.main() == 0
    (found,) = map(json.loads, printed)
    return found


@pytest.fixture(scope="module")
def rows(quick):
    """By pattern, policy, reading ahead, residency."""
    return {(r["pattern"], r["policy"], r["prefetch"], r["residency"]): r for r in quick["rows"]}


def test_every_case_has_its_row(quick, rows):
    assert list(rows) == list(itertools.product(PATTERNS, POLICIES, (True, False), RESIDENCIES))
    assert len(rows) == len(quick["rows"])
    assert {row["ratio"] for row in quick["rows"]} == {4.0}
    assert (quick["n_segments"], quick["passes"]) == (N, WARM)
    assert quick["n_bytes"] == N * EXTENTS * EXTENT_BYTES


def test_the_table_has_a_line_for_each_row(quick):
    lines = bench_store.table(quick).splitlines()
    columns = lines.index(bench_store.COLUMNS)
    assert len(lines) - columns - 1 == len(quick["rows"])
    assert {len(line) for line in lines[columns:]} == {len(bench_store.COLUMNS)}
    for line, row in zip(lines[columns + 1 :], quick["rows"], strict=True):
        assert line.split()[:4] == [row["pattern"], row["policy"], "yes" if row["prefetch"] else "no", f"{row['residency']}%"]


@pytest.mark.parametrize("prefetch", [True, False])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_in_a_cycle_lru_misses_all_and_plan_reads_what_does_not_fit_and_a_ring(quick, rows, prefetch, residency):
    lru, plan, belady = (rows["inference", policy, prefetch, residency] for policy in ("lru", "plan", "belady"))
    weights = quick["n_bytes"]
    # What is being read at either end of the passes that count belongs to one side or the other.
    edge = AT_ONCE * EXTENT_BYTES / WARM if prefetch else 0
    assert abs(lru["bytes_read"] - weights) <= edge
    assert lru["bytes_bound"] == plan["bytes_bound"] == weights - weights * residency // 100
    assert plan["bytes_bound"] - edge <= plan["bytes_read"] <= plan["bytes_bound"] + plan["staging_bytes"] + edge
    assert belady["bytes_read"] <= lru["bytes_read"] + edge
    if residency >= 50:                                          # of 16 segments the ring is an eighth
        assert plan["bytes_read"] < lru["bytes_read"]
    if not prefetch:
        assert lru["demand_loads"] == lru["stalls"] == N
        assert lru["hit_rate"] == 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("pattern", ["sequential", "inference"])
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_what_is_read_ahead_is_not_read_on_demand(rows, pattern, policy, residency):
    ahead, on_demand = (rows[pattern, policy, prefetch, residency] for prefetch in (True, False))
    assert ahead["demand_loads"] < on_demand["demand_loads"]
    assert on_demand["demand_loads"] == on_demand["stalls"]


def test_a_store_just_opened_reads_everything(quick, rows):
    for policy, residency in itertools.product(POLICIES, RESIDENCIES):
        row = rows["sequential", policy, False, residency]
        assert row["bytes_read"] == row["bytes_bound"] == quick["n_bytes"]


def test_figures_are_ratios_of_what_was_measured(quick):
    for row in quick["rows"]:
        assert row["bytes_over_bound"] == row["bytes_read"] / row["bytes_bound"]
        assert row["time_over_bound"] == row["warm_seconds"] / row["seconds_bound"]
        assert row["hit_rate"] == 1 - row["stalls"] / row["visits"]
        assert row["visits"] == (3 * (N - 2) if row["pattern"] == "bidirectional" else N)
        reading = row["bytes_bound"] / quick["bytes_per_second"]
        computing = quick["n_bytes"] / quick["bytes_per_second"] / row["ratio"] * row["visits"] / N
        assert row["seconds_bound"] == pytest.approx(max(reading, computing))
        assert row["warm_seconds"] > 0.999 * computing           # the wait in place of computing is part of a pass


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pass_touches_every_segment(pattern):
    """So that what a pass must read at least is the same for each."""
    passes = passes_of(pattern, 20, 3)
    assert len(passes) == 3
    assert all(set(visits) == set(range(20)) for visits in passes)
    assert passes == passes_of(pattern, 20, 3)
    assert (passes[0] != passes[1]) == (pattern == "random")


def test_bidirectional_goes_back_after_each_two_steps():
    assert passes_of("bidirectional", 5, 1) == [[0, 1, 2, 1, 2, 3, 2, 3, 4]]


@pytest.mark.parametrize(
    ("segments", "ops", "n"),
    [((0, 1), (0, 1), 0), ((0, 3), (0, EXTENTS), 2 * EXTENTS), ((0, 2), (0, 1), 1), ((1, 2), (1, 3), 2), ((2, 4), (3, 2), 3)],
)
def test_ops_of_a_part(segments, ops, n):
    assert ops_in(Part(range(*segments), range(*ops))) == n


# The clock and the drive


def in_simulated_time(coroutine):
    return bench_store.run(SimulatedLoop, coroutine)


def test_simulated_sleep_takes_its_time_and_no_ones_patience():
    async def check():
        loop = asyncio.get_running_loop()
        started, ends = loop.time(), []

        async def sleep(seconds):
            await asyncio.sleep(seconds)
            ends.append((seconds, loop.time() - started))

        await asyncio.gather(*map(sleep, (3e6, 1e6, 2e6)))       # weeks
        assert [seconds for seconds, _ in ends] == [1e6, 2e6, 3e6]
        assert all(seconds <= took < seconds + 100 for seconds, took in ends)

    in_simulated_time(check())


def test_simulated_time_counts_work():
    async def check():
        loop = asyncio.get_running_loop()
        started = loop.time()
        sum(range(3_000_000))
        assert loop.time() > started

    in_simulated_time(check())


def test_a_simulated_loop_waits_for_threads():
    async def check():
        assert await asyncio.to_thread(lambda: 7) == 7

    in_simulated_time(check())


def test_reads_share_the_drive_in_their_order():
    async def check():
        clock = asyncio.get_running_loop().time
        drive, buffer, ends = Drive(4000, 1000), bytearray(4000), []
        await asyncio.sleep(10)                                  # while idle it saves nothing up
        started = clock()

        async def read(n_bytes):
            await drive.read_into(0, memoryview(buffer)[:n_bytes])
            ends.append((n_bytes, clock() - started))

        await asyncio.gather(*map(read, (2000, 4000, 1000)))
        assert [n_bytes for n_bytes, _ in ends] == [2000, 4000, 1000]
        assert [took for _, took in ends] == pytest.approx([2, 6, 7], abs=0.5)
        with pytest.raises(ValueError, match="not all in"):
            await drive.read_into(1, memoryview(buffer))

    in_simulated_time(check())


# A real file


def test_the_store_fills_its_tables_from_a_real_source():
    """The same run as on the drive that is not there, with bytes that can be looked at."""
    model = Model(12, 4096, 1e9)
    data = random.Random(1).randbytes(model.n_bytes)
    case = Case(2.0, "inference", "plan", True, 50)

    async def check():
        run = bench_store.Run(model, MemorySource(data), case, bench_store.Cyclic(13))
        await run.go([])
        await run.go([])
        there = [
            (entry, run.store.tables[s][e])
            for s, segment in enumerate(model.table.segments) for e, entry in enumerate(segment.entries)
            if run.store.tables[s][e]
        ]  # fmt: skip
        assert len(there) >= len(run.plan.parts.resident) > 10
        for entry, address in there:
            assert run._memory.view(address, entry.n_bytes) == data[entry.offset : entry.offset + entry.n_bytes]
        await run.close()

    bench_store.run(bench_store.real_loop, check())


def test_a_real_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "file"
    path.write_bytes(bytes(N * EXTENTS * 4096 + 1000))
    cases = ["--patterns", "inference", "random", "--policies", "plan", "lru", "--resident", "50"]
    monkeypatch.setattr(sys, "argv", ["bench_store.py", "--quick", "--json", "--file", str(path), *cases])
    assert bench_store.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_bytes"] == N * EXTENTS * 4096
    assert len(found["rows"]) == 8
    by_policy = {row["policy"]: row for row in found["rows"] if row["pattern"] == "inference" and not row["prefetch"]}
    assert by_policy["lru"]["bytes_read"] == found["n_bytes"]
    assert by_policy["plan"]["bytes_read"] < found["n_bytes"]


@pytest.mark.parametrize(
    ("content", "words"), [(b"x" * 1000, "has 1000 bytes, and 16 segments need 262144"), (None, "cannot open")]
)
def test_a_file_that_does_not_do(tmp_path, monkeypatch, capsys, content, words):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["bench_store.py", "--quick", "--file", str(path)])
    assert bench_store.main() == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    ["--resident 100", "--resident 0", "--ratio 0", "--segments 11", "--passes 0", "--bandwidth 0"],
)
def test_options_that_make_no_sense(monkeypatch, capsys, arguments):
    option, value = arguments.split()
    monkeypatch.setattr(sys, "argv", ["bench_store.py", option, value])
    with pytest.raises(SystemExit):
        bench_store.main()
    assert option in capsys.readouterr().err


# The picture


def small(monkeypatch, picture):
    """A run of a second that draws."""
    size = ["--segments", "12", "--passes", "1", "--resident", "50", "75"]
    cases = ["--patterns", "inference", "random", "--policies", "plan", "lru"]
    monkeypatch.setattr(sys, "argv", ["bench_store.py", *size, *cases, "--plot", str(picture)])
    return bench_store.main()


def test_without_matplotlib_there_is_a_table_and_a_way_to_the_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert small(monkeypatch, tmp_path / "store.png") == 0
    printed = capsys.readouterr()
    assert bench_store.COLUMNS in printed.out
    assert "pip install 'wasmrt[bench]'" in printed.err
    assert not list(tmp_path.iterdir())


def test_the_picture(tmp_path, monkeypatch, capsys):
    if importlib.util.find_spec("matplotlib") is None:
        skip_or_fail("matplotlib", "matplotlib is not installed: pip install 'wasmrt[bench]'")
    assert small(monkeypatch, tmp_path / "store.png") == 0
    assert bench_store.COLUMNS in capsys.readouterr().out
    data = (tmp_path / "store.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert 5_000 < len(data) < 150_000
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width > height > 500
