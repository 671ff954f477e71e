"""bench: what it promises of its figures. How fast a machine is, no test asks."""

import asyncio
import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gguf_files import write_llama
from tools import bench_memory, bench_peers
from wasmrt import bench
from wasmrt.sync import call, load

TYPES = {
    "model": str,
    "device": str,
    "threads": int,
    "prompt_tokens": int,
    "generated_tokens": int,
    "repeat": int,
    "load_seconds": float,
    "first_token_seconds": float,
    "prefill_tokens_per_second": float,
    "decode_tokens_per_second": float,
    "stalled_seconds": float,
    "python_seconds_per_token": float,
    "python_share": float,
    "read_bytes_per_second": float,
    "machine_read_bytes_per_second": float,
    "read_share": float,
    "bytes_per_pass": float,
    "bytes_bound": int,
    "store": dict,
    "peak_rss_bytes": int,
    "spread": dict,
    "samples": list,
    "plan": dict,
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def model(path):
    with load(path, device="reference") as opened:
        yield opened.engine


def test_every_figure_has_its_key_and_type(model, monkeypatch):
    monkeypatch.setattr(bench, "machine_read_bandwidth", lambda threads: 1e9 * threads)
    found = call(bench.measure(model, 20, 6, repeat=2))
    assert {name: type(value) for name, value in found.items()} == TYPES
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["prompt_tokens"], found["generated_tokens"], found["repeat"]) == (20, 6, 2)
    assert found["read_bytes_per_second"] == found["plan"]["touched_bytes"] * found["decode_tokens_per_second"]
    assert found["read_share"] == found["read_bytes_per_second"] / (1e9 * found["threads"])


def test_figures_are_medians_of_samples(model):
    found = call(bench.measure(model, 12, 5, repeat=4))
    assert len(found["samples"]) == 4
    for name in bench.SUMMED_UP:
        values = [sample[name] for sample in found["samples"]]
        assert found[name] == statistics.median(values)
        assert found["spread"][name] == [min(values), max(values)]
    assert len({sample["first_token_seconds"] for sample in found["samples"]}) > 1


def test_no_repetition_is_served_from_the_cache(model):
    """Each prompt is computed whole, and each decode step is one token's."""
    begun = []
    begin = model.device.begin
    model.device.begin = lambda ids, pos, n_out, row: (begun.append((pos, len(ids))), begin(ids, pos, n_out, row))
    found = call(bench.measure(model, 20, 4, repeat=3))
    assert begun == 3 * [(0, 20), (20, 1), (21, 1), (22, 1)]
    for sample in found["samples"]:
        assert sample["cached_tokens"] == 0
        assert (sample["generated_tokens"], sample["decode_steps"]) == (4, 3)
        assert sample["prefill_tokens_per_second"] == pytest.approx(20 / sample["first_token_seconds"])
        assert sample["decode_tokens_per_second"] == pytest.approx(3 / sample["decode_seconds"])


def test_a_warm_up_is_run_and_not_counted(model):
    seen = []
    found = call(bench.measure(model, 8, 4, repeat=2, warmup=True, progress=lambda done, total: seen.append((done, total))))
    assert seen == [(done, 12) for done in range(1, 13)]
    assert len(found["samples"]) == found["repeat"] == 2


def test_one_token_has_no_decode_to_measure(model):
    found = call(bench.measure(model, 8, 1, repeat=2))
    for name in ("decode_tokens_per_second", "python_share", "python_seconds_per_token", "read_bytes_per_second"):
        assert found[name] is None
    assert found["prefill_tokens_per_second"] > 0
    assert "decode       unknown\n" in bench.table(found)


