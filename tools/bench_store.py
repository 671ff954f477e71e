"""The layer store by itself: `python tools/bench_store.py` prints one table, and draws docs/store.png.

No kernels: a made-up model of equal segments, a drive of so many bytes a second, and a wait in place of computing. Each policy,
with and without reading ahead, is held against what no store can do better. A pass that touches all W weight bytes, of which M
have room in memory, reads at least W - M of them; it takes at least its computing, or reading that many. Passes are

    sequential     all segments once, in order, in a store just opened; then the store is closed
    random         all segments, in a new order each pass
    bidirectional  0 1 2, 1 2 3, 2 3 4, to the last
    inference      all segments in order, as the engine goes through them: each op runs as soon as its weights are there

Nobody waits for the drive, which is not there: where the program would sleep, its clock is put forward. What it computes, which
is the store's own work, counts in processor time. With --file a real file is read, around the system's page cache, on a real
clock.
"""

import argparse
import asyncio
import importlib.util
import itertools
import json
import random
import selectors
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from wasmrt.errors import WasmrtError  # noqa: E402  run as a script, from any folder
from wasmrt.store.fetcher import AT_ONCE  # noqa: E402
from wasmrt.store.file import BLOCK, FileSource  # noqa: E402
from wasmrt.store.layers import Entry, LayerTable, Segment  # noqa: E402
from wasmrt.store.memory import HostMemory, aligned  # noqa: E402
from wasmrt.store.plan import Plan, Sizes, make_plan  # noqa: E402
from wasmrt.store.predict import Cyclic, Learned, Predictor  # noqa: E402
from wasmrt.store.source import Source, check_arguments  # noqa: E402
from wasmrt.store.store import LayerStore, Part  # noqa: E402

PATTERNS = ("sequential", "random", "bidirectional", "inference")
POLICIES = ("plan", "lru", "belady")
RESIDENCIES = (25, 50, 75, 90)  # percent of the weights for which there is room
RATIOS = (4.0, 0.5)  # of reading all weights to a pass's computing
EXTENTS = 4  # of a segment: the plan's ring then holds two segments
EXTENT_BYTES = 8 << 20  # of a model of some GB the store reads pieces of about this size
SETTLE_PASSES = 2  # after the first, before those that count as warm
PICTURE = ROOT / "docs" / "store.png"

HOW_TO_GET_IT = "there is no picture, as matplotlib is not there: pip install 'wasmrt[bench]'"


# The drive and the clock


class Drive:
    """A source of nothing but time: reads share a bandwidth, in the order in which they come.

    It leaves the memory as it is: nobody looks at the bytes, and a drive's transfers take no processor time.
    """

    name = "<drive>"
    block = 1

    def __init__(self, size: int, bytes_per_second: float) -> None:
        self.size = size
        self._rate = bytes_per_second
        self._free_at = 0.0  # when all that was asked for so far has been read

    async def bypass_cache(self) -> None:
        pass

    async def read_into(self, offset: int, view: memoryview) -> None:
        check_arguments(self, offset, view)
        now = asyncio.get_running_loop().time()
        self._free_at = max(now, self._free_at) + len(view) / self._rate
        await asyncio.sleep(self._free_at - now)

    async def close(self) -> None:
        pass


class Skipping(selectors.SelectSelector):
    """Where others would sleep until the next timer, it says how much later it is."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout if timeout is None else 0)
        if not ready and timeout:
            self.skipped += timeout
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is the processor time of this process, and the sleep that was skipped.

    So other programs take no part in what is measured, and minutes of reading pass in the time that the store works for them.
    """

    def __init__(self) -> None:
        self._skipping = Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return time.process_time() + self._skipping.skipped


