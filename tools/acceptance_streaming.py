"""Rows of tools/acceptance.py about models larger than memory."""

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import wasmrt
from tools.acceptance_base import LARGE, SMALL, Found, Setup, Skip, apart, bench, compared, model_file
from wasmrt.bench import prompt_ids
from wasmrt.engine import Model

STREAM_BUDGET = "700MiB"  # for the large model: weights, cache and all
STREAM_ROUNDS = 3
DRAFT_TOKENS = 160


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
    """Tokens a second and ids. Random weights: this prompt's continuation soon repeats itself for the most part."""
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
