"""What only models of real size show, in one table: `python tools/acceptance.py [ROW ...]`, or `make acceptance`.

Speed against the machine's memory, llama.cpp and wllama, memory, cancelling, leaks, addresses past 4 GiB, a browser. Models
have random weights, are made when first needed and kept in the folder of --models, as SHAPE.QUANT.gguf. Speeds say little on a
machine that does something else. What cannot be measured is skipped, with the reason. Exits with 1 if a row fails, 130 when
interrupted.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import wasmrt  # noqa: E402  run as a script, from any folder
from tools import acceptance_browser as browser  # noqa: E402
from tools import acceptance_streaming as streaming  # noqa: E402
from tools import bench_peers  # noqa: E402
from tools.acceptance_base import LARGE, SMALL, Found, Setup, Skip, apart, bench, compared, gb, model_file, say  # noqa: E402
from wasmrt.bench import prompt_ids  # noqa: E402
from wasmrt.engine import CHUNK, Model  # noqa: E402

LARGE_MEMORY = 6 * 10**9  # bytes that must be free to run it
OVERHEAD = 150 * 10**6  # of a process beside weights and cache: Python, libraries, activations
BENCH_RUNS = 3  # each measures decoding and bandwidth in the same seconds, as that of a shared machine changes
LONG_PROMPT = 2048
MOMENTS = ((0, 0.1), (1, 0.7), (3, 0.3), (5, 0.5), (7, 0.2))  # of a cancel: passes that are over, and how much of the next
WARM_UP, GENERATIONS = 100, 1000
DECODE, PREFILL = "decode_tokens_per_second", "prefill_tokens_per_second"


# Rows


@cache
def decode_figures(setup: Setup) -> dict[str, float]:
    """Medians of several benches."""
    file = model_file(setup, *SMALL)
    runs = [bench(file, "--warmup") for _ in range(BENCH_RUNS)]
    names = ("read_share", "python_share", DECODE, "machine_read_bytes_per_second")
    return {name: statistics.median(run[name] for run in runs) for name in names}


def decode_bandwidth(setup: Setup) -> Found:
    """the weights that decoding reads, of what the machine can read"""
    figures = decode_figures(setup)
    note = f"{figures[DECODE]:.1f} tok/s; the machine reads {figures['machine_read_bytes_per_second'] / 1e9:.1f} GB/s"
    return compared(100 * figures["read_share"], ">=", 45, "%", note)


def python_share(setup: Setup) -> Found:
    """decoding's time outside of the device"""
    return compared(100 * decode_figures(setup)["python_share"], "<", 3, "%")


def peak_rss(setup: Setup) -> Found:
    """memory of a process that runs 512 prompt tokens and decodes 32"""
    # Of n new tokens, n - 1 are decoded: 512 + 32 positions.
    options = ("--prompt-tokens", "512", "-n", "33", "--context", "544", "--repeat", "1")
    found = bench(model_file(setup, *SMALL), *options)
    peak, weights, kv = found["peak_rss_bytes"], found["plan"]["weight_bytes"], found["plan"]["kv_bytes"]
    note = f"weights {weights / 1e6:.0f}, cache {kv / 1e6:.0f}, all else {(peak - weights - kv) / 1e6:.0f} MB"
    return compared(peak / 1e6, "<=", round((weights + kv + OVERHEAD) / 1e6), "MB", note)


def cancel(setup: Setup) -> Found:
    """until a prompt of 2,048 tokens has stopped, the worst of five moments"""
    times = [1e3 * seconds for seconds in apart(cancel_seconds, model_file(setup, *SMALL))]
    return compared(max(times), "<=", 200, "ms", ", ".join(f"{ms:.1f}" for ms in times))