def real_loop() -> asyncio.AbstractEventLoop:
    """One that sleeps to the tenth of a millisecond: epoll, the usual selector, rounds up to whole ones."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


# The model


@dataclass(frozen=True)
class Model:
    """Equal segments behind an embedding of which nothing is read."""

    n_segments: int
    extent_bytes: int
    bytes_per_second: float
    block: int = 1

    @property
    def n_bytes(self) -> int:
        return self.n_segments * EXTENTS * self.extent_bytes

    @cached_property
    def table(self) -> LayerTable:
        return LayerTable((Segment("embedding", (), ((),)), *map(self._segment, range(self.n_segments))))

    def _segment(self, i: int) -> Segment:
        offsets = (self.extent_bytes * (EXTENTS * i + e) for e in range(EXTENTS))
        entries = tuple(Entry(f"blk.{i}.{e}", offset, self.extent_bytes) for e, offset in enumerate(offsets))
        return Segment(f"blk.{i}", entries, tuple((e,) for e in range(EXTENTS)))

    def plan(self, policy: str, residency: int) -> Plan:
        budget = self.n_bytes * residency // 100
        return make_plan(self.table, lambda _: Sizes((), (), ()), budget, 1, 1, policy=policy, block=self.block)


def passes_of(pattern: str, n: int, count: int) -> list[list[int]]:
    """Which of n segments each pass visits. The same for every policy."""
    if pattern == "bidirectional":
        return [[i + step for i in range(n - 2) for step in range(3)]] * count
    if pattern == "random":
        rng = random.Random(1)
        return [rng.sample(range(n), n) for _ in range(count)]
    return [list(range(n))] * count


# One case


@dataclass(frozen=True)
class Case:
    """One line of the table before it is measured."""

    ratio: float
    pattern: str
    policy: str
    prefetch: bool
    residency: int


class Run:
    """One store, from its opening on."""

    def __init__(self, model: Model, source: Source, case: Case, predictor: Predictor) -> None:
        self.plan = model.plan(case.policy, case.residency)
        self._memory = HostMemory(aligned(self.plan.total_bytes))
        tables = [array("q", [0]) * len(segment.entries) for segment in model.table.segments]
        ahead = None if case.prefetch else 0
        self.store = LayerStore(source, model.table, self._memory, tables, self.plan, ahead, predictor)
        self._seconds = compute_seconds(model, case)
        self._n_parts = len(model.table.segments) if case.pattern == "inference" else 0

    async def go(self, visits: Sequence[int]) -> float:
        """One pass; returns its seconds."""
        clock = asyncio.get_running_loop().time
        started = clock()
        if self._n_parts:
            async for part in self.store.parts(self._n_parts):
                await asyncio.sleep(self._seconds * ops_in(part) / EXTENTS)
        else:
            for segment in visits:
                await self.store.pin(segment + 1)
                await asyncio.sleep(self._seconds)
                self.store.unpin(segment + 1)
        return clock() - started

    def counts(self) -> dict[str, int]:
        metrics = self.store.metrics
        return {"bytes_read": metrics.bytes_read, "stalls": metrics.stalls, "demand_loads": metrics.demand_loads}

    async def close(self) -> None:
        await self.store.close()
        self._memory.close()


def compute_seconds(model: Model, case: Case) -> float:
    """Of one visit to a segment, so that visiting all of them once is in the wanted ratio to reading all."""
    return model.n_bytes / model.bytes_per_second / case.ratio / model.n_segments


def ops_in(part: Part) -> int:
    """Ops of a part that compute; the embedding's only op does not."""
    whole = sum(EXTENTS for segment in part.segments if segment > 0)
    first, last = part.segments[0], part.segments[-1]
    return whole - (part.ops.start if first > 0 else 0) - (EXTENTS - part.ops.stop if last > 0 else 0)


async def measure(model: Model, source: Source, case: Case, warm: int) -> dict[str, Any]:
    """The first pass, and the mean of `warm` later ones, with what these counted."""
    predictor = Cyclic(model.n_segments + 1) if case.pattern == "inference" else Learned()
    if case.pattern == "sequential":
        return await _measure_opens(model, source, case, warm, predictor)
    first, *others = passes_of(case.pattern, model.n_segments, 1 + SETTLE_PASSES + warm)
    run = Run(model, source, case, predictor)
    try:
        cold = await run.go(first)
        for visits in others[:SETTLE_PASSES]:
            await run.go(visits)
        before = run.counts()
        seconds = sum([await run.go(visits) for visits in others[SETTLE_PASSES:]])
        counts = {name: (value - before[name]) / warm for name, value in run.counts().items()}
    finally:
        await run.close()
    return row(model, case, run.plan, len(first), cold, seconds / warm, counts)