def test_time_is_put_down_to_who_took_it(model, monkeypatch):
    """10 ms a token each: in Python, in the device's kernels, and waiting for bytes."""
    slow = 0.01
    device = type(model.device)
    reuse, run, parts = model._cache.reuse, device._run_segments, model._store.parts

    def slow_reuse(*arguments):
        time.sleep(slow)
        return reuse(*arguments)

    def slow_run(self, *arguments):
        time.sleep(slow)
        return run(self, *arguments)

    async def slow_parts(*arguments):
        await asyncio.sleep(slow)
        model._store.metrics.stalled_seconds += slow
        async for part in parts(*arguments):
            yield part

    monkeypatch.setattr(model._cache, "reuse", slow_reuse)
    monkeypatch.setattr(device, "_run_segments", slow_run)
    monkeypatch.setattr(model._store, "parts", slow_parts)
    found = call(bench.measure(model, 8, 6, repeat=1))
    (sample,) = found["samples"]
    assert sample["decode_stalled_seconds"] == pytest.approx(5 * slow)
    assert sample["stalled_seconds"] == found["stalled_seconds"] == pytest.approx(6 * slow)
    python = found["python_seconds_per_token"]
    for seconds in (python, sample["kernel_seconds"] / 5):
        assert seconds >= slow
    rest = sample["kernel_seconds"] + sample["decode_stalled_seconds"]
    assert rest + 5 * python == pytest.approx(sample["decode_seconds"])
    assert found["python_share"] == pytest.approx(5 * python / sample["decode_seconds"])


def test_a_model_is_usable_after_an_interruption(model):
    def stop(done, total):
        raise KeyError(done)

    with pytest.raises(KeyError):
        call(bench.measure(model, 8, 4, progress=stop))
    assert call(bench.measure(model, 8, 4))["generated_tokens"] == 4


def test_of_experts_no_bandwidth_is_claimed(tmp_path):
    with load(write_llama(tmp_path / "moe.gguf", experts=4), device="reference") as opened:
        found = call(bench.measure(opened.engine, 4, 3, repeat=1))
    assert found["read_bytes_per_second"] is None
    assert "achieved     unknown\n" in bench.table(found)


def test_lengths_that_do_not_fit_are_cut_with_a_note(model, caplog):
    found = call(bench.measure(model, 128, 40, repeat=1))
    assert (found["prompt_tokens"], found["generated_tokens"]) == (33, 32)
    (note,) = caplog.messages
    assert note == "the context holds 64: measuring 33 prompt and 32 new tokens, not 128 and 40"


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 200))
def test_cut_lengths_fit(prompt, new, context):
    """All positions are used, none more; what fits is left alone, and neither length falls below 1."""
    n_prompt, n_new = bench.fit(prompt, new, context)
    assert 1 <= n_prompt <= prompt
    assert 1 <= n_new <= new
    if prompt + new <= context + 1:
        assert (n_prompt, n_new) == (prompt, new)
    else:
        assert n_prompt + n_new == context + 1
        assert n_new == new or n_new >= (context + 1) // 2


def test_the_bound_is_the_promised_one(model):
    """What a pass touches, less the room that the budget leaves for weights; nothing where nothing lacks."""
    plan = model.plan
    rest = plan.kv_bytes + plan.state_bytes + plan.activation_bytes
    assert replace(plan, budget=rest + plan.touched_bytes).bytes_bound == 0
    assert replace(plan, budget=rest + plan.touched_bytes - 1000).bytes_bound == 1000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a peak of the process alone")
def test_peak_memory_is_not_that_of_whoever_started_us():
    ballast = np.ones(200 << 20, dtype=np.uint8)
    command = [sys.executable, "-c", "from wasmrt.bench import peak_rss_bytes; print(peak_rss_bytes())"]
    peak = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert 5 << 20 < peak < 100 << 20 < ballast.nbytes


