"""What only models of real size show, in one table: `python tools/acceptance.py [ROW ...]`, or `make acceptance`.

Speed against the machine's memory and against llama.cpp, memory, cancelling, leaks, addresses past 4 GiB. Models have random
weights, are made when first needed and kept in the folder of --models, as SHAPE.QUANT.gguf. Speeds say little on a machine that
does something else. What cannot be measured is skipped, with the reason. Exits with 1 if a row fails, 130 when interrupted.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import operator
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import wasmrt  # noqa: E402  run as a script, from any folder
from tools import bench_peers, make_test_model  # noqa: E402
from wasmrt.bench import prompt_ids  # noqa: E402
from wasmrt.engine import CHUNK, Model  # noqa: E402

T = TypeVar("T")

SMALL = ("tinyllama-1.1b", "Q4_K_M")
LARGE = ("llama-2-7b", "Q4_K_M")  # 4.1 GB, more than 32-bit addresses are used for
LARGE_MEMORY = 6 * 10**9  # bytes that must be free to run it
SPARE_DISK = 10**9  # bytes left free beside a new model
OVERHEAD = 150 * 10**6  # of a process beside weights and cache: Python, libraries, activations
BENCH_RUNS = 3  # each measures decoding and bandwidth in the same seconds, as that of a shared machine changes
LONG_PROMPT = 2048
MOMENTS = ((0, 0.1), (1, 0.7), (3, 0.3), (5, 0.5), (7, 0.2))  # of a cancel: passes that are over, and how much of the next
WARM_UP, GENERATIONS = 100, 1000
STREAM_BUDGET = "700MiB"  # for the large model: weights, cache and all
STREAM_ROUNDS = 3
DRAFT_TOKENS = 160
DECODE, PREFILL = "decode_tokens_per_second", "prefill_tokens_per_second"
SIGNS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, "<": operator.lt}


class Skip(Exception):
    """A row cannot be measured here; the text says why."""


class Found(NamedTuple):
    """What a row gives."""

    measured: str
    target: str
    ok: bool
    note: str = ""


class Setup(NamedTuple):
    """What the command was told. most_others: cores that other processes may take in a round that counts."""

    models: Path
    large: bool = True
    peer_python: str | None = None
    most_others: float = 0.1


def compared(value: float, sign: str, limit: float, unit: str = "", note: str = "") -> Found:
    """A figure against its limit. What is no number meets none."""
    return Found(f"{value:.2f} {unit}".rstrip(), f"{sign} {limit:g} {unit}".rstrip(), SIGNS[sign](value, limit), note)


def model_file(setup: Setup, shape: str, quant: str) -> Path:
    """A model of this shape, made if it is not there. Raises Skip if the disk has no room for it."""
    path = setup.models.resolve() / f"{shape}.{quant}.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        n_bytes = sum(tensor.n_bytes for tensor in make_test_model.tensors(make_test_model.SHAPES[shape], quant))
        free = shutil.disk_usage(path.parent).free
        if free < n_bytes + SPARE_DISK:
            raise Skip(f"{path.name} takes {_gb(n_bytes)} of disk, and {_gb(SPARE_DISK)} must stay free; {_gb(free)} are")
        _say(f"making {path}: {_gb(n_bytes)}")
        make_test_model.write_model(path, shape, quant)
    return path


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a new process, whose memory is that of the function alone."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def bench(file: Path, *options: str) -> dict[str, Any]:
    """The figures of `wasmrt bench` on the cpu device, with its default threads."""
    command = [sys.executable, "-m", "wasmrt", "bench", str(file), "--device", "cpu", "--json", *options]
    found: dict[str, Any] = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return found


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
        raise Skip(f"needs {_gb(LARGE_MEMORY)} of memory; {_gb(free)} are available" if setup.large else "--no-large")
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


# Models larger than memory


def stream_memory(setup: Setup) -> Found:
    """memory of a process that runs the large model within a budget of a sixth of its weights"""
    found = streaming_bench(setup)
    plan = found["plan"]
    note = f"weights {plan['touched_bytes'] / 1e9:.2f} GB, budget {STREAM_BUDGET}, {plan['total_bytes'] / 2**20:.0f} MiB used"
    return compared(found["peak_rss_bytes"] / 2**20, "<=", 1024, "MiB", note)


def stream_bytes(setup: Setup) -> Found:
    """what a pass reads, over what memory lacks of the weights; the promise is 1.05 times that and 64 MiB"""
    found = streaming_bench(setup)
    bound = found["bytes_bound"]
    note = f"{found['bytes_per_pass'] / 1e9:.3f} GB a pass, {bound / 1e9:.3f} GB lacking"
    return compared(found["bytes_per_pass"] / bound, "<=", round(1.05 + (64 << 20) / bound, 3), note=note)


@cache
def streaming_bench(setup: Setup) -> dict[str, Any]:
    sizes = ("--memory", STREAM_BUDGET, "--context", "256", "--prompt-tokens", "8", "-n", "5")
    return bench(large_file(setup), *sizes, "--repeat", "1", "--draft", "0")


def large_file(setup: Setup) -> Path:
    if not setup.large:
        raise Skip("--no-large")
    return model_file(setup, *LARGE)


def stream_open(setup: Setup) -> Found:
    """opening the large model within that budget, after import; memory above the interpreter's"""
    seconds, above = map(statistics.median, zip(*(apart(opening, large_file(setup)) for _ in range(5)), strict=True))
    found = compared(above / 2**20, "<=", 60, "MiB", f"and {seconds:.3f} s, at most 0.2")
    return found._replace(ok=found.ok and seconds < 0.2)