async def _measure_opens(model: Model, source: Source, case: Case, warm: int, predictor: Predictor) -> dict[str, Any]:
    """Passes each in a store of its own. What the predictor learned in the first it still knows in those after it."""
    (visits,) = passes_of(case.pattern, model.n_segments, 1)
    seconds, counts = [], []
    for _ in range(1 + warm):
        run = Run(model, source, case, predictor)
        try:
            seconds.append(await run.go(visits))
            counts.append(run.counts())
        finally:
            await run.close()
    mean = {name: sum(count[name] for count in counts[1:]) / warm for name in counts[0]}
    return row(model, case, run.plan, len(visits), seconds[0], sum(seconds[1:]) / warm, mean)


def row(
    model: Model, case: Case, plan: Plan, visits: int, cold: float, warm: float, counts: dict[str, float]
) -> dict[str, Any]:
    """All figures of a case, a pass."""
    bytes_bound = model.n_bytes if case.pattern == "sequential" else plan.bytes_bound  # a store just opened has nothing
    seconds_bound = max(visits * compute_seconds(model, case), bytes_bound / model.bytes_per_second)
    return {
        **asdict(case),
        "cold_seconds": cold,
        "warm_seconds": warm,
        **counts,
        "visits": visits,
        "hit_rate": 1 - counts["stalls"] / visits,
        "staging_bytes": plan.staging_bytes,
        "bytes_bound": bytes_bound,
        "seconds_bound": seconds_bound,
        "bytes_over_bound": counts["bytes_read"] / bytes_bound,
        "time_over_bound": warm / seconds_bound,
    }


# All cases


def cases_of(ratios: Sequence[float], patterns: Sequence[str], policies: Sequence[str], shares: Sequence[int]) -> list[Case]:
    return [Case(*case) for case in itertools.product(ratios, patterns, policies, (True, False), shares)]


def measure_all(model: Model, cases: Sequence[Case], warm: int) -> list[dict[str, Any]]:
    """With a drive that is not there."""
    return [run(SimulatedLoop, measure(model, Drive(model.n_bytes, model.bytes_per_second), c, warm)) for c in progress(cases)]


async def measure_file(path: Path, n_segments: int, cases: Sequence[Case], warm: int) -> tuple[Model, list[dict[str, Any]]]:
    """With the beginning of a real file, as much of it as a model has."""
    source = await FileSource.open(path)
    try:
        await source.bypass_cache()
        n_bytes = min(EXTENT_BYTES, source.size // (n_segments * EXTENTS)) // BLOCK * BLOCK
        if n_bytes == 0:
            least = n_segments * EXTENTS * BLOCK
            raise ValueError(f"{path} has {source.size} bytes, and {n_segments} segments need {least}; name a larger file")
        model = Model(n_segments, n_bytes, await read_rate(source, n_segments * EXTENTS, n_bytes), source.block)
        return model, [await measure(model, source, case, warm) for case in progress(cases)]
    finally:
        await source.close()


async def read_rate(source: Source, n_extents: int, n_bytes: int) -> float:
    """Bytes a second of a file, with as many reads in flight as the store has."""
    memory = HostMemory(AT_ONCE * n_bytes + BLOCK)
    start = -(-memory.allocate(memory.capacity) // BLOCK) * BLOCK
    started = time.perf_counter()

    async def reader(which: int) -> None:
        for i in range(which, n_extents, AT_ONCE):
            await source.read_into(i * n_bytes, memory.view(start + which * n_bytes, n_bytes))

    await asyncio.gather(*map(reader, range(AT_ONCE)))
    memory.close()
    return n_extents * n_bytes / (time.perf_counter() - started)


def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], work: Any) -> Any:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(work)