def cancel_seconds(file: Path) -> list[float]:
    """How long cancelling takes at each of MOMENTS."""

    async def measure() -> list[float]:
        async with await wasmrt.open(file, device="cpu", context=LONG_PROMPT) as model:
            n_vocab, started = model.config.n_vocab, time.perf_counter()
            await anext(model.generate(prompt_ids(CHUNK, n_vocab, 0), max_tokens=1))
            a_pass = time.perf_counter() - started
            # Each prompt begins with another id, so that none finds its beginning in the cache.
            prompts = [prompt_ids(LONG_PROMPT, n_vocab, i) for i in range(1, 1 + len(MOMENTS))]
            return [await cancelled(model, *job, a_pass) for job in zip(prompts, MOMENTS, strict=True)]

    return asyncio.run(measure())


async def cancelled(model: Model, ids: Sequence[int], moment: tuple[int, float], a_pass: float) -> float:
    """Begin a prompt, cancel it at this moment; the seconds from then until it has stopped. a_pass: seconds."""
    goal = model.stats.passes + moment[0]
    task = asyncio.ensure_future(anext(model.generate(ids)))
    while model.stats.passes < goal and not task.done():  # noqa: ASYNC110  nobody is told of a pass's end
        await asyncio.sleep(0.001)
    await asyncio.sleep(moment[1] * a_pass)
    started = time.perf_counter()
    if not task.cancel():
        raise RuntimeError(f"the prompt ended before it was cancelled ({task.exception() or 'it is too short'})")
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return time.perf_counter() - started


def leak(setup: Setup) -> Found:
    """memory that a thousand short generations leave behind"""
    return compared(apart(leaked_bytes) / 1e6, "<", 5, "MB", f"{GENERATIONS} generations, after {WARM_UP}, of the demo model")


def leaked_bytes() -> int:
    """How much larger the process is after many generations than after some."""
    import psutil

    resident = []
    with wasmrt.load(device="cpu") as model:
        for n in (WARM_UP, GENERATIONS):
            for i in range(n):
                "".join(model.generate(f"Once upon a time {i}", max_tokens=8, temperature=0.8, seed=i))
            resident.append(int(psutil.Process().memory_info().rss))
    return resident[1] - resident[0]


def load_64(setup: Setup) -> Found:
    """a model too large for 32-bit addresses gets 64-bit ones by itself, and the same tokens with 1 and 2 threads"""
    import psutil

    free = psutil.virtual_memory().available
    if not setup.large or free < LARGE_MEMORY:
        raise Skip(f"needs {gb(LARGE_MEMORY)} of memory; {gb(free)} are available" if setup.large else "--no-large")
    file = model_file(setup, *LARGE)
    (build, one), (other, two) = (apart(first_tokens, file, threads) for threads in (1, 2))
    same = bench_peers.same_start(one, two)
    return Found(f"{build}, {same} same", "wasm64, 4 same", build == other == "wasm64" and same == 4, f"tokens {one} and {two}")


def first_tokens(file: Path, threads: int) -> tuple[str, list[int]]:
    """The build that is chosen for a file, and four greedy tokens."""
    with wasmrt.load(file, threads=threads, context=64) as model:
        generation = model.generate(prompt_ids(8, model.config.n_vocab, 0), max_tokens=4)
        list(generation)
        device: Any = model.engine.device
        return device._host.build, generation.tokens


@cache
def beside_llama_cpp(setup: Setup) -> dict[str, Any]:
    """What bench_peers measures, with the threads that wasmrt takes by itself. Raises Skip where there is no llama.cpp."""
    from wasmrt.device.cpu_native import default_threads

    try:
        there = bench_peers.has_peer(setup.peer_python)
    except bench_peers.PeerError as error:
        raise Skip(str(error)) from error
    if not there:
        raise Skip(bench_peers.HOW_TO_GET_IT)
    options = {"most_others": setup.most_others, "peer_python": setup.peer_python}
    preset = argparse.Namespace(device="cpu", threads=default_threads(1 << 40), **options)
    return bench_peers.measure(bench_peers.parser().parse_args([str(model_file(setup, *SMALL))], preset))


def over_llama_cpp(setup: Setup, rate: str, target: float) -> Found:
    found = beside_llama_cpp(setup)
    ours, theirs = (found["runtimes"][name][rate]["median"] for name in bench_peers.NAMES)
    note = f"{ours:.1f} and {theirs:.1f} tok/s, threads {found['threads']}, rounds {found['rounds']}"
    return compared(found["ratios"][rate]["median"], ">=", target, note=note)