def test_the_table_has_a_line_and_a_unit_for_each_figure(model, monkeypatch):
    monkeypatch.setattr(bench, "machine_read_bandwidth", lambda threads: 1e12)
    shown = bench.table(call(bench.measure(model, 8, 4, repeat=2)))
    lines = dict(line.split(maxsplit=1) for line in shown.replace(" token ", "_token ").splitlines())
    for name, unit in {"load": " s", "prefill": " tok/s", "decode": " tok/s", "achieved": " GB/s", "share": " %"}.items():
        assert unit in lines[name]
    assert "unknown" not in shown
    assert " to " in lines["decode"]
    assert all(len(line) < 100 for line in shown.splitlines())


# Beside llama.cpp


class Recorder:
    """Stands for a child process: notes who was asked for what, and answers with a speed of its own."""

    def __init__(self, name, seconds, log):
        self.name, self.seconds, self.log = name, seconds, log

    def ask(self, do, ids, n):
        self.log.append((self.name, do, ids[0], len(ids), n))
        return {
            "tokens": list(range(n)),
            "first_token_seconds": self.seconds,
            "decode_seconds": 2 * self.seconds,
            "overhead_seconds": 0.001,
            "idle_cpu_seconds": 0.0,
            "cpu_seconds": 0.0,
            "peak_rss_bytes": 100 * len(self.name),
        }


def test_the_schedule_alternates():
    assert bench_peers.schedule(["a", "b"], 2) == [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "a"), (2, "b")]


def test_turns_alternate_with_equal_prompts_and_the_first_is_not_counted(monkeypatch):
    monkeypatch.setattr(bench_peers, "SETTLE_SECONDS", 0)
    log = []
    children = [Recorder("wasmrt", 0.5, log), Recorder("llama.cpp", 0.25, log)]
    rounds = bench_peers.compare(children, 1000, 7, 5, 3)
    assert [entry[0] for entry in log] == ["wasmrt", "llama.cpp"] * 4
    assert len(rounds) == 3
    starts = [entry[1:] for entry in log]
    assert starts[0::2] == starts[1::2] == [("run", 1 + i, 7, 5) for i in range(4)]

    found = bench_peers.sum_up({name: {"about": "x", "load_seconds": 2.0} for name in bench_peers.NAMES}, rounds, 7, 5)
    ours = found["runtimes"]["wasmrt"]
    assert ours["prefill_tokens_per_second"]["median"] == 7 / 0.5
    assert ours["decode_tokens_per_second"]["median"] == 4 / 1.0
    assert found["ratios"]["decode_tokens_per_second"] == {"median": 0.5, "least": 0.5, "most": 0.5}
    assert found["ratios"]["peak_rss_bytes"] == 600 / 900
    assert found["same_tokens"] == [5, 5, 5]
    shown = bench_peers.table({"file": "f", "file_bytes": 5, "threads": 1, "prompt_tokens": 7, "generated_tokens": 5, **found})
    assert "0.50 (0.50 to 0.50)" in shown


def test_ratios_are_of_turns_side_by_side():
    """The machine at half its speed in rounds two and three: medians of the rates alone would say 0.5 and not 1."""
    assert bench_peers.ratios([8, 4, 4], [8, 4, 8]) == {"median": 1, "least": 0.5, "most": 1}
    assert bench_peers.middle([3, 1, 2, 10]) == {"median": 2.5, "least": 1, "most": 10}


def test_disturbed_rounds_are_repeated(monkeypatch):
    monkeypatch.setattr(bench_peers, "SETTLE_SECONDS", 0)
    children = [Recorder("wasmrt", 0.5, []), Recorder("llama.cpp", 0.25, [])]
    others = iter([9, 9, 0, 9, 9, 0, 0, 0, 0, 0.05])  # cores, of each turn; rounds 3 and 4 are quiet
    monkeypatch.setattr(bench_peers, "_turn", lambda child, ids, n: {"first": ids[0], "cores_of_others": next(others)})
    rounds = bench_peers.compare(children, 1000, 7, 5, 2, most_others=0.1)
    assert [found["wasmrt"]["first"] for found in rounds] == [4, 5]
    monkeypatch.setattr(bench_peers, "_turn", lambda child, ids, n: {"cores_of_others": 0.5})
    with pytest.raises(bench_peers.PeerError, match=r"0\.1 cores in all of 20 rounds"):
        bench_peers.compare(children, 1000, 7, 5, 2, most_others=0.1)


