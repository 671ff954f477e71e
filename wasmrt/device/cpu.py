"""The CPU device: programs run by C kernels in WebAssembly, in place on packed weights in one linear memory.

Here is what a desktop and a page share: what lies where in that memory, and the device. A Host (cpu_native.py) owns the module,
its memory and its threads. Structs are those of device/c/kernels.h.
"""

import asyncio
import math
import struct
from array import array
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from wasmrt.device.binary import PRODUCTS, TILE_TOKENS, quantized_bytes, serialize
from wasmrt.device.device import KEPT_NONE, Bound, Candidates, Kept, Stop, arena_offsets, check_rows, out_row
from wasmrt.errors import DeviceError
from wasmrt.program.ops import Op, Program, Space
from wasmrt.store.memory import Memory, aligned
from wasmrt.store.plan import Sizes
from wasmrt.store.source import outlast

TILE = 64  # positions in a block of keys: a cache is made of whole ones
STACK_BYTES = 64 << 10  # of each thread
UNIT_TOKENS, UNIT_ROWS = 16, 64  # tokens, and rows, that attention takes at once: attention.c
FLOAT_ROWS = 4  # rows of a float weight that meet a token together: floats.h
GROUP_ROWS = 8  # rows of a weight that the tile kernels take together: matmul.h
TEAM_BYTES = 440
TEAM_TAIL = struct.Struct("<12I6Q6I")  # the team from n_threads on
TEAM_TAIL_AT = 320
SEGMENT_AT = 40  # in the tail
CURSOR_BYTES = 64  # of each thread: a cache line
CANCEL_AT, ABORT_AT = 0, 1  # bytes of the control word, so that none of them undoes the other
BINDING = struct.Struct("<5Q")
SLOT = struct.Struct("<2Q")
ASK = struct.Struct("<4d5Q4I")  # candidates.c

DONE, CANCELLED, ABORTED, MISSING, BAD_PROGRAM, ABSENT_WEIGHT = range(6)  # what run() returns


class Host(Protocol):
    """The kernels' module with its memory and threads."""

    n_threads: int

    @property
    def kernel_seconds(self) -> float:
        """In exported functions so far."""

    @property
    def memory(self) -> Memory: ...

    def start(self, team: int, stacks: Sequence[int]) -> None:
        """Instantiate the module for each thread, with the stack that ends at stacks[i], and set the workers going."""

    def call(self, name: str, *args: float) -> float:
        """Call an exported function on this thread, between runs."""

    def run(self, team: int) -> Awaitable[int]:
        """run(team) on a thread of its own: the event loop goes on meanwhile. Raises DeviceError if a thread traps."""

    def abort(self) -> None:
        """End every run, also one that is waiting. The host computes no more."""


@dataclass(frozen=True, slots=True)
class Frames:
    """The memory that a device takes beside weights and caches, in bytes."""

    arena: int
    quantized: int
    row: int  # the parts of each thread's scratch
    acc: int
    attention: int
    order: int
    candidates: int
    ids: int
    run_list: int

    @property
    def scratch(self) -> int:
        return aligned(self.row) + aligned(self.acc) + aligned(self.attention) + aligned(self.order)


def frames(programs: Sequence[Program], max_tokens: int, max_out: int, kept: Kept = KEPT_NONE) -> Frames:
    """What passes of at most max_tokens tokens, of which max_out want logits, need of these segments."""
    weights = [w for p in programs for w in p.weights]
    ops = [(op, p) for p in dict.fromkeys(programs) for op in p.ops]
    n_vocab = max((p.result.width for p in programs if p.result.rows == "out"), default=0)
    return Frames(
        arena=max(arena_offsets(p, max_tokens, max_out, kept)[-1] for p in programs),
        quantized=max((_quantized(op, p, max_tokens) for op, p in ops), default=0),
        row=max(4 * FLOAT_ROWS * max((w.shape[0] for w in weights), default=0), *(_small(op, p) for op, p in ops)),
        acc=4 * GROUP_ROWS * (max_tokens + TILE_TOKENS - 1),
        attention=max((_attention(op, p) for op, p in ops if op.kernel == "attention"), default=0),
        order=max((_order(op, p, max_tokens) for op, p in ops if op.kernel in PRODUCTS), default=0),
        candidates=aligned(ASK.size) + 16 * n_vocab,
        ids=4 * max_tokens,
        run_list=8 * len(programs),
    )


