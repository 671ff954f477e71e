"""wasmrt plan: its figures add up, its words agree with its figures, and what was given is not measured."""

import asyncio
import json
import re
from dataclasses import replace

import gguf
import pytest

from tests.gguf_files import write_llama
from tests.range_server import RangeServer
from tests.test_cli import wasmrt
from tests.test_streaming import write_layers
from wasmrt import speed
from wasmrt.device.choice import choose
from wasmrt.errors import BudgetError
from wasmrt.gguf.types import FILE_TYPES
from wasmrt.model.build import build
from wasmrt.options import EngineOptions, parse_bytes
from wasmrt.planning import examine, planned, report
from wasmrt.store.open import Opened, open_model
from wasmrt.store.plan import Plan

pytestmark = pytest.mark.usefixtures("cpu")

RATES = ("--bandwidth", "2MB/s", "--compute", "100MB")
SMALL = "800KiB"  # less than the model, more than it needs
BARS = " ▁▂▃▄▅▆▇█"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("models") / "experts.gguf", experts=8)


def found_for(path, memory=None, read_rate=2e6, compute_rate=1e8, **options):
    options = EngineOptions(memory=parse_bytes(memory), **options)
    return asyncio.run(examine(path, options, read_rate, compute_rate))


@pytest.fixture
def nothing_measured(monkeypatch):
    def refuse(*_):
        raise AssertionError("this was given and is not to be measured")

    monkeypatch.setattr(speed, "reading_rate", refuse)
    monkeypatch.setattr(speed, "computing_rate", refuse)