def test_equal_tokens_are_counted_up_to_the_first_difference():
    assert bench_peers.same_start([1, 2, 3], [1, 2, 3]) == 3
    assert bench_peers.same_start([1, 2, 3], [1, 9, 3]) == 1


def test_a_child_process_computes_and_says_what_went_wrong(path):
    """Our own runtime, as the comparison runs it: the same prompt twice would be refused, and a bad file is an error."""
    with bench_peers.started({"wasmrt": sys.executable}) as (child,):
        loaded = child.ask("load", file=str(path), threads=1, context=32, device="reference", repack=True)
        assert loaded["n_vocab"] == 96
        (found,) = bench_peers.compare([child], loaded["n_vocab"], 8, 5, 1)
        turn = found["wasmrt"]
        assert len(turn["tokens"]) == 5
        assert 0 < turn["overhead_seconds"] < turn["decode_seconds"]
        assert turn["peak_rss_bytes"] > 5 << 20
        with pytest.raises(bench_peers.PeerError, match="came from the cache"):
            child.ask("run", ids=bench_peers.prompt_ids(8, 96, 1), n=2)
        with pytest.raises(bench_peers.PeerError, match="wasmrt: SourceError"):
            child.ask("load", file=str(path) + "x", threads=1, context=32, device="reference", repack=True)
        child._process.kill()
        with pytest.raises(bench_peers.PeerError, match="wasmrt: its process ended with code"):
            child.ask("run", ids=[1], n=2)


def test_greedy_tokens_are_the_models_own(path):
    """What a child reports is what the model says after the same ids."""
    ids = bench_peers.prompt_ids(8, 96, 1)
    with bench_peers.started({"wasmrt": sys.executable}) as (child,):
        child.ask("load", file=str(path), threads=1, context=32, device="reference", repack=True)
        tokens = child.ask("run", ids=ids, n=3)["tokens"]
    with load(path, device="reference") as opened:
        assert tokens[0] == int(np.argmax(opened.logits(ids)[-1]))
        assert tokens[1] == int(np.argmax(opened.logits([*ids, tokens[0]])[-1]))


@pytest.mark.parametrize("python", [None, "nowhere/python"])
def test_a_missing_peer_is_one_line(path, monkeypatch, capsys, python):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    options = [] if python is None else ["--peer-python", python]
    assert bench_peers.main([str(path), *options]) == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert ("pip install" in errors) if python is None else ("cannot start nowhere/python" in errors)


@pytest.mark.parametrize(
    "options", [["-n", "1"], ["--rounds", "0"], ["--threads", "x"], ["--most-others", "-1"], ["--most-others", "nan"], ["more"]]
)
def test_wrong_arguments_are_refused(path, options, capsys):
    with pytest.raises(SystemExit) as exit:
        bench_peers.main([str(path), *options])
    assert exit.value.code == 2
    assert capsys.readouterr().out == ""


def test_a_missing_file_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench_peers.main(["nowhere.gguf"])
    assert "'nowhere.gguf' is no file" in capsys.readouterr().err


# Memory


def test_the_largest_cache_counts(tmp_path):
    for i, size in enumerate(["48K\n", "2048K\n", "32M\n"]):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(size)
    assert bench_memory.cache_bytes(tmp_path) == 32 << 20
    assert bench_memory.cache_bytes(tmp_path / "index0") == bench_memory.USUAL_CACHE


def test_memory_is_read_by_all_threads():
    rates = bench_memory.read_rates(3, 6 << 20, 4)
    assert len(rates) == 4
    assert all(math.isfinite(rate) and rate > 1e6 for rate in rates)
