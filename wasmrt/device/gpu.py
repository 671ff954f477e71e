"""The GPU device: programs become lists of dispatches, built when they are first run and replayed for every token.

Every slot of the arena is a buffer, every layer's cache two. A weight is on the GPU to stay, or passes through a ring of slots,
into which it is copied from the store's memory for each pass. A queue is in order: what is written into a slot is seen by
what is submitted after it, and by nothing that was submitted before.
"""

import asyncio
import math
import struct
import time
from array import array
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from wasmrt.device import gpu_attention, gpu_matmul, gpu_scan, gpu_small
from wasmrt.device.device import KEPT_NONE, Bound, Candidates, Kept, Stop, check_formats, check_rows, out_row
from wasmrt.device.gpu_choose import Chooser, can_draw, outcome
from wasmrt.device.gpu_host import Dispatch, GpuHost, Limits, Range, Shaders, Use
from wasmrt.device.gpu_ring import Load, Piece, Ring, SlotBytes
from wasmrt.device.gpu_steps import NARROW, Lower, Pass, Span, Step
from wasmrt.device.gpu_tune import tuning_of
from wasmrt.device.gpu_weights import Group, Part, Placement, Regions, Uploader, groups_of, padded
from wasmrt.errors import BudgetError, DeviceError, UnsupportedError
from wasmrt.options import SamplerOptions
from wasmrt.program.ops import STATE_SLOTS, Op, Operand, Program, Weight
from wasmrt.store.layers import LayerTable
from wasmrt.store.memory import Frame, Memory
from wasmrt.store.plan import OnGpu, mib

T = TypeVar("T")

LOWER: dict[str, Lower] = {**gpu_small.LOWER, **gpu_attention.LOWER, **gpu_scan.LOWER, **gpu_matmul.LOWER}

STATE_BYTES = 16
BLOCK_BYTES = 64 << 10  # of small things that share a buffer
BINDING_ALIGNMENT = 256  # of offsets, on any adapter
MOST_CHAINED = 64  # passes
CHAIN_BYTES = 16 + 4 * MOST_CHAINED
MOST_PENDING = 64  # dispatches of many tokens: a driver may end what takes seconds
MOST_READY = 2048  # lists of dispatches of a segment that are kept
MOST_UPLOADS = 64 << 20  # bytes that are not waited for
MOST_IN_FLIGHT = 2  # submits that are not waited for
NOT_NUMBERS = "the logits hold NaN or infinity: a weight of this file is damaged, or too large for float32"


class NotInMemory(DeviceError):
    """A weight is wanted that has not come: nothing is wrong with the GPU."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A step with its pipeline and bind group."""

    pipeline: Any
    group: Any
    step: Step


@dataclass(eq=False, slots=True)
class Segment:
    """What the device knows of a bound segment."""

    index: int
    bound: Bound
    groups: tuple[tuple[Group, ...], ...]  # of each op
    kv_heads: int
    ready: dict[tuple[Any, ...], list[Ready]] = field(default_factory=dict)
    stays: dict[int, bool] = field(default_factory=dict)  # of an op: whether its weights are on the GPU for good