def progress(cases: Sequence[Case]) -> Any:
    from tqdm import tqdm

    return tqdm(cases, unit=" case", disable=None, leave=False)


# What is said of it


COLUMNS = "pattern        policy  ahead resident   cold s   warm s  read/bound     hits  stalls  demand  time/bound"


def table(result: dict[str, Any]) -> str:
    mib, speed = result["n_bytes"] / 2**20, result["bytes_per_second"] / 1e6
    lines = [
        f"{result['n_segments']} segments, {mib:.0f} MiB, read at {speed:.0f} MB/s; cold is the first pass, all other "
        f"figures are of a later one (mean of {result['passes']})"
    ]
    for ratio, rows in itertools.groupby(result["rows"], key=lambda row: row["ratio"]):
        lines += ["", f"reading all takes {ratio:g} times the computing", COLUMNS]
        lines += [
            f"{r['pattern']:14} {r['policy']:7} {'yes' if r['prefetch'] else 'no':5} {r['residency']:7}% "
            f"{r['cold_seconds']:8.3f} {r['warm_seconds']:8.3f} {r['bytes_over_bound']:11.2f} {100 * r['hit_rate']:7.0f}% "
            f"{r['stalls']:7.1f} {r['demand_loads']:7.1f} {r['time_over_bound']:11.2f}"
            for r in rows
        ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratio", type=float, nargs="+", default=RATIOS, metavar="R",
                        help="seconds that reading all weights takes over those of a pass's computing (default: 2 0.5)")
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=PATTERNS, metavar="NAME")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES, metavar="NAME")
    parser.add_argument("--resident", type=int, nargs="+", default=RESIDENCIES, metavar="PERCENT", help="of the weights")
    parser.add_argument("--segments", type=int, default=64, metavar="N", help=f"of {EXTENTS} extents each (default: 64)")
    parser.add_argument("--bandwidth", type=float, default=2000, metavar="MB/S", help="of the drive (default: 2000)")
    parser.add_argument("--passes", type=int, default=3, metavar="N", help="in the steady state (default: 3)")
    parser.add_argument("--file", type=Path, help="read this file instead, on a real clock")
    parser.add_argument("--quick", action="store_true", help="fewer segments, one ratio, no picture: to see that it works")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and no table")
    parser.add_argument("--plot", type=Path, default=PICTURE, metavar="PNG", help="where to draw (default: docs/store.png)")
    args = parser.parse_args()
    if args.segments < 12 or args.passes < 1 or min(args.ratio) <= 0 or args.bandwidth <= 0:
        parser.error("--segments begins at 12, --passes at 1, and --ratio and --bandwidth are above 0")
    if not all(0 < share < 100 for share in args.resident):
        parser.error("--resident is above 0 and below 100: what is wholly in memory is not streamed")
    if args.quick:
        args.segments, args.passes, args.ratio = 16, 2, RATIOS[:1]
    cases = cases_of(args.ratio, args.patterns, args.policies, args.resident)
    try:
        if args.file:
            model, rows = run(real_loop, measure_file(args.file, args.segments, cases, args.passes))
        else:
            model = Model(args.segments, EXTENT_BYTES, args.bandwidth * 1e6)
            rows = measure_all(model, cases, args.passes)
    except (WasmrtError, ValueError) as error:
        print(f"bench_store: {error}", file=sys.stderr)
        return 1
    found = {
        "n_segments": model.n_segments, "n_bytes": model.n_bytes, "bytes_per_second": model.bytes_per_second,
        "passes": args.passes, "rows": rows,
    }  # fmt: skip
    print(json.dumps(found) if args.json else table(found))
    if not args.quick:
        draw_if_possible(found, args.plot)
    return 0


def draw_if_possible(found: dict[str, Any], path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        print(f"bench_store: {HOW_TO_GET_IT}", file=sys.stderr)
        return
    from tools.plot_store import draw  # imports matplotlib

    draw(found, path)


if __name__ == "__main__":
    sys.exit(main())