def opening(file: Path) -> tuple[float, float]:
    """Seconds, and bytes at the peak above what the imported interpreter has."""
    import psutil
    import wasmtime  # noqa: F401  what open() imports

    import wasmrt.device.cpu_native
    import wasmrt.engine
    from wasmrt.bench import peak_rss_bytes

    before, started = psutil.Process().memory_info().rss, time.perf_counter()
    wasmrt.load(file, memory=STREAM_BUDGET, context=256).close()
    return time.perf_counter() - started, (peak_rss_bytes() or 0) - before


def stream_time(setup: Setup) -> Found:
    """a token's time over the longer of computing and of the same reads alone, the worse of first and later ones"""
    found = apart(streaming_times, large_file(setup))
    first, later = (found[name] for name in ("first", "later"))
    note = (
        f"first {first[0]:.2f} s (reads alone {first[1]:.2f}, computing {first[2]:.2f}), "
        f"later {later[0]:.2f} s ({later[1]:.2f}, {later[2]:.2f})"
    )
    return compared(max(took / max(reads, computing) for took, reads, computing in (first, later)), "<=", 1.15, note=note)


def streaming_times(file: Path) -> dict[str, tuple[float, float, float]]:
    """Medians of (a token, its reads without computing, its computing with all weights in memory), in seconds, in turns."""

    async def timed(model: Model, prompt: Sequence[int], n: int) -> list[float]:
        generation, times = model.generate(prompt, max_tokens=n), []
        for _ in range(n):
            started = time.perf_counter()
            await anext(generation)
            times.append(time.perf_counter() - started)
        return times

    async def reads_alone(model: Model, n: int) -> list[float]:
        """Passes that ask for everything in turn and compute nothing."""
        times = []
        for _ in range(n):
            started = time.perf_counter()
            async with contextlib.aclosing(model._store.parts(len(model._bounds))) as parts:
                async for _part in parts:
                    pass
            times.append(time.perf_counter() - started)
        return times

    async def measure() -> dict[str, tuple[float, float, float]]:
        options: dict[str, Any] = {"device": "cpu", "context": 256}
        rounds: dict[str, list[list[float]]] = {name: [[], [], []] for name in ("first", "later")}
        prompt = prompt_ids(1, 1000, 0)
        for _ in range(STREAM_ROUNDS):
            for name, passes in (("first", 1), ("later", 4)):
                async with await wasmrt.open(file, memory=STREAM_BUDGET, draft=0, **options) as model:
                    times = await timed(model, prompt, passes)
                    rounds[name][0].append(statistics.median(times[1:] or times))
                async with await wasmrt.open(file, memory=STREAM_BUDGET, draft=0, **options) as model:
                    times = await reads_alone(model, passes)
                    rounds[name][1].append(statistics.median(times[1:] or times))
        async with await wasmrt.open(file, **options) as model:
            times = await timed(model, prompt, 9)
            rounds["first"][2], rounds["later"][2] = times[:1], times[1:]
        return {name: tuple(map(statistics.median, lists)) for name, lists in rounds.items()}  # type: ignore[misc]

    return asyncio.run(measure())


