"""The parts of tools/acceptance.py that need no large model: verdicts, skips, the table, and the measuring of small ones."""

import asyncio
import math
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from tests.gguf_files import write_llama
from tools import acceptance, acceptance_base, bench_peers, make_test_model
from tools.acceptance import ROOT, ROWS, judged
from tools.acceptance_base import Found, Setup, Skip, compared, model_file
from wasmrt.sync import call, load


@pytest.fixture
def setup(tmp_path):
    return Setup(tmp_path / "models")


@pytest.mark.parametrize(
    ("value", "sign", "limit", "ok"),
    [(45, ">=", 45, True), (44.9, ">=", 45, False), (200, "<=", 200, True), (200.1, "<=", 200, False), (2.9, "<", 3, True),
     (3, "<", 3, False), (math.nan, ">=", 0, False), (math.nan, "<", 1e9, False), (-4, "<", 5, True)],
)  # fmt: skip
def test_a_figure_is_held_against_its_limit(value, sign, limit, ok):
    assert compared(value, sign, limit).ok is ok


def test_figures_and_limits_have_their_units():
    assert compared(760.564, "<=", 843, "MB", "why") == Found("760.56 MB", "<= 843 MB", True, "why")
    assert compared(0.75, ">=", 0.6)[:2] == ("0.75", ">= 0.6")


# Models


def test_a_model_is_made_once_and_its_size_is_said_before(setup, monkeypatch, capsys):
    made = []

    def write(path, shape, quant):
        made.append((path.name, capsys.readouterr().err))
        path.write_bytes(b"GGUF")

    monkeypatch.setattr(make_test_model, "write_model", write)
    path = model_file(setup, *acceptance.SMALL)
    assert path == model_file(setup, *acceptance.SMALL) == setup.models / "tinyllama-1.1b.Q4_K_M.gguf"
    ((name, said),) = made
    assert name == path.name
    assert said.endswith("tinyllama-1.1b.Q4_K_M.gguf: 0.7 GB\n")


def test_the_size_that_is_said_is_that_of_the_file(setup, monkeypatch):
    path = model_file(setup, "tiny", "Q8_0")
    free = path.stat().st_size + acceptance_base.SPARE_DISK - 200_000  # more than the header, which is not counted
    path.unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(Skip, match=r"tiny\.Q8_0\.gguf takes 0\.0 GB of disk, and 1\.0 GB must stay free; 1\.0 GB are"):
        model_file(setup, "tiny", "Q8_0")


def test_the_large_model_is_past_what_32_bit_addresses_are_used_for():
    shape, quant = acceptance.LARGE
    n_bytes = sum(tensor.n_bytes for tensor in make_test_model.tensors(make_test_model.SHAPES[shape], quant))
    assert 7 << 29 < n_bytes < 5 * 10**9 < acceptance.LARGE_MEMORY


# Skips


@pytest.mark.parametrize(
    ("large", "free", "why"), [(False, 10**12, "--no-large"), (True, 5 * 10**9, "needs 6.0 GB of memory; 5.0 GB are available")]
)
def test_the_large_model_is_skipped_before_it_is_made(setup, monkeypatch, large, free, why):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert judged(ROWS["load-64"], setup._replace(large=large)) == ("", "", "skip", why)
    assert not setup.models.exists()


@pytest.mark.parametrize(
    ("python", "why"), [(None, "llama-cpp-python is not there"), ("nowhere/python", "cannot start nowhere/python")]
)
def test_without_llama_cpp_two_rows_are_skipped(setup, monkeypatch, python, why):
    pytest.importorskip("wasmtime")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    for name in ("peers-decode", "peers-prefill"):
        *_, verdict, note = judged(ROWS[name], setup._replace(peer_python=python))
        assert verdict == "skip"
        assert note.startswith(why)
    assert not setup.models.exists()


# Rows


def test_decode_rows_are_medians_of_one_set_of_benches(setup, monkeypatch):
    shares = iter([0.4, 0.9, 0.5])
    names = ("python_share", "decode_tokens_per_second", "machine_read_bytes_per_second")
    monkeypatch.setattr(acceptance, "model_file", lambda *_: "file")
    monkeypatch.setattr(acceptance, "bench", lambda *_: dict.fromkeys(names, 0.04) | {"read_share": next(shares)})
    assert judged(ROWS["decode-bandwidth"], setup)[:3] == ("50.00 %", ">= 45 %", "pass")
    assert judged(ROWS["python-share"], setup)[:3] == ("4.00 %", "< 3 %", "FAIL")


def test_memory_is_held_against_the_plan(setup, monkeypatch):
    plan = {"weight_bytes": 600 * 10**6, "kv_bytes": 20 * 10**6, "total_bytes": 10**12}
    monkeypatch.setattr(acceptance, "model_file", lambda *_: "file")
    for peak, verdict in ((770, "pass"), (771, "FAIL")):
        monkeypatch.setattr(acceptance, "bench", lambda *_, peak=peak: {"peak_rss_bytes": peak * 10**6, "plan": plan})
        assert judged(ROWS["peak-rss"], setup)[:3] == (f"{peak}.00 MB", "<= 770 MB", verdict)