def sizes(programs: Sequence[Program], max_tokens: int, max_out: int, kept: Kept, n_threads: int, f16_cache: bool) -> Sizes:
    """What a device asks of the memory beside the weights. programs: of all segments, in the order of the pass."""
    f = frames(programs, max_tokens, max_out, kept)
    element = 2 if f16_cache else 4
    fixed = [TEAM_BYTES, f.arena, f.quantized, f.candidates, f.ids, f.run_list]
    fixed += [n_threads * n_bytes for n_bytes in (STACK_BYTES, CURSOR_BYTES, f.scratch)]
    fixed += [len(serialize(p)) for p in dict.fromkeys(programs)] + [_binding_bytes(p) for p in programs]
    return Sizes(
        kv_frames=tuple(element * width for p in programs for width in p.kv),
        state_frames=tuple(4 * n for p in programs for n in p.state),
        activation_frames=tuple(fixed),
        context_step=TILE,
    )


def _quantized(op: Op, program: Program, max_tokens: int) -> int:
    if op.kernel not in PRODUCTS or op.ins[0] is None or op.ins[1] is None:
        return 0
    weight = program.weights[op.ins[0].index]
    return quantized_bytes(weight, max_tokens * (op.ins[1].width // weight.shape[0]), _tiles(op, program, max_tokens))


def _tiles(op: Op, program: Program, max_tokens: int) -> int:
    """The most tiles of x that a product has."""
    if op.kernel == "expert_matmul":
        return _expert_tiles(op, program, max_tokens)
    n_tiles = -(-max_tokens // TILE_TOKENS)
    return n_tiles * int(op.params[0]) if op.kernel == "head_matmul" else n_tiles


def _expert_tiles(op: Op, program: Program, max_tokens: int) -> int:
    """The most tiles that the pairs of a token and an expert fill, of which each expert leaves one incomplete: experts.c."""
    assert op.ins[0] is not None
    assert op.ins[2] is not None
    return max_tokens * op.ins[2].width // TILE_TOKENS + program.weights[op.ins[0].index].shape[2]


def _order(op: Op, program: Program, max_tokens: int) -> int:
    """Which row of x is where in those tiles; of experts also where each one's begin: experts.c, heads.c."""
    if op.kernel == "matmul" or op.ins[0] is None:
        return 0
    n_firsts = program.weights[op.ins[0].index].shape[2] + 1 if op.kernel == "expert_matmul" else 0
    return 4 * (n_firsts + TILE_TOKENS * _tiles(op, program, max_tokens))


def _small(op: Op, program: Program) -> int:
    """What a thread needs for an op's small weights as f32, and for what it computes of them."""
    n = 0
    if op.kernel not in ("embed", "add_position", "expert_add", "causal_conv", *PRODUCTS):
        weights = [program.weights[o.index] for o in op.ins if o and o.space is Space.WEIGHT]
        n += sum(math.prod(w.shape) for w in weights if w.type.name != "F32" or w.n_entries > 1)  # others stay where they are
    if op.kernel == "route" and op.ins[0] is not None:
        n += 2 * op.ins[0].width  # scores, and those of groups: route.c
    return 4 * n


def _attention(op: Op, program: Program) -> int:
    n_heads, n_kv_heads = int(op.params[0]), int(op.params[1])
    keys, values = program.kv
    return attention_scratch(keys // n_kv_heads, values // n_kv_heads, n_heads // n_kv_heads)


def attention_scratch(head_dim: int, value_dim: int, group: int) -> int:
    """Bytes that one thread's attention needs: two tiles of the cache, and the scores of the rows of a unit: attention.c."""
    tokens = 1 if group >= UNIT_ROWS else UNIT_TOKENS if group * UNIT_TOKENS <= UNIT_ROWS else UNIT_ROWS // group
    return 4 * (TILE * (head_dim + value_dim) + (TILE + 2) * group * tokens)


def _binding_bytes(program: Program) -> int:
    """A segment's struct with the lists that it points to: slots, caches, states, and the address table."""
    return BINDING.size + SLOT.size * len(program.slots) + 8 * (len(program.kv) + len(program.state) + program.n_entries)


class CpuDevice:
    """Runs programs through the C kernels of a host."""

    name = "cpu"
    batch_invariant = True

    def __init__(self, host: Host, f16_cache: bool = False) -> None:
        self._host = host
        self._memory = host.memory
        self._f16_cache = f16_cache
        self._max_tokens = self._max_out = 0
        self._context = self._n_rows_embedded = self._n_positions = 1 << 31  # until a program says less
        self._programs: dict[Program, int] = {}
        self._kept, self._row = KEPT_NONE, 0
        self._failure = ""  # why nothing more is computed; not the exception, whose frames would keep the memory
        self._n_out = self._team = 0
        self._closed = False

    @property
    def n_threads(self) -> int:
        return self._host.n_threads

    @property
    def kernel_seconds(self) -> float:
        return self._host.kernel_seconds

    def compile(self, programs: Sequence[Program], max_tokens: int, max_out: int, kept: Kept = KEPT_NONE) -> None:
        allocate = self._memory.allocate
        self._max_tokens, self._max_out, self._kept = max_tokens, max_out, kept
        f = self._frames = frames(programs, max_tokens, max_out, kept)
        self._arena = allocate(f.arena)
        for program in dict.fromkeys(programs):
            data = serialize(program)
            self._programs[program] = allocate(len(data))
            self._memory.write(self._programs[program], data)
        for program in self._programs:
            for op in program.ops:
                if op.kernel == "embed" and op.ins[0] is not None:
                    self._n_rows_embedded = min(self._n_rows_embedded, program.weights[op.ins[0].index].shape[1])
                if op.kernel == "add_position" and op.ins[1] is not None:
                    self._n_positions = min(self._n_positions, program.weights[op.ins[1].index].shape[1])
        self._team = allocate(TEAM_BYTES)
        self._ids, self._run_list = allocate(f.ids), allocate(f.run_list)
        self._quantized, self._candidates = allocate(f.quantized), allocate(f.candidates)
        n = self.n_threads
        self._stacks, self._cursors = allocate(n * STACK_BYTES), allocate(n * CURSOR_BYTES)
        self._scratch = allocate(n * f.scratch)
        # What follows n_threads in the team; begin() and run() fill in what a pass and a run are about.
        self._tail = [n, self._f16_cache, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        self._tail += [self._ids, self._run_list, self._quantized, self._cursors, self._scratch, f.scratch]
        self._tail += [0, aligned(f.row), aligned(f.row) + aligned(f.acc), f.scratch - aligned(f.order), 0, 0]
        self._host.start(self._team, [self._stacks + (i + 1) * STACK_BYTES for i in range(n)])

    def bind(self, program: Program, context: int) -> Bound:
        allocate = self._memory.allocate
        context = -(-context // TILE) * TILE
        if program.kv:
            self._context = context
        element = 2 if self._f16_cache else 4
        kv = tuple(allocate(element * context * width) for width in program.kv)
        state = tuple(allocate(4 * n) for n in program.state)
        slots = tuple(self._arena + at for at in arena_offsets(program, self._max_tokens, self._max_out, self._kept)[:-1])
        keeps = self._kept.of(program)
        slot_list = [x for i, at in enumerate(slots) for x in (at, 4 * program.slots[i].width if i in keeps else 0)]
        address = allocate(_binding_bytes(program))
        lists = [array("Q", addresses) for addresses in (slot_list, kv, state)]
        slots_at = address + BINDING.size
        kv_at = slots_at + 8 * len(slot_list)
        state_at = kv_at + 8 * len(kv)
        table_at = state_at + 8 * len(state)
        binding = BINDING.pack(self._programs[program], table_at, slots_at, kv_at, state_at)
        self._memory.write(address, b"".join([binding, *lists]))
        return Bound(program, self._memory.words(table_at, program.n_entries), slots, kv, state, address, keeps)

    def begin(self, ids: Sequence[int], pos: int, n_out: int, row: int = 0) -> None:
        n = len(ids)
        if not 0 < n <= self._max_tokens or not 0 <= n_out <= min(n, self._max_out):
            raise ValueError(f"{n} tokens, {n_out} rows of logits; compiled for {self._max_tokens} and {self._max_out}")
        n_positions = min(self._context, self._n_positions)
        if not 0 <= min(ids) <= max(ids) < self._n_rows_embedded or not 0 <= pos <= n_positions - n:
            there_are = f"there are {self._n_rows_embedded} tokens and {n_positions} positions"
            raise ValueError(f"tokens {min(ids)} to {max(ids)} at {pos} on: {there_are}")
        check_rows(row, n, self._kept)
        self._memory.write(self._ids, array("i", ids))
        self._n_out, self._row = n_out, row
        self._tail[2:6] = self._context, n, pos, n_out

    async def run(self, bounds: Sequence[Bound], ops: range, partial: bool = False) -> Stop:
        self._check_open()
        self._memory.write(self._run_list, array("Q", [bound.address for bound in bounds]))
        self._tail[6:12] = len(bounds), ops.start, ops.stop, 0, 0, 0
        self._tail[-2:] = self._row, partial
        self._memory.write(self._team + TEAM_TAIL_AT, TEAM_TAIL.pack(*self._tail))
        running = asyncio.ensure_future(self._host.run(self._team))
        cancelled = await outlast(running, self._cancel)
        failed = running.exception()
        if failed is not None:
            self._failure = self._failure or str(failed) or repr(failed)
        self._check_open(failed)
        if cancelled:
            self._memory.write(self._team + CANCEL_AT, b"\0")
            raise asyncio.CancelledError
        return self._stop(running.result(), bounds, ops)

    def segment(self) -> int:
        """See Following."""
        if self._failure:
            return 0
        return int.from_bytes(self._memory.read(self._team + TEAM_TAIL_AT + SEGMENT_AT, 4), "little")

    def _stop(self, status: int, bounds: Sequence[Bound], ops: range) -> Stop:
        """What a run's status means."""
        *_, segment, op = TEAM_TAIL.unpack(self._memory.read(self._team + TEAM_TAIL_AT, TEAM_TAIL.size))[:12]
        program = bounds[segment].program if segment < len(bounds) else bounds[-1].program
        if status == DONE:
            return Stop(len(bounds) - 1, ops.stop)
        if status == MISSING:
            return Stop(segment, op, self._missing_experts(bounds[segment], program.ops[op - 1]))
        if status == ABSENT_WEIGHT:
            entries = [e for e in program.entries_of(program.ops[op]) if bounds[segment].table[e] == 0]
            name = next(w.name for w in program.weights if w.first <= entries[0] < w.first + w.n_entries)
            where = f"entry {entries[0]} of its segment"
            raise DeviceError(f"tensor {name!r} is not in memory ({where}): load it before this op runs")
        raise DeviceError(f"the kernels and this version of wasmrt do not fit together (status {status}); install wasmrt again")

    def _missing_experts(self, bound: Bound, route: Op) -> tuple[int, ...]:
        """The table entries of the experts that a router chose and that are not in memory."""
        experts = sorted(self._experts(bound, route))
        entries = (w.first + e for w in bound.program.weights if w.is_expert for e in experts)
        return tuple(entry for entry in entries if bound.table[entry] == 0)

    def chosen(self, bound: Bound, route: int) -> set[int]:
        return self._experts(bound, bound.program.ops[route])

    def _experts(self, bound: Bound, route: Op) -> set[int]:
        """What a router left in the arena for the tokens of this pass."""
        chosen, n_tokens = route.out[0], self._tail[3]
        row = self._row if chosen.index in bound.kept else 0
        address = bound.slots[chosen.index] + 4 * row * chosen.width
        return set(memoryview(self._memory.read(address, 4 * n_tokens * chosen.width)).cast("i"))

    def clear_state(self, bound: Bound) -> None:
        for address, n in zip(bound.state, bound.program.state, strict=True):
            self._memory.write(address, bytes(4 * n))

    async def logits(self, head: Bound) -> "memoryview[float]":
        self._check_open()
        result = head.program.result
        n = self._n_out * result.width
        address = head.slots[result.index]
        if n and not self._host.call("all_finite", address, n):
            raise _not_numbers()
        return memoryview(self._memory.read(address, 4 * n)).cast("f", (self._n_out, result.width))

    async def candidates(
        self, head: Bound, k: int, recent: Sequence[int], penalty: float, temperature: float, row: int = -1
    ) -> Candidates:
        self._check_open()
        n = head.program.result.width
        logits = head.slots[head.program.result.index] + 4 * n * out_row(row, self._n_out)
        k = min(k, n)
        penalised = array("i", set(recent) if penalty != 1.0 else ())
        memory, ask = self._memory, self._candidates
        ids, best, given, saved = (ask + aligned(ASK.size) + 4 * n * i for i in range(4))
        memory.write(given, penalised)
        where = (logits, ids, best, given, saved)
        memory.write(ask, ASK.pack(0, 0, penalty, temperature, *where, n, k, len(penalised), 0))
        if self._host.call("candidates", ask):
            raise _not_numbers()
        rest, rest_at = struct.unpack("<2d", memory.read(ask, 16))
        chosen, theirs = array("i", memory.read(ids, 4 * k)), array("f", memory.read(best, 4 * k))
        return Candidates(chosen.tolist(), theirs.tolist(), rest, rest_at)

    def _cancel(self) -> None:
        if not self._failure:  # else the run leaves anyway, and its memory may be gone
            self._memory.write(self._team + CANCEL_AT, b"\1")

    def _check_open(self, cause: BaseException | None = None) -> None:
        if self._failure:
            raise DeviceError(self._failure) from cause

    def close(self) -> None:
        if self._team and not self._closed:
            self._memory.write(self._team + ABORT_AT, b"\1")
        self._closed = True
        self._failure = self._failure or "the device was closed, so this pass was not finished; open the model again"
        self._host.abort()


def _not_numbers() -> DeviceError:
    return DeviceError("the logits hold NaN or infinity: a weight of this file is damaged, or too large for float32")