def stream_drafts(setup: Setup) -> Found:
    """tokens a second with guessed tokens over without, on a text that repeats itself, a quarter of the weights in memory"""
    (with_drafts, ids), (without, same) = (apart(drafted, model_file(setup, *SMALL), draft) for draft in (None, 0))
    note = f"{with_drafts:.2f} and {without:.2f} tok/s, {'the same' if ids == same else 'OTHER'} ids"
    found = compared(with_drafts / without, ">=", 2, note=note)
    return found._replace(ok=found.ok and ids == same)


def drafted(file: Path, draft: int | None) -> tuple[float, list[int]]:
    """Tokens a second and ids. Random weights: after some tokens this prompt's continuation repeats itself for the most part."""
    with wasmrt.load(file, device="cpu", context=512, memory=share_of(file, 0.25, 512), draft=draft) as model:
        generation = model.generate([24248, 17004] * 10, max_tokens=DRAFT_TOKENS)
        list(generation)
        return generation.stats.decode_tokens_per_second, generation.tokens


def share_of(file: Path, share: float, context: int) -> int:
    """The budget that holds this share of the weights that a pass touches."""
    from wasmrt.options import EngineOptions
    from wasmrt.planning import examine
    from wasmrt.sync import call

    plan = call(examine(file, EngineOptions(device="cpu", memory=1 << 50, context=context), 1.0, 1.0))
    others: int = plan["kv_bytes"] + plan["state_bytes"] + plan["activation_bytes"]
    return int(share * plan["touched_bytes"]) + others


def stream_ids(setup: Setup) -> Found:
    """budgets, policies and ways of reading ahead that give the ids of the resident model"""
    file = model_file(setup, *SMALL)
    wanted = apart(greedy_ids, file, {})
    ways: list[dict[str, Any]] = [{"memory": share_of(file, share, 64)} for share in (0.1, 0.25, 0.5, 0.75, 0.9)]
    others = itertools.product(("plan", "lru", "belady"), (0, 2, None))
    ways += [{**ways[1], "policy": policy, "prefetch": prefetch} for policy, prefetch in others]
    same = sum(apart(greedy_ids, file, way) == wanted for way in ways)
    return Found(f"{same} of {len(ways)}", "all", same == len(ways), f"{len(wanted)} ids each")


def greedy_ids(file: Path, options: dict[str, Any]) -> list[int]:
    with wasmrt.load(file, device="cpu", context=64, **options) as model:
        generation = model.generate(prompt_ids(8, 1000, 0), max_tokens=12)
        list(generation)
        return generation.tokens


def policies(setup: Setup) -> Found:
    """a token's time with the plan over that with lru, three quarters of the weights in memory, reading in the way"""
    file = model_file(setup, *SMALL)
    memory = share_of(file, 0.75, 64)
    plan, lru = (statistics.median(apart(token_seconds, file, memory, policy) for _ in range(3)) for policy in ("plan", "lru"))
    return compared(lru / plan, ">=", 2, "times", f"{1e3 * plan:.0f} and {1e3 * lru:.0f} ms a token")


def token_seconds(file: Path, memory: int, policy: str) -> float:
    with wasmrt.load(file, device="cpu", context=64, memory=memory, policy=policy, draft=0) as model:
        generation = model.generate(prompt_ids(2, 1000, 0), max_tokens=12)
        list(generation)
        return generation.stats.decode_seconds / generation.stats.decode_steps


Row = Callable[[Setup], Found]
_ALL: tuple[Row, ...] = (
    decode_bandwidth, python_share, peak_rss, cancel, leak, load_64, peers_decode, peers_prefill, wasm64_speed,
    stream_memory, stream_bytes, stream_open, stream_time, stream_drafts, stream_ids, policies,
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


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"


def _say(text: str) -> None:
    print(f"acceptance: {text}", file=sys.stderr, flush=True)


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
            _say(name)
            lines.append((name, *judged(ROWS[name], setup)))
    except KeyboardInterrupt:
        return 130
    print(table([("row", "measured", "target", "", ""), *lines]), end="")
    return 1 if any(line[3] == "FAIL" for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
