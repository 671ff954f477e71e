"""Measures, once on each GPU, which kernels give a product of one row of x soonest: what gpu_tune.py keeps.

A weight of some mebibytes is multiplied again and again. What it holds does not matter, but all variants must get the same.
About a second at most; what time has run out for stays at its default until another model asks for it.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from wasmrt.device.gpu_host import Adapter, GpuHost, Range, Shaders, Use
from wasmrt.device.gpu_layout import LAYOUTS
from wasmrt.device.gpu_matmul import INTS_BYTES, constants_of, dot_files, reduce_file
from wasmrt.device.gpu_steps import ceil_div, fold, words
from wasmrt.device.gpu_tune import Key, Variant, lengths, remember, tuning_of
from wasmrt.errors import DeviceError
from wasmrt.program.ops import Program

SECONDS = 1.0  # for all that is measured at once
WEIGHT_BYTES = 16 << 20  # more than most caches hold, read in a fraction of a millisecond
MOST_ROWS = 32768
MEASURED = 0.002  # seconds that a measurement takes at least, but for MOST_REPEATS
TRIPS = 8  # to the GPU and back, that it takes at least: a page's are longer, and no two the same
LONGEST_TRIP = 0.003  # seconds; with more nothing is told apart in the time that there is. Firefox looks every 4 ms
MOST_REPEATS = 64
ROUNDS = 3
COMPARED = 1024  # elements of the result
PATTERN = 0x3BDF3BDF  # bits of random words: no f16, bf16 or f32 in them, nor a byte as exponent, is NaN, infinite or large
CLEARLY = 0.9  # of the time without it: what rounds x must take no more

# The most promising first: where time runs out, the rest is not tried.
CANDIDATES = (
    Variant(),
    Variant(64, 32, 4), Variant(64, 32, 4, subgroup=True), Variant(64, 16, 4), Variant(64, 64, 4, subgroup=True),
    Variant(64, 32, 2, subgroup=True), Variant(128, 32, 4, subgroup=True), Variant(64, 32, 2), Variant(128, 16, 4),
    Variant(256, 32, 2, subgroup=True), Variant(64, 32, 1, subgroup=True), Variant(256, 64, 4),
)  # fmt: skip


def missing(adapter: Adapter, programs: Sequence[Program]) -> dict[Key, int]:
    """What these programs multiply with that was never measured on this GPU; nothing where a program imitates one."""
    if adapter.software:
        return {}
    matrices = [(w.type.name, w.shape[0]) for p in programs for w in p.weights if len(w.shape) > 1 and w.type.name in LAYOUTS]
    found = lengths((name, LAYOUTS[name].units(n)) for name, n in matrices)
    return {key: units for key, units in found.items() if key not in tuning_of(adapter).chosen}


async def prepare(adapter: Adapter, make_host: Callable[[], GpuHost], programs: Sequence[Program], ints: bool = False) -> None:
    """Measure what is missing for these programs, before anything is planned or compiled. ints: x may be rounded."""
    if wanted := missing(adapter, programs):
        host = make_host()
        try:
            await tune(host, wanted, ints=ints)
        finally:
            host.close()


async def tune(host: GpuHost, wanted: dict[Key, int], seconds: float = SECONDS, ints: bool = False) -> None:
    """Measure and remember the fastest variant for each of (format, length) with so many units a row."""
    trip = await trip_seconds(host)
    if trip > LONGEST_TRIP:
        return
    bench = Bench(host, max(MEASURED, TRIPS * trip))
    end = time.perf_counter() + seconds
    found: dict[Key, Variant] = {}
    for i, (key, units) in enumerate(sorted(wanted.items())):
        share = (end - time.perf_counter()) / (len(wanted) - i)
        if share <= 0:
            break
        found[key] = await fastest(bench, key[0], units, ints, time.perf_counter() + share)
    bench.free()
    remember(host.adapter, found)


async def trip_seconds(host: GpuHost) -> float:
    """To a GPU that has nothing to do, and back: what takes longer now and then is left out, and what comes early by chance."""
    trips = []
    for _ in range(7):
        start = time.perf_counter()
        await host.done()
        trips.append(time.perf_counter() - start)
    return sorted(trips)[2]


async def fastest(bench: "Bench", name: str, units: int, ints: bool, end: float) -> Variant:
    times: dict[Variant, float] = {}
    right: Sequence[float] = ()
    for variant in bench.candidates():
        if times and time.perf_counter() > end:
            break
        with suppress(DeviceError):  # one that this driver does not compile is not chosen
            seconds, got = await bench.measure(name, units, variant)
            right = right or got
            if agree(got, right):
                times[variant] = seconds
    best = min(times, key=times.__getitem__, default=Variant())
    if ints and times and not LAYOUTS[name].is_float:
        rounded = replace(best, ints=True)
        with suppress(DeviceError):
            seconds, _ = await bench.measure(name, units, rounded)
            best = rounded if seconds < CLEARLY * times[best] else best
    return best


def agree(got: Sequence[float], right: Sequence[float]) -> bool:
    """Whether two results differ by no more than sums in another order do. (A wrong order of threads would show.)"""
    largest = max(map(abs, right))
    return all(abs(a - b) <= 1e-3 * largest for a, b in zip(got, right, strict=True))


@dataclass(frozen=True, slots=True)
class Run:
    """A dispatch to be measured."""

    dispatch: tuple[Any, Any, int, int, int]
    y: Range


class Bench:
    """Products of one row of x, and the buffers that they need."""

    def __init__(self, host: GpuHost, measured: float = MEASURED) -> None:
        """measured: seconds that a measurement takes at least."""
        self.host, self.shaders, self.tuning = host, Shaders(host), tuning_of(host.adapter)
        self.measured = measured
        n_bytes = min(WEIGHT_BYTES, host.limits.binding)
        block = pattern(1 << 16)
        self.weight = self._filled(block, n_bytes)
        self.x = self._filled(block, 1 << 20)
        self.y = host.buffer(4 * MOST_ROWS), 0, 4 * MOST_ROWS
        self.params = host.buffer(256, Use.STATE), 0, 80
        self.state = host.buffer(16, Use.STATE), 0, 16
        host.write(self.state[0], 0, words(1, 0, 1, 1))

    def _filled(self, block: bytes, n_bytes: int) -> Range:
        made = self.host.buffer(n_bytes)
        for at in range(0, n_bytes, len(block)):
            self.host.write(made, at, block[: n_bytes - at])
        return made, 0, n_bytes

    def free(self) -> None:
        for buffer, _, _ in (self.weight, self.x, self.y, self.params, self.state):
            self.host.free(buffer)

    def candidates(self) -> Iterator[Variant]:
        for variant in CANDIDATES:
            if variant.wg <= self.host.limits.invocations and (not variant.subgroup or "subgroups" in self.host.features):
                yield variant

    async def measure(self, name: str, units: int, variant: Variant) -> tuple[float, Sequence[float]]:
        """Seconds that a product takes, and the beginning of what it gives."""
        run = self._run(name, units, variant)
        await self._seconds(run, 1)                                  # whatever a driver does at the first use
        one = await self._seconds(run, 1)
        repeats = max(1, min(MOST_REPEATS, round(self.measured / max(one, 1e-6))))
        best = min([await self._seconds(run, repeats) for _ in range(ROUNDS)]) / repeats
        data = await self.host.read(run.y[0], 0, 4 * COMPARED)
        return best, data.cast("f").tolist()

    def _run(self, name: str, units: int, variant: Variant) -> Run:
        layout = LAYOUTS[name]
        row_bytes = max(layout.a_row_bytes(32 * units), layout.b_row_bytes(32 * units))
        n_rows = max(1, min(MOST_ROWS, self.weight[2] // row_bytes))
        files = (*dot_files(layout, variant, "x_plain"), "pick_plain", reduce_file(variant), "out_plain", "matmul")
        constants = constants_of(self.tuning, variant, units)
        shader = self.shaders.get("common", *files, **constants, GATE=0)
        self.host.write(self.params[0], 0, words(units, 32 * units, n_rows, 0, 0, n_rows, 0, 0.0, *[0] * 12))
        size = INTS_BYTES * units if variant.ints else 128 * units
        ranges = [self.params, self.state, self.weight, self.weight, (self.x[0], 0, size), self.y]
        group = self.host.group(shader.bindings, ranges)
        grid = fold(ceil_div(n_rows, variant.wg // int(constants["LANES"]) * variant.rows), self.host.limits)
        return Run((shader.pipeline, group, *grid), self.y)

    async def _seconds(self, run: Run, repeats: int) -> float:
        await self.host.done()
        start = time.perf_counter()
        self.host.submit([run.dispatch] * repeats)
        await self.host.done()
        return time.perf_counter() - start


def pattern(n_bytes: int) -> bytes:
    """Random, the same each time."""
    words_of = random.Random(1).getrandbits(8 * n_bytes)
    mask = int.from_bytes(PATTERN.to_bytes(4, "little") * (n_bytes // 4), "little")
    return (words_of & mask).to_bytes(n_bytes, "little")