def test_ratios_beside_llama_cpp(setup, monkeypatch):
    runtime = {rate: {"median": 10.0} for rate in (acceptance.DECODE, acceptance.PREFILL)}
    ratios = {acceptance.DECODE: {"median": 0.59}, acceptance.PREFILL: {"median": 0.3}}
    found = {"runtimes": dict.fromkeys(bench_peers.NAMES, runtime), "ratios": ratios, "threads": 2, "rounds": 5}
    monkeypatch.setattr(acceptance, "beside_llama_cpp", lambda _: found)
    assert judged(ROWS["peers-decode"], setup)[:3] == ("0.59", ">= 0.6", "FAIL")
    assert judged(ROWS["peers-prefill"], setup)[:3] == ("0.30", ">= 0.25", "pass")


@pytest.mark.parametrize(
    ("builds", "second", "verdict"),
    [
        (["wasm64", "wasm64"], [1, 2, 3, 4], "pass"),
        (["wasm64", "wasm64"], [1, 2, 9, 4], "FAIL"),
        (["wasm64", "wasm32"], [1, 2, 3, 4], "FAIL"),
        (["wasm32", "wasm32"], [1, 2, 3, 4], "FAIL"),
    ],
)
def test_large_models_want_64_bits_and_equal_tokens(setup, monkeypatch, builds, second, verdict):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**12))
    monkeypatch.setattr(acceptance, "model_file", lambda *_: "file")
    runs = {1: (builds[0], [1, 2, 3, 4]), 2: (builds[1], second)}
    monkeypatch.setattr(acceptance, "apart", lambda function, file, threads: runs[threads])
    assert judged(ROWS["load-64"], setup)[2] == verdict


@pytest.mark.usefixtures("cpu")
def test_the_build_of_a_small_model_and_its_tokens(tmp_path):
    path = write_llama(tmp_path / "tiny.gguf")
    build, tokens = acceptance.apart(acceptance.first_tokens, path, 1)
    assert build == "wasm32"
    assert acceptance.first_tokens(path, 2) == (build, tokens)
    assert len(tokens) == 4


@pytest.mark.usefixtures("cpu")
def test_cancelling_is_timed_from_the_request_on(tmp_path):
    """A prompt that ends before its moment is an error: there was nothing to cancel."""
    path = write_llama(tmp_path / "tiny.gguf")
    with load(path) as model:
        with pytest.raises(RuntimeError, match="the prompt ended before it was cancelled"):
            call(acceptance.cancelled(model.engine, [1, 2, 3], (9, 0.0), 0.0))
        engine = model.engine
        run = engine.device.run

        async def late(*arguments):
            try:
                await asyncio.sleep(60)
            finally:
                time.sleep(0.05)  # noqa: ASYNC251  a device that is slow to stop
                await run(*arguments)

        engine.device.run = late
        assert 0.05 <= call(acceptance.cancelled(engine, [4, 5, 6], (0, 1.0), 0.01)) < 5


# The command


def test_failures_are_rows_and_the_others_go_on(monkeypatch, capsys):
    def skipped(setup):
        raise Skip("no disk")

    def broken(setup):
        raise ValueError("line one\nline two")

    good, bad = Found("1", ">= 1", True), Found("0", ">= 1", False, "slow")
    rows = {"good": lambda _: good, "away": skipped, "broken": broken, "bad": lambda _: bad}
    monkeypatch.setattr(acceptance, "ROWS", rows)
    assert acceptance.main([]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "row     measured  target",
        "good    1         >= 1    pass",
        "away                      skip  no disk",
        "broken                    FAIL  ValueError: line one",
        "bad     0         >= 1    FAIL  slow",
    ]
    assert err.split() == [word for name in rows for word in ("acceptance:", name)]
    assert acceptance.main(["away", "good"]) == 0
    assert capsys.readouterr().out.count("\n") == 3


def test_columns_are_aligned():
    assert acceptance.table([("a", "long cell", ""), ("wide", "x", "note")]) == "a     long cell\nwide  x          note\n"


def test_rows_are_listed_with_what_they_measure(capsys):
    assert acceptance.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(ROWS)
    assert all(len(line.split()) > 3 for line in lines)


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(SystemExit) as exit:
        acceptance.main(["leak", "speed"])
    assert exit.value.code == 2
    assert "no such row: speed; there is: decode-bandwidth" in capsys.readouterr().err


def test_an_interruption_ends_it(monkeypatch, capsys):
    def interrupted(setup):
        raise KeyboardInterrupt

    monkeypatch.setattr(acceptance, "ROWS", {"row": interrupted})
    assert acceptance.main([]) == 130
    assert capsys.readouterr().out == ""


def test_it_runs_as_a_script_from_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "acceptance.py"), "load-64", "--no-large"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1].split() == ["load-64", "skip", "--no-large"]
    assert list(tmp_path.iterdir()) == []
