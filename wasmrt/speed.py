"""How fast a model will run: what a plan reads and computes a token, over what the source gives and the kernels take.

The rates are measured in a moment, or given; the prediction itself is a pure function.
"""

import asyncio
import contextlib
import mmap
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from wasmrt.device.choice import Choice
from wasmrt.device.device import Uploading
from wasmrt.errors import DeviceError
from wasmrt.gguf.types import QuantType
from wasmrt.model.build import Built
from wasmrt.program.ops import Program
from wasmrt.program.record import Recorder
from wasmrt.store.layers import Entry, Kind, LayerTable, Segment
from wasmrt.store.plan import GpuLedger, OnGpu, Plan
from wasmrt.store.source import Source, fetched_of

READ_SECONDS = 0.2  # how long a source is measured
READ_BYTES = 64 << 20  # and how many bytes at most
FIRST_PIECE, PIECE = 256 << 10, 4 << 20  # of the first read and of any: a slow link has an answer in a moment, too
READERS = 4
PROBE_SECONDS = 0.4  # how long a download is tried
PROBE_BYTES, PROBE_SHARE = 8 << 20, 16  # of it, at most, and one part in so many of what is to come
PROBES = 8  # reads
COMPUTE_BYTES = 16 << 20  # of the weights that kernels are measured on: more than a core's own caches hold
COMPUTE_RUNS = 4
COMPUTE_SECONDS = 0.2  # after which there is no further run


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds that a token after the first takes, and what they go to."""

    seconds_per_token: float
    limit: str  # "reading" or "computing"
    reading_seconds: float  # a token
    computing_seconds: float
    read_bytes: int  # a token
    read_bytes_per_second: float | None  # None: nothing is read
    compute_bytes_per_second: float  # weights that kernels go through

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "tokens_per_second": 1 / self.seconds_per_token if self.seconds_per_token else None}


def predict(used_bytes: int, read_bytes: int, read_rate: float | None, compute_rate: float) -> Prediction:
    """Reading and computing overlap, so the longer of them is what a token takes.

    used_bytes: weights that a token computes with; read_bytes: those of them that are read anew. Rates in bytes per second.
    """
    reading = read_bytes / read_rate if read_bytes and read_rate else 0.0
    computing = used_bytes / compute_rate
    limit = "reading" if reading > computing else "computing"
    return Prediction(max(reading, computing), limit, reading, computing, read_bytes, read_rate, compute_rate)


def bytes_a_token(plan: Plan, table: LayerTable, n_used: int, n_experts: int) -> tuple[int, int]:
    """Weights that one token uses, and of these what is read, in bytes.

    Of experts a token uses n_used; how many of them are in their cache depends on the text: as many as of all, it is assumed.
    """
    everywhere = replace(table, device=frozenset()).extents  # with what they would be if none were on a GPU
    dense = sum(extent.n_bytes for extent in everywhere if extent.kind is Kind.DENSE)
    experts = sum(extent.n_bytes for extent in everywhere if extent.kind is Kind.EXPERT)
    share = n_used / n_experts if n_experts else 0.0
    resident = set(plan.parts.resident)
    streamed = sum(e.n_bytes for i, e in enumerate(table.extents) if e.kind is Kind.DENSE and i not in resident)
    lacking = sum(e.n_bytes for i, e in enumerate(table.extents) if e.kind is Kind.EXPERT and i not in resident)
    return dense + int(share * experts), streamed + int(share * max(0, lacking - plan.expert_cache_bytes))


async def predict_for(
    source: Source,
    built: Built,
    choice: Choice,
    plan: Plan,
    read_rate: float | None = None,
    compute_rate: float | None = None,
    measured: "Measured | None" = None,
) -> Prediction:
    """The prediction for a plan; rates that are not given are measured, or were: `measured` has them and gets them."""
    measured = Measured() if measured is None else measured
    used, read = bytes_a_token(plan, built.table, built.config.n_experts_used, built.config.n_experts)
    if read and read_rate is None:
        read_rate = await measured.reading(source, built.table)
    if compute_rate is None:
        compute_rate = await measured.computing(choice, built)
        if plan.gpu and used > plan.device_bytes:  # the others are copied to the GPU for each token
            copied = (used - plan.device_bytes) / await measured.computing(choice, built, stays=False)
            compute_rate = used / (plan.device_bytes / compute_rate + copied)
    return predict(used, read, read_rate if read else None, compute_rate)


class Measured:
    """Rates that were measured, so that another plan for the same device or source has them at once."""

    def __init__(self) -> None:
        self._computing: dict[tuple[object, ...], float] = {}
        self._reading: tuple[object, float] | None = None  # of the source that was measured last
        self._arriving: tuple[object, float | None] | None = None

    async def computing(self, choice: Choice, built: Built, stays: bool = True) -> float:
        """As computing_rate, of each device, number of threads, format and width."""
        device = choice.name, choice.build, choice.adapter, choice.threads(built.programs)
        key = *device, main_format(built), built.config.n_embd, stays
        if key not in self._computing:
            self._computing[key] = await computing_rate(choice, built, stays)
        return self._computing[key]

    async def reading(self, source: Source, table: LayerTable) -> float:
        """As reading_rate, where bytes are here; where they are to come as arriving_rate, which takes no more than a moment."""
        if self._reading is None or self._reading[0] is not source:
            self._reading = source, await self.arriving(source) or await reading_rate(source, table)
        return self._reading[1]

    async def arriving(self, source: Source) -> float | None:
        """As arriving_rate."""
        if self._arriving is None or self._arriving[0] is not source:
            self._arriving = source, await arriving_rate(source)
        return self._arriving[1]

    def forget(self, source: Source) -> None:
        """It is closed. Devices stay what they are."""
        if self._reading and self._reading[0] is source:
            self._reading = None
        if self._arriving and self._arriving[0] is source:
            self._arriving = None


async def arriving_rate(source: Source) -> float | None:
    """Bytes per second at which a file comes over the network, from a moment's reads at its end, of a small part of it.

    None if nothing is to come, or came: a file that is here, one of which a copy is whole, or a network that is silent.
    """
    before = fetched_of(source)
    missing = source.size - (before.disk_bytes or 0) if before else 0
    piece = min(PROBE_BYTES, missing // PROBE_SHARE) // PROBES
    if before is None or piece <= 0:
        return None
    started = time.perf_counter()
    # From the end: what was fetched in part was fetched from the start.
    reads = [asyncio.ensure_future(_read(source, source.size - (i + 1) * piece, piece)) for i in range(PROBES)]
    try:
        await asyncio.wait(reads, timeout=PROBE_SECONDS)
        seconds = time.perf_counter() - started
    finally:
        for read in reads:
            read.cancel()
        ended = await asyncio.gather(*reads, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error
    after = fetched_of(source)
    came = after.network_bytes - before.network_bytes if after else 0
    return came / seconds if came else None


async def _read(source: Source, offset: int, n_bytes: int) -> None:
    with memoryview(bytearray(n_bytes)) as view:
        await source.read_into(offset, view)


async def reading_rate(source: Source, table: LayerTable) -> float:
    """Bytes per second of a few large reads at a time, as the store does them: as many as a moment allows. SourceError."""
    extents = [extent for extent in table.extents if extent.kind is not Kind.ROWS]
    places = ((extent.offset, extent.offset + extent.n_bytes) for extent in extents)
    done, at, end, piece, started = 0, 0, 0, FIRST_PIECE, time.perf_counter()

    def next_range() -> tuple[int, int] | None:
        """Whole blocks, one after another through the weights, each reader's turn larger than the one before."""
        nonlocal at, end
        while (n_bytes := min(piece, end - at) // source.block * source.block) <= 0:
            place = next(places, None)
            if place is None:
                return None
            at, end = -(-place[0] // source.block) * source.block, place[1]
        at += n_bytes
        return at - n_bytes, n_bytes

    async def reader() -> None:
        nonlocal done, piece
        pages = mmap.mmap(-1, PIECE)  # whole pages, as reads around the system's cache need them
        while (found := next_range()) is not None:
            offset, n_bytes = found
            with memoryview(pages) as whole, whole[:n_bytes] as view:
                await source.read_into(offset, view)
            done, piece = done + n_bytes, min(PIECE, 2 * piece)
            if done >= READ_BYTES or time.perf_counter() - started > READ_SECONDS:
                return

    await asyncio.gather(*(reader() for _ in range(READERS)))
    return done / (time.perf_counter() - started)


async def computing_rate(choice: Choice, built: Built, stays: bool = True) -> float:
    """Bytes of weights per second that a device's kernels go through for one token, in the format of most of the model.

    stays: where a GPU computes, whether the weights stay there; otherwise they are copied to it each time.
    """
    if choice.with_threads:  # as many as the whole model has, not as these few weights would
        choice = choice.with_threads(choice.threads(built.programs))
    program = _layer(main_format(built), built.config.n_embd)
    programs = [program] * (len(choice.gpu.adapters) if choice.gpu else 1)
    sizes = choice.sizes(programs, 1, 1)
    n_bytes = len(programs) * sum(w.n_bytes for w in program.weights)
    spare = 64 * len(programs) * program.n_entries
    memory, device = choice.make(programs, sizes.state_bytes + sizes.activation_bytes + sizes.kv_bytes(1) + n_bytes + spare)
    try:
        device.compile(programs, 1, 1)
        bounds = [device.bind(program, 1) for program in programs]
        table = _table(programs)
        for extent in table.extents:
            [(segment, entry)] = extent.places
            bounds[segment].table[entry] = address = memory.allocate(extent.n_bytes)
            memory.write(address, b"\1" * extent.n_bytes)  # unwritten pages are all one page of zeros
        if stays and isinstance(device, Uploading):
            n_each, n_extents = len(programs), len(table.extents)
            everything = OnGpu(frozenset(range(n_extents // n_each)), GpuLedger(0, 0, 0, 0, 0, 0))
            device.settle(table, [everything] * n_each)
            for extent in table.extents:
                [(segment, entry)] = extent.places
                device.upload(extent.places, memory.place(bounds[segment].table[entry], extent.n_bytes))
        times: list[float] = []
        while len(times) <= COMPUTE_RUNS and sum(times[1:]) < COMPUTE_SECONDS:
            device.begin([0], 0, 1)
            started = time.perf_counter()
            await device.run(bounds, range(len(program.ops)))
            with contextlib.suppress(DeviceError):  # such weights may give numbers that are none
                await device.logits(bounds[-1])
            times.append(time.perf_counter() - started)
        return n_bytes / min(times[1:])  # in the first a GPU's driver compiles
    finally:
        device.close()
        memory.close()


def main_format(built: Built) -> QuantType:
    """The format of most weight bytes."""
    sizes: Counter[QuantType] = Counter()
    for program in built.programs[1:]:
        for weight in program.weights:
            sizes[weight.type] += weight.n_bytes
    return max(sizes, key=sizes.__getitem__)


def _table(programs: Sequence[Program]) -> LayerTable:
    """As if each program had weights of its own in a file."""
    segments, at = [], 0
    for program in programs:
        entries: list[Entry] = []
        for weight in program.weights:
            entry_bytes = weight.rows_per_entry * weight.type.row_bytes(weight.shape[0])
            for i in range(weight.n_entries):
                entries.append(Entry(weight.name, at, min(entry_bytes, weight.n_bytes - i * entry_bytes)))
                at += entries[-1].n_bytes
        segments.append(Segment(program.name, tuple(entries), tuple(program.entries_of(op) for op in program.ops)))
    return LayerTable(tuple(segments))


def _layer(format: QuantType, n_embd: int) -> Program:
    """Two matrices, there and back, added to the residual stream."""
    n = -(-n_embd // format.block) * format.block
    rows = max(format.block, COMPUTE_BYTES // 2 // format.row_bytes(n) // format.block * format.block)
    t = Recorder("measure")
    x = t.residual(n)
    h = t.matmul(t.weight("there", format, (n, rows)), x)
    return t.finish(t.add(x, t.matmul(t.weight("back", format, (rows, n)), h)))


def describe(plan: Plan, predicted: Prediction) -> str:
    """The prediction as a line for a person."""
    seconds = predicted.seconds_per_token
    rate = f"{1 / seconds:.1f} tok/s" if seconds < 1 else f"{seconds:.1f} s a token"
    if not predicted.read_bytes:
        return f"about {rate}: nothing is read while it runs, computing is what takes time"
    on_gpu = f" and {gb(plan.device_bytes)} on the GPU" if plan.gpu else ""
    stay = f"{gb(plan.resident_bytes + plan.expert_cache_bytes)} of weights stay in memory{on_gpu}"
    reading = f"{gb(predicted.read_bytes)} are read for each token, at {gb(predicted.read_bytes_per_second or 0)}/s"
    return f"about {rate}: {stay}, {reading}; {predicted.limit} is what takes time"


def gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1e3 * seconds:.2f} ms"


def strip(shares: Sequence[float]) -> str:
    """Shares from 0 to 1 as a row of bars: a blank is nothing at all, a full bar is everything."""
    part = "▁▂▃▄▅▆▇"
    return "".join("█" if share >= 1 else part[int(share * len(part))] if share > 0 else " " for share in shares)