class GpuDevice:
    """Runs programs on one GPU through a host."""

    name = "gpu"
    batch_invariant = False  # a pass of a few tokens and one of many take different kernels
    n_threads = 1

    def __init__(self, host: GpuHost, memory: Memory | None, f16_cache: bool = False) -> None:
        """memory: where weights are that do not stay on the GPU; None: for counting what it takes."""
        self.host = host
        self.kernel_seconds = 0.0
        self.submits = self.dispatches = 0  # so far
        self.shaders = Shaders(host)
        self.tuning = tuning_of(host.adapter)
        self.f16_cache = f16_cache
        self._memory = memory
        self._segments: list[Segment] = []
        self._small = Small(host)
        self._uploader = Uploader(host, self._small.put)
        self._scratch: dict[str, Range] = {}
        self.scratch_sizes: dict[str, int] = {}  # of each by name, where they are known before it is made
        self.scratch_made = 0  # bytes, with those that had to grow
        self._replays: dict[tuple[int, ...], list[Dispatch]] = {}
        self._pending: list[Dispatch] = []
        self._in_flight = 0
        self._failure = ""
        self._pass = Pass(1, 0, 0, 1)
        self._row, self._ids = 0, array("I")
        self._chosen: dict[tuple[int, int], set[int]] = {}
        self._submitted_at = 0.0
        self._uploading = 0  # bytes, since we last waited

    # Making

    def compile(self, programs: Sequence[Program], max_tokens: int, max_out: int, kept: Kept = KEPT_NONE) -> None:
        check_formats(programs)
        self.max_tokens, self.max_out, self._kept = max_tokens, max_out, kept
        self._slots = [self.host.buffer(n_bytes) for n_bytes in slot_bytes(programs, max_tokens, max_out, kept)]
        self._state = self.host.buffer(STATE_BYTES, Use.STATE)
        self._token_ids = self.host.buffer(4 * max_tokens)
        self.dummy = self.host.buffer(16), 0, 16
        self._n_rows_embedded = min(embedded_rows(programs), default=1 << 31)
        n_vocab = max((p.result.width for p in programs if p.result.rows == "out"), default=0)
        self._chooser = Chooser(self.host, self.shaders, n_vocab) if n_vocab else None
        self._chained, self._uniforms = self._new(CHAIN_BYTES), self._new(4 * MOST_CHAINED)
        self._staging = self.host.buffer(CHAIN_BYTES, Use.READ)
        self._ends: dict[bool, tuple[Dispatch, ...]] = {}  # of greedy passes in a chain, and of others
        self.context = 1 << 31
        self._regions = Regions(self.host, self.dummy)
        self._ring = Ring(self.host, self.dummy, self._uploader)
        self._uploader.reserve(programs)

    def bind(self, program: Program, context: int) -> Bound:
        heads = next((int(op.params[1]) for op in program.ops if op.kernel == "attention"), 1)
        kv_bytes = [gpu_attention.kv_bytes(width, heads, context, self.f16_cache) for width in program.kv]
        if max(kv_bytes, default=0) > self.host.limits.binding:
            allowed = f"{self.host.adapter.name!r} binds {mib(self.host.limits.binding)} at once"
            raise BudgetError(
                f"a context of {context} needs {mib(max(kv_bytes))} for the keys of a layer, and {allowed}; lower --context"
                + ("" if self.f16_cache else ", or halve it with --kv-type f16")
            )
        kv = tuple(map(self._new, kv_bytes))
        state = tuple(self._new(4 * n) for n in program.state)
        if program.kv:
            self.context = min(self.context, context)
        table = array("Q", bytes(8 * program.n_entries))
        keeps = self._kept.of(program)
        bound = Bound(program, table, tuple(range(len(program.slots))), kv, state, len(self._segments), keeps)
        groups = tuple(groups_of(program, op) for op in program.ops)
        self._segments.append(Segment(len(self._segments), bound, groups, heads))
        return bound

    def _new(self, n_bytes: int) -> Range:
        return self.host.buffer(n_bytes), 0, n_bytes

    def place(self, table: LayerTable, resident: frozenset[int]) -> None:
        """Make room for the weights that stay on the GPU: extents of the table, whose segments are bound by now."""
        self._regions.place([segment.groups for segment in self._segments], table, resident)
        for segment in self._segments:
            segment.stays.clear()
        if resident:
            self.scratch("raw", max(-(-table.extents[i].n_bytes // 4) * 4 for i in resident))

    def settle(self, table: LayerTable, homes: Sequence[OnGpu]) -> None:
        [mine] = homes
        self.scratch_sizes.update(mine.scratch)
        self.place(table, mine.resident)
        if mine.slots:
            self.make_ring(mine.slots)

    async def take_stream(self, other: "GpuDevice") -> None:
        """Copy the residual stream of the pass from another device's slot 0 to ours."""
        width = next(p.slots[0].width for p in (s.bound.program for s in self._segments) if p.slots)
        at, n_bytes = 4 * self._row * width if self._kept.rows else 0, 4 * self._pass.n_tokens * width
        other._flush()
        data = await other._reading(other.host.read(other._slots[0], at, n_bytes))
        self.host.write(self._slots[0], at, data)

    def joined_extents(self) -> Iterator[tuple[int, ...]]:
        """The extents that an op takes as one matrix, so that they stay on the GPU together or not at all."""
        for segment in self._segments:
            for groups in segment.groups:
                for group in groups:
                    yield self._regions.extents_of(segment.index, group)

    def bytes_of(self, extents: Sequence[int]) -> int:
        """What extents take that are in place, with what they share a region with."""
        return self._regions.bytes_of(extents)

    def reserve(self) -> None:
        """Take, at most, what reading results and choosing tokens will take."""
        if self._chooser is not None:
            n_vocab = self._chooser.n_vocab
            self.host.buffer(4 * self.max_out * n_vocab, Use.READ)
            self._chooser.reserve(self.max_out)

    def upload(self, places: Sequence[tuple[int, int]], data: Frame) -> None:
        """A weight that stays has come, for these entries (segment, entry); `data` may be reused at once."""
        raw = self.scratch("raw", -(-len(data) // 4) * 4)
        self._uploader.write(raw[0], 0, data)
        self._regions.keep_on_host(places, data)
        for region, at, n_rows in self._regions.rows_of(places):
            self._add(self._make(step) for step in self._uploader.steps(raw, region, at, n_rows))
        self._flush()
        self._uploading += len(data)

    async def uploaded(self, everything: bool) -> None:
        if everything or self._uploading > MOST_UPLOADS:
            self._uploading = 0
            await self._finish()

    def prepare(self) -> None:
        """Make all dispatches of what stays on the GPU, for passes of a few tokens and of many."""
        for n_tokens in (1, NARROW + 1):
            if n_tokens <= self.max_tokens:
                self._pass = Pass(n_tokens, 0, 0, 1)
                for segment in self._segments:
                    for at in range(len(segment.groups)):
                        if self._stays(segment, at):
                            self._lowered(segment, at, self._regions.placed(segment.index, segment.groups[at]), ())

    def make_ring(self, n_slots: int | None = None) -> None:
        """Make the ring, for whatever does not stay on the GPU."""
        self._ring.make(self.largest_load(), n_slots)

    # Passes

    def begin(self, ids: Sequence[int], pos: int, n_out: int, row: int = 0) -> None:
        n = len(ids)
        if not 0 < n <= self.max_tokens or not 0 <= n_out <= min(n, self.max_out):
            raise ValueError(f"{n} tokens, {n_out} rows of logits; compiled for {self.max_tokens} and {self.max_out}")
        if not 0 <= min(ids) <= max(ids) < self._n_rows_embedded or not 0 <= pos <= self.context - n:
            there_are = f"there are {self._n_rows_embedded} tokens and {self.context} positions"
            raise ValueError(f"tokens {min(ids)} to {max(ids)} at {pos} on: {there_are}")
        check_rows(row, n, self._kept)
        self._check_open()
        self._flush()
        self._pass = Pass(n, pos, n_out, gpu_attention.n_split(pos + n) if n <= NARROW else 1)
        self._row, self._ids = row, array("I", ids)
        self.host.write(self._state, 0, struct.pack("<4I", *self._pass))
        self.host.write(self._token_ids, 0, self._ids)

    async def run(self, bounds: Sequence[Bound], ops: range, partial: bool = False) -> Stop:
        self._check_open()
        try:
            if self._in_flight >= MOST_IN_FLIGHT:
                await self._finish()
            missing = await self._encode(bounds, ops, partial)
            end = bounds[-1].program
            if missing or not (self._pass.n_out and end.result.rows == "out" and ops.stop == len(end.ops)):
                self._flush()  # else with what is asked about the logits
        except BaseException as error:
            self._pending.clear()
            if isinstance(error, DeviceError) and not isinstance(error, NotInMemory):
                self._failure = self._failure or str(error)
            raise
        return missing or Stop(len(bounds) - 1, ops.stop)

    async def _encode(self, bounds: Sequence[Bound], ops: range, partial: bool) -> Stop | None:
        """Add the dispatches of some ops to what is pending, up to a router whose experts are not all in memory."""
        now = self._pass
        key = bounds[0].address, bounds[-1].address, ops.start, ops.stop, self._row, now.n_tokens, now.n_out, now.n_split
        if key in self._replays:
            self._pending += self._replays[key]
            return None
        start, same = len(self._pending), now.n_tokens <= NARROW
        for bound in bounds:
            segment = self._segments[bound.address]
            first = ops.start if bound is bounds[0] else 0
            for at in range(first, ops.stop if bound is bounds[-1] else len(bound.program.ops)):
                if self._stays(segment, at):
                    placement = self._regions.placed(segment.index, segment.groups[at])
                    self._add(self._lowered(segment, at, placement, ()))
                else:
                    same = False
                    await self._stream(segment, at, partial)
                if now.n_tokens > NARROW and len(self._pending) > MOST_PENDING:
                    self._flush()
                if bound.program.ops[at].kernel == "route" and self._streams_experts(segment):
                    same = False
                    await self._read_chosen(bound, at)
                    if missing := self._missing(segment):
                        return Stop(bound.address - bounds[0].address, at + 1, missing)
        if same:
            self._replays[key] = self._pending[start:]
        return None

    def _missing(self, segment: Segment) -> tuple[int, ...]:
        """The table entries of chosen experts that are neither on the GPU nor in memory."""
        chosen = self._chosen[segment.index, self._row]
        groups = [g for groups in segment.groups for g in groups if g.is_expert and not self._regions.has(segment.index, g)]
        entries = [part.entry for group in groups for part in group.parts if part.first // part.n_rows in chosen]
        return tuple(sorted(entry for entry in entries if not segment.bound.table[entry]))

    def _streams_experts(self, segment: Segment) -> bool:
        experts = [group for groups in segment.groups for group in groups if group.is_expert]
        return not all(self._regions.has(segment.index, group) for group in experts)

    def _stays(self, segment: Segment, at: int) -> bool:
        """Whether all that an op needs is on the GPU for good."""
        if at not in segment.stays:
            segment.stays[at] = all(self._regions.has(segment.index, group) for group in segment.groups[at])
        return segment.stays[at]

    async def _stream(self, segment: Segment, at: int, partial: bool) -> None:
        """An op of whose weights some go through the ring."""
        if not self._ring.is_made:
            self.make_ring()
        there = self._regions.placed(segment.index, segment.groups[at])
        for load in self._loads(segment, at, partial):
            slot = self._ring.take()
            if slot is None:
                self._flush()
                if self._in_flight >= MOST_IN_FLIGHT:  # what was written waits on the host's side until it is used
                    await self._finish()
                slot = self._ring.take()
                assert slot is not None
            self._ring.write(slot, load)
            placement = self._ring.placement(slot, load)
            rows = load.pieces[0].n_rows if segment.bound.program.ops[at].kernel == "embed" else 0
            key = at, slot, rows, -1
            if key not in segment.ready:
                segment.ready[key] = [self._make(step) for step in self._ring.steps(slot, load, placement)]
            self._add(segment.ready[key])
            self._add(self._lowered(segment, at, {**there, **placement}, (slot, *load.name)))

    def _loads(self, segment: Segment, at: int, partial: bool) -> list[Load]:
        """What an op brings through the ring: all at once, of experts one after another those that were chosen."""
        bound, op = segment.bound, segment.bound.program.ops[at]
        groups = [group for group in segment.groups[at] if not self._regions.has(segment.index, group)]
        if op.kernel == "embed":
            return [self._rows_of_tokens(bound, groups[0])]
        experts = [group for group in groups if group.is_expert]
        if experts:
            wanted = self._experts(segment, at)
            loads = []
            for part in experts[0].parts:
                expert = part.first // part.n_rows
                address = bound.table[part.entry]
                if expert in wanted and (address or not partial):
                    piece = self._piece(bound, experts[0], part, 0)
                    loads.append(Load(((experts[0], part.first, part.n_rows),), (piece,), (expert,)))
            return loads
        pieces = tuple(self._piece(bound, group, part, part.first) for group in groups for part in group.parts)
        return [Load(tuple((group, 0, group.n_rows) for group in groups), pieces)]

    def _piece(self, bound: Bound, group: Group, part: Part, at: int) -> Piece:
        n_bytes = group.file_row_bytes * part.n_rows
        return Piece(self._view(bound, part, 0, n_bytes), n_bytes, group, at, part.n_rows)

    def _view(self, bound: Bound, part: Part, offset: int, n_bytes: int) -> Frame:
        """Bytes of an entry in the store's memory."""
        assert self._memory is not None
        address = bound.table[part.entry]
        if not address:
            weights = bound.program.weights
            name = next(w.name for w in weights if w.first <= part.entry < w.first + w.n_entries)
            where = f"entry {part.entry} of its segment"
            raise NotInMemory(f"tensor {name!r} is not in memory ({where}): load it before this op runs")
        return self._memory.place(address + offset, n_bytes)

    def _rows_of_tokens(self, bound: Bound, group: Group) -> Load:
        """Of an embedding a row for each token, which then has its number as id."""
        n_bytes, rows = group.file_row_bytes, []
        for token in self._ids:
            part = group.parts[token // group.parts[0].n_rows]
            rows.append(self._view(bound, part, (token - part.first) * n_bytes, n_bytes))
        self.host.write(self._token_ids, 0, array("I", range(len(rows))))
        n_rows = self.max_tokens if len(rows) > NARROW else NARROW  # those past the end are not looked at
        piece = Piece(b"".join(map(bytes, rows)), n_bytes * n_rows, group, 0, n_rows)
        return Load(((group, 0, n_rows),), (piece,), (n_rows,))

    def largest_load(self) -> SlotBytes:
        """Of a slot that holds any load."""
        loads = [SlotBytes()]
        for segment in self._segments:
            for op, groups in zip(segment.bound.program.ops, segment.groups, strict=True):
                missing = [group for group in groups if not self._regions.has(segment.index, group)]
                loads.append(load_bytes(op, missing, self.max_tokens))
        return SlotBytes(*map(max, zip(*loads, strict=True)))

    def _lowered(self, segment: Segment, at: int, placement: Placement, where: tuple[int, ...]) -> list[Ready]:
        """An op's dispatches, made when they are first wanted for this place of its weights."""
        wide = self._pass.n_tokens > NARROW
        row = self._row if segment.bound.kept else 0
        key = at, wide, row, where
        if key not in segment.ready:
            op = segment.bound.program.ops[at]
            site = OpSite(self, segment, placement, wide, row)
            if len(segment.ready) >= MOST_READY:  # experts in slots are many; those of the ops that stay are made first
                segment.ready.popitem()
            segment.ready[key] = [self._make(step) for step in LOWER[op.kernel](op, site)]
        return segment.ready[key]

    def _make(self, step: Step) -> Ready:
        shader = self.shaders.get("common", *step.files, **step.constants)
        ranges: list[Range] = []
        storage = iter(step.ranges)
        for binding in shader.bindings:
            if binding.index == 0 and binding.kind == "uniform":
                ranges.append(self._small.put(step.params))
            elif binding.index == 1 and binding.kind == "uniform":
                ranges.append((self._state, 0, STATE_BYTES))
            else:
                ranges.append(next(storage))
        return Ready(shader.pipeline, self.host.group(shader.bindings, ranges), step)

    def _add(self, ready: Iterable[Ready]) -> None:
        for r in ready:
            x, y, z = r.step.grid(self._pass)
            if x:
                self._pending.append((r.pipeline, r.group, x, y, z))

    def _flush(self) -> None:
        """Submit what is pending."""
        if self._pending:
            steps, self._pending = self._pending, []
            self.count(steps)
            self.host.submit(steps)

    def count(self, steps: Sequence[Dispatch]) -> None:
        """Of what is submitted."""
        if not self._in_flight:
            self._submitted_at = time.perf_counter()
        self._in_flight += 1
        self.submits += 1
        self.dispatches += len(steps)

    def _finished(self) -> None:
        """All that was submitted has run."""
        if self._in_flight:
            self._in_flight = 0
            self.kernel_seconds += time.perf_counter() - self._submitted_at

    async def _finish(self) -> None:
        await self.host.done()
        self._finished()
        self._check_open()  # nothing is as it was if we were closed meanwhile

    # Experts

    async def _read_chosen(self, bound: Bound, route: int) -> None:
        self._flush()
        chosen = bound.program.ops[route].out[0]
        row = self._row if chosen.index in bound.kept else 0
        data = await self.host.read(self._slots[chosen.index], 4 * row * chosen.width, 4 * len(self._ids) * chosen.width)
        self._finished()
        self._check_open()
        self._chosen[bound.address, self._row] = set(data.cast("I"))

    def chosen(self, bound: Bound, route: int) -> set[int]:
        return self._chosen[bound.address, self._row]

    def _experts(self, segment: Segment, at: int) -> set[int]:
        return self._chosen[segment.index, self._row]

    # Results

    def clear_state(self, bound: Bound) -> None:
        for buffer, _, n_bytes in bound.state:
            self._flush()
            self.host.write(buffer, 0, bytes(n_bytes))

    async def logits(self, head: Bound) -> "memoryview[float]":
        self._check_open()
        result = head.program.result
        n_out = self._pass.n_out
        if not n_out:
            return memoryview(b"").cast("f")
        self._flush()
        data = await self._reading(self.host.read(self._slots[result.index], 0, 4 * n_out * result.width))
        if not all_finite(data):
            raise DeviceError(NOT_NUMBERS)
        return data.cast("f", (n_out, result.width))

    async def candidates(
        self, head: Bound, k: int, recent: Sequence[int], penalty: float, temperature: float, row: int = -1
    ) -> Candidates:
        self._check_open()
        assert self._chooser is not None
        result = head.program.result
        at = out_row(row, self._pass.n_out)
        n_bytes = 4 * result.width
        steps, self._pending = self._pending, []
        self.count(steps)
        logits = self._slots[result.index], at * n_bytes, n_bytes
        return await self._reading(self._chooser.candidates(logits, k, recent, penalty, temperature, steps))

    # Chains of passes

    def chains(self, options: SamplerOptions) -> bool:
        there = all(self._stays(segment, at) for segment in self._segments for at in range(len(segment.groups)))
        recurrent = any(segment.bound.state for segment in self._segments)
        known = options.repeat_penalty == 1.0 and (options.temperature == 0 or can_draw(options))
        return known and there and not recurrent and self._chooser is not None

    async def chain(
        self, bounds: Sequence[Bound], token: int, pos: int, n: int, options: SamplerOptions, uniforms: Sequence[float]
    ) -> Sequence[int]:
        n = min(n, MOST_CHAINED, self.context - pos)
        self.begin([token], pos, 1)
        self._pass = self._pass._replace(n_split=gpu_attention.n_split(pos + n))
        self.host.write(self._state, 0, struct.pack("<4I", *self._pass))
        if uniforms:
            self.host.write(self._uniforms[0], 0, array("f", uniforms[:n]))
        await self._encode(bounds, range(len(bounds[-1].program.ops)), False)
        steps, self._pending = [*self._pending, *self._choosing(bounds[-1], options)] * n, []
        assert self._chooser is not None
        self._chooser.begin(self._chained)
        self.count(steps)
        self.host.submit(steps, [(self._chained[0], 0, self._staging, 0, CHAIN_BYTES)])
        try:
            return outcome(await self._reading(self.host.fetch(self._staging, CHAIN_BYTES))).tokens
        except asyncio.CancelledError:
            # It may be mapped later, and copying to it then would end the process.
            self.host.free(self._staging)
            self._staging = self.host.buffer(CHAIN_BYTES, Use.READ)
            raise

    def _choosing(self, head: Bound, options: SamplerOptions) -> tuple[Dispatch, ...]:
        """What ends each pass of a chain."""
        assert self._chooser is not None
        greedy = options.temperature == 0
        if greedy not in self._ends:
            result = head.program.result
            logits = self._slots[result.index], 0, 4 * result.width
            where = logits, (self._state, 0, STATE_BYTES), self.tokens(), self._chained
            draws = self._chooser.sampled
            self._ends[greedy] = self._chooser.greedy(*where) if greedy else draws(*where, self._uniforms, options)
        elif not greedy:
            self._chooser.draw_by(options)
        return self._ends[greedy]

    async def _reading(self, waiting: Awaitable[T]) -> T:
        try:
            return await waiting
        except DeviceError as error:
            if str(error) != NOT_NUMBERS:
                self._failure = self._failure or str(error)
            raise
        finally:
            self._finished()

    def _check_open(self) -> None:
        if self._failure:
            raise DeviceError(f"this model's GPU has failed ({self._failure}); open the model again, or with device 'cpu'")

    def close(self) -> None:
        self._failure = self._failure or "the device was closed"
        self._pending.clear()
        self._replays.clear()
        self._segments.clear()
        self.host.close()

    # What a Site tells

    def scratch(self, name: str, n_bytes: int) -> Range:
        n_bytes = max(n_bytes, self.scratch_sizes.get(name, 0))
        if name not in self._scratch or self._scratch[name][2] < n_bytes:
            # Steps that were made with a smaller one keep it, so where memory is counted, sizes are known before.
            self.scratch_sizes[name] = n_bytes
            self._scratch[name] = self._new(n_bytes)
            self.scratch_made += self._scratch[name][0].size
        return self._scratch[name]

    def constant(self, data: bytes) -> Range:
        return self._small.put(data)

    def slot(self, operand: Operand, row: int) -> Range:
        most = max(self._kept.rows, self.max_tokens) - row
        rows = self.max_out if operand.rows == "out" else min(most, self.max_tokens)
        n_bytes = 4 * operand.width
        return self._slots[operand.index], row * n_bytes, rows * n_bytes

    def tokens(self) -> Range:
        return self._token_ids, 0, 4 * self.max_tokens

    def host_vector(self, segment: Segment, weight: Weight) -> Sequence[float]:
        if self._memory is None:
            return [1.0] * weight.shape[0]
        data = self._regions.host_bytes(segment.index, weight.first)
        if data is None:
            address = segment.bound.table[weight.first]
            data = self._memory.read(address, weight.n_bytes)
        if weight.type.name != "F32":
            raise UnsupportedError(f"tensor {weight.name!r} is in format {weight.type.name}; the gpu device needs it in F32")
        return memoryview(data).cast("B").cast("f").tolist()


class OpSite:
    """Where an op's operands lie: what lowering asks."""

    def __init__(self, device: GpuDevice, segment: Segment, placement: Placement, wide: bool, row: int) -> None:
        self._device, self._segment, self._placement, self._row = device, segment, placement, row
        self.wide = wide
        self.limits: Limits = device.host.limits
        self.features = device.host.features
        self.tuning = device.tuning
        self.max_tokens, self.max_out = device.max_tokens, device.max_out
        self.context, self.f16_cache = device.context, device.f16_cache
        self.dummy, self.tokens = device.dummy, device.tokens()
        self.kv_heads = segment.kv_heads

    def slot(self, operand: Operand) -> Range:
        return self._device.slot(operand, self._row if operand.index in self._segment.bound.kept else 0)

    def kv(self, index: int) -> Range:
        found: Range = self._segment.bound.kv[index]
        return found

    def recurrent(self, operand: Operand) -> Range:
        found: Range = self._segment.bound.state[operand.index - STATE_SLOTS]
        return found

    def weight(self, operand: Operand) -> Weight:
        return self._segment.bound.program.weights[operand.index]

    def vector(self, operand: Operand) -> Range:
        return self._placement[(operand.index,)][0].region.vector

    def spans(self, *operands: Operand) -> Sequence[Span]:
        return [placed.span for placed in self._placement[tuple(o.index for o in operands)]]

    def scratch(self, name: str, n_bytes: int) -> Range:
        return self._device.scratch(name, n_bytes)

    def constant(self, data: bytes) -> Range:
        return self._device.constant(data)

    def host_vector(self, operand: Operand) -> Sequence[float]:
        return self._device.host_vector(self._segment, self.weight(operand))


class Small:
    """Small things that no pass changes, many to a buffer: params of shaders and tables. The same bytes are kept once."""

    def __init__(self, host: GpuHost) -> None:
        self._host = host
        self._there: dict[bytes, Range] = {}
        self._buffer: Any = None
        self._at = self._size = 0

    def put(self, data: bytes) -> Range:
        data = data.ljust(-(-max(1, len(data)) // 16) * 16, b"\0")
        if data not in self._there:
            if self._at + len(data) > self._size:
                self._size, self._at = max(BLOCK_BYTES, len(data)), 0
                self._buffer = self._host.buffer(self._size, Use.STATE)
            self._host.write(self._buffer, self._at, data)
            self._there[data] = self._buffer, self._at, len(data)
            self._at += -(-len(data) // BINDING_ALIGNMENT) * BINDING_ALIGNMENT
        return self._there[data]


def slot_bytes(programs: Sequence[Program], max_tokens: int, max_out: int, kept: Kept) -> list[int]:
    """Of each slot's buffer, which all programs share."""
    sizes: dict[int, int] = {}
    for program in dict.fromkeys(programs):
        for i, slot in enumerate(program.slots):
            rows = max_out if slot.rows == "out" else max(kept.rows, max_tokens) if i in kept.of(program) else max_tokens
            sizes[i] = max(sizes.get(i, 0), 4 * slot.width * rows)
    return [sizes[i] for i in range(len(sizes))]


def embedded_rows(programs: Sequence[Program]) -> Iterator[int]:
    for program in programs:
        for op in program.ops:
            if op.kernel == "embed" and op.ins[0] is not None:
                yield program.weights[op.ins[0].index].shape[1]


def load_bytes(op: Op, missing: Sequence[Group], max_tokens: int) -> SlotBytes:
    """The most that an op brings through the ring at once."""
    raw = laid_out = 0
    for group in missing:
        if op.kernel == "embed":
            n_rows = max(max_tokens, NARROW)
        else:
            n_rows = group.parts[0].n_rows if group.is_expert else group.n_rows
        parts = [n_rows] if op.kernel == "embed" or group.is_expert else [part.n_rows for part in group.parts]
        raw += sum(padded(group.file_row_bytes * n) for n in parts)
        laid_out += group.bytes_of(n_rows)
    return SlotBytes(raw, laid_out, sum(group.f32_bytes for group in missing))


def all_finite(data: memoryview) -> bool:
    """Whether f32 numbers are; NaN and infinity have all bits of the exponent."""
    total = sum(data.cast("f"))
    return math.isfinite(total) or all(map(math.isfinite, data.cast("f")))