def peers_decode(setup: Setup) -> Found:
    """speed of decoding, over llama.cpp's"""
    return over_llama_cpp(setup, DECODE, 0.6)


def peers_prefill(setup: Setup) -> Found:
    """speed of the prompt, over llama.cpp's"""
    return over_llama_cpp(setup, PREFILL, 0.25)


def wasm64_speed(setup: Setup) -> Found:
    """speed of decoding with 64-bit addresses, over 32-bit ones, in turns"""
    file, ours, builds = model_file(setup, *SMALL), {"wasmrt": sys.executable}, ("cpu:wasm64", "cpu:wasm32")
    n_prompt, n, rounds = 16, 64, 9
    with bench_peers.started(ours) as (a,), bench_peers.started(ours) as (b,):
        for child, build in zip((a, b), builds, strict=True):
            child.name = build
            loaded = child.ask("load", file=str(file), threads=None, context=n_prompt + n, device=build, repack=True)
        turns = bench_peers.compare((a, b), loaded["n_vocab"], n_prompt, n, rounds, setup.most_others)
    rates = [[bench_peers.rates(turn[build], n_prompt, n)[DECODE] for turn in turns] for build in builds]
    found = bench_peers.ratios(*rates)
    note = f"{found['least']:.2f} to {found['most']:.2f}; {' and '.join(f'{statistics.median(r):.1f}' for r in rates)} tok/s"
    return compared(found["median"], ">=", 0.85, note=note)


Row = Callable[[Setup], Found]
_ALL: tuple[Row, ...] = (
    decode_bandwidth, python_share, peak_rss, cancel, leak, load_64, peers_decode, peers_prefill, wasm64_speed,
    streaming.stream_memory, streaming.stream_bytes, streaming.stream_open, streaming.stream_time, streaming.stream_drafts,
    streaming.stream_ids, streaming.policies, *browser.ROWS,
)  # fmt: skip
ROWS = {row.__name__.replace("_", "-"): row for row in _ALL}


# The command


def judged(row: Row, setup: Setup) -> tuple[str, str, str, str]:
    """A row's cells: measured, target, verdict, note. What goes wrong is a failure of this row; the others go on."""
    try:
        found = row(setup)
    except Skip as reason:
        return "", "", "skip", str(reason)
    except Exception as error:
        return "", "", "FAIL", f"{type(error).__name__}: {error}".splitlines()[0]
    return found.measured, found.target, "pass" if found.ok else "FAIL", found.note


def table(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their cells."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join("  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("rows", nargs="*", metavar="ROW", help="what to measure (default: all)")
    p.add_argument("--list", action="store_true", help="say which rows there are")
    p.add_argument("--models", type=Path, default=ROOT / "build" / "models", metavar="DIR", help="default: build/models")
    p.add_argument("--no-large", action="store_true", help="skip what needs a model of 4.1 GB")
    p.add_argument("--peer-python", metavar="PATH", help="an interpreter that has llama-cpp-python (default: this one)")
    p.add_argument("--most-others", type=float, default=0.1, metavar="C", help="cores that others may take (default: 0.1)")
    args = p.parse_args(argv)
    if unknown := [name for name in args.rows if name not in ROWS]:
        p.error(f"no such row: {', '.join(unknown)}; there is: {', '.join(ROWS)}")
    if args.list:
        print(table([(name, row.__doc__ or "") for name, row in ROWS.items()]), end="")
        return 0
    setup = Setup(args.models, not args.no_large, args.peer_python, args.most_others)
    lines = []
    try:
        for name in args.rows or ROWS:
            say(name)
            lines.append((name, *judged(ROWS[name], setup)))
    except KeyboardInterrupt:
        return 130
    print(table([("row", "measured", "target", "", ""), *lines]), end="")
    return 1 if any(line[3] == "FAIL" for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