@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("policy", ["plan", "lru"])
@pytest.mark.parametrize("model", ["path", "experts"])
def test_the_figures_add_up(request, model, policy, share, nothing_measured):
    """For budgets between the smallest and one that holds everything."""
    path = request.getfixturevalue(model)
    whole = found_for(path, context=64)
    memory = whole["minimum_bytes"] + int(share * (whole["total_bytes"] - whole["minimum_bytes"]))
    found = found_for(path, memory, context=64, policy=policy)
    parts = ("weight_bytes", "kv_bytes", "state_bytes", "activation_bytes")
    assert sum(found[part] for part in parts) == found["total_bytes"] <= found["budget"]
    assert found["resident_bytes"] + found["staging_bytes"] + found["expert_cache_bytes"] <= found["weight_bytes"]
    assert found["minimum_bytes"] <= found["budget"]
    assert found["touched_bytes"] <= found["weights_total_bytes"]
    assert (found["streamed_bytes"] > 0) == (share < 1)
    shares = found["resident_share_of_segments"].values()
    assert all(0 <= share <= 1 for share in shares)
    assert share < 1 or set(shares) == {1.0}
    assert ("for experts" in report(found)) == (found["expert_cache_bytes"] > 0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_given_rates_are_used_and_nothing_is_measured(path, nothing_measured):
    """Reading and computing overlap: the longer of the two is a token's time."""
    slow_source = found_for(path, SMALL, 2e6, 1e8)
    predicted, streamed = slow_source["predicted"], slow_source["streamed_bytes"]
    assert predicted["read_bytes"] == streamed
    assert predicted["seconds_per_token"] == predicted["reading_seconds"] == pytest.approx(streamed / 2e6)
    assert predicted["tokens_per_second"] == pytest.approx(2e6 / streamed)
    assert predicted["limit"] == "reading"
    kernels = found_for(path, SMALL, 1e12, 1e6)["predicted"]
    assert kernels["seconds_per_token"] == kernels["computing_seconds"] == pytest.approx(slow_source["touched_bytes"] / 1e6)
    assert kernels["limit"] == "computing"
    resident = found_for(path)["predicted"]
    assert (resident["read_bytes"], resident["reading_seconds"], resident["read_bytes_per_second"]) == (0, 0.0, None)


def test_what_is_not_given_is_measured(path):
    predicted = found_for(path, SMALL, None, None)["predicted"]
    assert predicted["read_bytes_per_second"] > 0
    assert predicted["compute_bytes_per_second"] > 0


def amount(text):
    """The first amount in a text, in bytes."""
    number, unit = re.search(r"([0-9.]+) (MiB|MB|GB)\b", text).groups()
    return float(number) * {"MiB": 2**20, "MB": 1e6, "GB": 1e9}[unit]


AMOUNTS = {
    "model": "weights_total_bytes",
    "budget": "budget",
    "weights": "resident_bytes",
    "staging": "staging_bytes",
    "cache": "kv_bytes",
    "in-all": "total_bytes",
}


def test_the_report_says_what_the_figures_are(path):
    found = found_for(path, SMALL)
    rows = dict(line.split(None, 1) for line in report(found).replace("in all", "in-all").splitlines())
    for row, key in AMOUNTS.items():
        assert found[key] <= amount(rows[row]) <= found[key] + 0.11 * 2**20, row
    assert f"{found['context']} positions" in rows["cache"]
    assert "experts" not in rows["staging"]
    strip = rows["layers"].split("|")[1]
    assert len(strip) == len(found["resident_share_of_segments"]) == 4  # embedding, two layers, head
    for bar, share in zip(strip, found["resident_share_of_segments"].values(), strict=True):
        assert (bar == " ") == (share == 0)
        assert (bar == "█") == (share == 1)
        assert abs(BARS.index(bar) / 8 - share) <= 1 / 7
    homes = list(found["homes"].values())
    assert sum(int(part.split()[0]) for part in rows["tensors"].split(";")) == len(homes)
    assert "reading is the limit" in rows["speed"]
    assert f"({found['predicted']['tokens_per_second']:.3g} tok/s)" in rows["speed"]
    assert "all of it computing" in report(found_for(path))


def test_the_budget_that_would_do_does(path):
    """What the report and the error name works when it is given back as it was printed, for the same context."""
    text = report(found_for(path, "2MiB", context=64))
    named = re.search(r"; ([0-9.]+ MiB) would do for 64 positions", text)[1]
    assert found_for(path, named, context=64)["total_bytes"] <= parse_bytes(named)
    with pytest.raises(BudgetError) as caught:
        found_for(path, "1KiB", context=64)
    parts = [float(n) for n in re.findall(r"([0-9.]+) MiB", str(caught.value))]
    assert parts[0] == pytest.approx(sum(parts[1:4]), abs=0.31)  # each is rounded up
    assert found_for(path, f"{parts[0]}MiB", context=64)["budget"] == int(parts[0] * 2**20)


@pytest.mark.parametrize("share", [0.1, 0.7, 1.0])
@pytest.mark.parametrize("experts", [0, 8])
@pytest.mark.parametrize("tied", [False, True])
def test_segments_add_up_to_the_plan(tmp_path, share, experts, tied, nothing_measured):
    """Each byte of the weights is in one segment, and in one place."""
    path = write_layers(tmp_path / "m.gguf", 3, experts=experts, tied=tied)
    whole = found_for(path, context=64)
    found = found_for(path, whole["minimum_bytes"] + int(share * (whole["total_bytes"] - whole["minimum_bytes"])), context=64)
    segments = found["segments"]
    assert [segment["name"] for segment in segments] == ["embedding", "blk.0", "blk.1", "blk.2", "head"]
    for segment in segments:
        assert segment["bytes"] == sum(segment[f"{part}_bytes"] for part in ("resident", "gpu", "streamed", "row"))
    assert sum(segment["bytes"] for segment in segments) == found["weights_total_bytes"]
    assert sum(segment["streamed_bytes"] for segment in segments) == found["streamed_bytes"]
    assert sum(segment["resident_bytes"] for segment in segments) <= found["resident_bytes"]  # frames are whole
    assert (segments[0]["bytes"] == 0) == tied  # it counts for the head, which reads all of it
    assert (segments[0]["row_bytes"] > 0) == (not tied and share < 1)


def test_facts_are_those_of_the_file(path):
    found = found_for(path)
    assert (found["name"], found["model"], found["size"]) == ("tiny.gguf", str(path), path.stat().st_size)
    assert (found["architecture"], found["n_layers"], found["n_ctx_train"]) == ("llama", 2, 64)
    assert (found["title"], found["format"], found["chat"]) == (None, "F32", False)
    assert (found["adapter"], found["threads"]) == ("", 1)


def test_file_types_are_those_of_the_gguf_package():
    for number, name in FILE_TYPES.items():
        assert gguf.LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_") == name


def test_what_was_measured_is_not_measured_again(path, monkeypatch):
    """For another budget; another number of threads is another device."""
    opened, asked = Opened(*asyncio.run(open_model(path.read_bytes()))), []

    async def computing_rate(choice, built, stays=True):
        asked.append(choice.threads(built.programs))
        return 1e8

    monkeypatch.setattr(speed, "computing_rate", computing_rate)
    measured = speed.Measured()
    for options in ({}, {"context": 64}, {"threads": 2}, {"threads": 2, "context": 64}):
        found = asyncio.run(planned(opened, EngineOptions(device="cpu", **options), measured=measured))
        assert found.predicted.compute_bytes_per_second == 1e8
    assert asked == [1, 2]


def test_kernels_are_measured_with_the_threads_that_the_model_will_have(path, monkeypatch):
    """What is measured is small, and alone would have one."""
    made = []
    choice = choose(EngineOptions(device="cpu", threads=None))
    built = build(asyncio.run(open_model(path.read_bytes()))[1])

    def with_threads(n):
        made.append(n)
        return choose(EngineOptions(device="cpu", threads=n))

    choice = replace(choice, threads=lambda _: 2, with_threads=with_threads)
    assert asyncio.run(speed.computing_rate(choice, built)) > 0
    assert made == [2]


def test_the_command_in_json(path):
    done = wasmrt("plan", path, "--memory", SMALL, *RATES, "--json")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    found = json.loads(done.stdout)
    plain = {name for name in Plan.__dataclass_fields__ if name != "parts"}
    assert plain | {"model", "device", "total_bytes", "bytes_bound", "weights_total_bytes", "predicted"} <= set(found)
    assert found["budget"] == 800 * 1024
    assert found["predicted"]["read_bytes_per_second"] == 2e6
    assert found["predicted"]["compute_bytes_per_second"] == 1e8


def test_the_command_for_a_person(path):
    done = wasmrt("plan", path, "--memory", SMALL, *RATES, "--prefetch", 2, "--draft", 0)
    assert (done.returncode, done.stderr) == (0, "note: a plan does not depend on: prefetch, draft\n")
    assert done.stdout == report(found_for(path, SMALL))


def test_what_does_not_fit_and_what_is_no_rate_end_with_one_line(path, tmp_path):
    done = wasmrt("plan", path, "--memory", "1KiB")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: a memory budget of 1024 bytes is too small: ")
    for option in ("--bandwidth", "--compute"):
        done = wasmrt("plan", path, option, "fast")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert f"{option}: expected bytes a second, such as 1.5GB or 900MB/s, not 'fast'" in done.stderr
    done = wasmrt("plan", tmp_path / "missing.gguf")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_of_a_url_the_header_is_read(path):
    """With rates given, not the whole file; the figures are those of the file on disk."""
    with RangeServer(path) as server:
        there = found_for(server.url, SMALL)
        assert server.sent < path.stat().st_size
    here = found_for(path, SMALL)
    assert (there["model"], here["model"]) == (server.url, str(path))
    for name in ("context", "kv_bytes", "touched_bytes", "weights_total_bytes", "minimum_bytes", "notes"):
        assert there[name] == here[name]


def test_a_slow_link_is_measured_in_a_moment(path, tmp_path, monkeypatch):
    """Also where the model is to be streamed from it: only a small part comes, and nobody waits for more."""
    monkeypatch.setenv("WASMRT_CACHE", str(tmp_path))
    with RangeServer(path) as server:
        asyncio.run(examine(server.url, EngineOptions(), None, 1e8))  # the header comes, and is kept
        before = server.sent
        server.bytes_per_second = 20_000.0
        found = asyncio.run(examine(server.url, EngineOptions(memory=parse_bytes(SMALL)), None, 1e8))
        assert server.sent - before < path.stat().st_size / 8
    assert 0 < found["predicted"]["read_bytes_per_second"] < 4 * 20_000  # seen: 17 thousand; what lies in buffers comes at once
