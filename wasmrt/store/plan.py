"""The plan: what lies where, and what it costs, decided from the header alone before a weight is read.

A pure function of sizes and budget. If everything fits, everything is resident. Else a pass reads of the embedding a row a
token; if the rest fits, nothing is streamed. Else the budget is filled with tensors (row chunks of large ones) that stay,
spread evenly over the pass, and the others go through a staging ring of 64 MiB at most: a pass reads what the memory lacks, and
the size of the ring.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property
from typing import Any

from wasmrt.errors import BudgetError
from wasmrt.store.layers import Extent, Kind, LayerTable
from wasmrt.store.memory import ALIGNMENT, aligned
from wasmrt.store.policy import fill, spread

DEFAULT_CONTEXT = 4096
SMALLEST_CONTEXT = 64  # what an automatic context is never lowered below
# An automatic context is lowered as far as this to have everything resident; below it, streaming is the better choice.
RESIDENT_CONTEXT = 512
KV_SHARE = 4  # of a streaming model's budget an automatic context takes at most one part in so many

RING_FRAMES = 8  # in the staging ring: several large reads in flight while one computes
RING_BYTES = 64 << 20  # at most


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a model needs besides its weights: bytes of cache a position, of recurrent state, of activations."""

    kv_frames: tuple[int, ...]  # bytes a position of every key and value buffer
    state_frames: tuple[int, ...]
    activation_frames: tuple[int, ...]
    context_step: int = 1  # positions that a cache comes in

    def kv_bytes(self, context: int) -> int:
        positions = -(-context // self.context_step) * self.context_step
        return sum(aligned(frame * positions) for frame in self.kv_frames)

    @property
    def state_bytes(self) -> int:
        return sum(map(aligned, self.state_frames))

    @property
    def activation_bytes(self) -> int:
        return sum(map(aligned, self.activation_frames))


# What a model needs if so many rows of a prompt are kept between stages (0: none, its chunks go through the layers in turns).
SizesOf = Callable[[int], Sizes]


@dataclass(frozen=True, slots=True)
class Parts:
    """Where weights lie: the parts of the weight memory, in bytes, and the extents whose home is memory."""

    resident: tuple[int, ...]  # extents, in the order in which they got their place
    resident_bytes: int  # frames of these
    ring_bytes: int = 0  # through which all else streams; of other policies the cache
    expert_bytes: int = 0  # of the experts' cache
    row_bytes: int = 0  # of embedding rows; counted with the activations
    padding: int = 0  # so that each part begins at a block


@dataclass(frozen=True, slots=True)
class GpuLedger:
    """What a model takes on a GPU, in bytes. Its lines add up to the buffers that the device makes."""

    budget: int  # 0: none was given
    weight_bytes: int  # of those that stay there
    kv_bytes: int
    state_bytes: int
    activation_bytes: int  # with all that kernels need beside
    staging_bytes: int  # of the ring, through which all else streams

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.state_bytes + self.activation_bytes + self.staging_bytes

    def __add__(self, other: "GpuLedger") -> "GpuLedger":
        return GpuLedger(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def within(self, budget: int | None, staging_bytes: int) -> "GpuLedger":
        return replace(self, budget=budget or 0, staging_bytes=staging_bytes)


@dataclass(frozen=True, slots=True)
class OnGpu:
    """What of a model, or of some of its segments, stays on a GPU."""

    resident: frozenset[int]  # extents
    ledger: GpuLedger
    slots: int = 0  # of the ring; 0: nothing passes through it
    scratch: Mapping[str, int] = field(default_factory=dict)  # sizes, by name, of what kernels need besides


@dataclass(frozen=True, slots=True)
class Plan:
    """The ledger of a loaded model, in bytes. Its lines add up to what the memory holds."""

    context: int  # positions of the key/value cache
    weight_bytes: int  # of memory, for all that weights take: residents, ring, experts
    kv_bytes: int
    state_bytes: int
    activation_bytes: int  # with embedding rows, where the embedding is not resident
    budget: int
    resident_bytes: int  # of the weights
    streamed_bytes: int  # of the weights, a pass
    touched_bytes: int  # weights that a pass reads from memory, at most: all experts are counted
    staging_bytes: int = 0  # of weight_bytes: the ring
    expert_cache_bytes: int = 0  # of weight_bytes
    row_bytes: int = 0  # of activation_bytes: rows of an embedding that is not resident
    kept_rows: int = 0  # tokens of a prompt that pass over the weights together; 0: a chunk
    minimum_bytes: int = 0  # the smallest budget that works with this context and these chunks
    policy: str = "plan"
    block: int = 1  # what reads are widened to
    homes: dict[str, str] = field(default_factory=dict)  # of each tensor: device, memory, stream, both, experts or rows
    parts: Parts = field(default_factory=lambda: Parts((), 0))
    notes: tuple[str, ...] = ()
    gpu: GpuLedger | None = None  # beside the memory, where a GPU computes
    device_bytes: int = 0  # of the weights, as the file has them: those that stay on a GPU

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.state_bytes + self.activation_bytes

    @property
    def room(self) -> int:
        """Bytes of the budget that weights may take."""
        return self.budget - self.kv_bytes - self.state_bytes - self.activation_bytes

    @property
    def bytes_bound(self) -> int:
        """What a pass must read at least: the weights that it touches, less what GPU and memory can hold of them."""
        return max(0, self.touched_bytes - self.device_bytes - self.room)

    @property
    def streams(self) -> bool:
        return self.streamed_bytes > 0

    def as_dict(self) -> dict[str, Any]:
        plain = {**asdict(self), "notes": list(self.notes), "total_bytes": self.total_bytes, "bytes_bound": self.bytes_bound}
        if self.gpu:
            plain["gpu"]["total_bytes"] = self.gpu.total_bytes
        del plain["parts"]
        return plain


@dataclass(frozen=True)
class Demand:
    """What of a table a plan is about, in frames: bytes of memory with what reads are widened to."""

    table: LayerTable
    block: int
    chunk: int  # tokens that pass through the layers together

    def frame(self, extent: Extent) -> int:
        return frame_bytes(extent.offset, extent.n_bytes, self.block)

    def of(self, *kinds: Kind) -> list[int]:
        return [i for i, extent in enumerate(self.table.extents) if extent.kind in kinds]

    def bytes_of(self, extents: Sequence[int]) -> int:
        return sum(self.frame(self.table.extents[i]) for i in extents)

    @cached_property
    def largest_op(self) -> int:
        """Frames that one op needs at once; experts are not counted."""
        extents, dense = self.table.extents, set(self.of(Kind.DENSE))
        ops = (op for segment in self.table.needs for op in segment)
        largest = max((sum(self.frame(extents[i]) for i in op if i in dense) for op in ops), default=0)
        return max(largest, self.largest_upload)

    @cached_property
    def largest_upload(self) -> int:
        """The largest frame through which a weight goes to where it stays, on a GPU."""
        return max((self.frame(self.table.extents[i]) for i in self.of(Kind.DEVICE)), default=0)

    @cached_property
    def upload_bytes(self) -> int:
        """Of the ring that a model without streaming has for these."""
        return full_ring(self.largest_upload) if self.largest_upload else 0

    @cached_property
    def resident_bytes(self) -> int:
        """Of all weights that are not on a GPU, and the ring through which those go that are."""
        here = self.of(Kind.DENSE, Kind.EXPERT, Kind.ROWS)
        return sum(aligned(self.table.extents[i].n_bytes) for i in here) + self.upload_bytes

    @cached_property
    def largest_expert(self) -> int:
        return max((self.frame(self.table.extents[i]) for i in self.of(Kind.EXPERT)), default=0)

    @property
    def row_bytes(self) -> int:
        """Of the rows that a chunk may need; none if the embedding is on a GPU, where it is whole or not at all."""
        if any(segment == 0 for i in self.of(Kind.DEVICE) for segment, _ in self.table.extents[i].places):
            return 0
        return row_slots(self.table, self.chunk) * self.table.row_bytes

    @property
    def ring_bytes(self) -> int:
        """Of a staging ring that lacks nothing."""
        return full_ring(self.largest_op)


def full_ring(largest_op: int) -> int:
    """Of a staging ring that lacks nothing."""
    return max(largest_op, min(RING_BYTES, RING_FRAMES * largest_op))


def frame_bytes(offset: int, n_bytes: int, block: int) -> int:
    """Memory for a range that is read in whole blocks of the file."""
    if block == 1:
        return aligned(n_bytes)
    return -(-(offset + n_bytes) // block) * block - offset // block * block


def row_slots(table: LayerTable, chunk: int) -> int:
    """Rows of the embedding that are held at once: of each token of a chunk, if all differ."""
    return min(chunk, table.n_rows)


def make_plan(
    table: LayerTable,
    sizes_of: SizesOf,
    budget: int,
    context: int | None,
    n_ctx_train: int,
    *,
    policy: str = "plan",
    block: int = 1,
    chunk: int = 256,
) -> Plan:
    """What lies where within the budget, or BudgetError with the smallest that would do.

    context None: the model's own, at most 4096, lowered to what the budget holds. block: what reads of streamed weights are
    widened to. chunk: tokens that pass through the layers together.
    """
    demand = Demand(table, block, chunk)
    if context is not None:
        return _for_context(demand, sizes_of, budget, context, policy, ())
    wanted = min(n_ctx_train, DEFAULT_CONTEXT)
    sizes, all_weights = sizes_of(0), demand.resident_bytes
    fixed = all_weights + sizes.state_bytes + sizes.activation_bytes
    chosen = lowered(wanted, min(wanted, RESIDENT_CONTEXT), lambda n: fixed + sizes.kv_bytes(n) <= budget)
    if fixed + sizes.kv_bytes(chosen) > budget:
        least = min(wanted, SMALLEST_CONTEXT)
        share, most = budget // KV_SHARE, budget
        chosen = lowered(wanted, least, lambda n: sizes.kv_bytes(n) <= share and _minimum(demand, sizes, n) <= most)
    notes: tuple[str, ...] = ()
    if chosen < wanted:
        why = "more do not fit" if fixed + sizes.kv_bytes(chosen) <= budget else f"more would take over 1/{KV_SHARE} of"
        notes = (f"the context is {chosen} positions, not {wanted}: {why} a memory budget of {mib(budget)}",)
    return _for_context(demand, sizes_of, budget, chosen, policy, notes)


def lowered(wanted: int, least: int, fits: Callable[[int], bool]) -> int:
    """The longest context that fits, in steps of an eighth; `least` if none does."""
    chosen = wanted
    while chosen > least and not fits(chosen):
        chosen = max(least, chosen * 7 // 8)
    return chosen


def _minimum(demand: Demand, sizes: Sizes, context: int) -> int:
    """The smallest budget: all weights stream through a ring of one op's, experts one at a time."""
    weights = demand.largest_op + demand.largest_expert + aligned(demand.row_bytes) + _padding(demand)
    return weights + sizes.kv_bytes(context) + sizes.state_bytes + sizes.activation_bytes


def _padding(demand: Demand) -> int:
    return 3 * demand.block if demand.block > 1 else 0


def _for_context(
    demand: Demand, sizes_of: SizesOf, budget: int, context: int, policy: str, notes: tuple[str, ...]
) -> Plan:
    table, alone = demand.table, sizes_of(0)
    everything = demand.resident_bytes
    others = alone.kv_bytes(context) + alone.state_bytes + alone.activation_bytes
    minimum = min(_minimum(demand, alone, context), everything + others)
    if budget < minimum:
        raise BudgetError(_too_small(demand, alone, budget, context, minimum, everything + others), minimum)
    kept_rows, sizes = 0, alone
    parts = _resident(table, budget - others, demand)
    if parts is None and context > demand.chunk:
        # One pass over the weights for a whole prompt, if there is room for what that keeps.
        whole = sizes_of(context)
        room = budget - others + alone.activation_bytes - whole.activation_bytes
        if room >= demand.ring_bytes + demand.largest_expert + aligned(demand.row_bytes) + _padding(demand):
            kept_rows, sizes, others = context, whole, budget - room
    if parts is None:
        parts = _streaming(demand, budget - others, policy, whole=kept_rows > 0)
    resident = set(parts.resident)
    streamed = [i for i in demand.of(Kind.DENSE, Kind.EXPERT) if i not in resident]
    if streamed and parts.resident_bytes < everything and context > demand.chunk and not kept_rows:
        notes = (*notes, "a budget this small makes a long prompt read the streamed weights once for each chunk of its tokens")
    extents = table.extents
    return Plan(
        context=context,
        weight_bytes=parts.resident_bytes + parts.ring_bytes + parts.expert_bytes + parts.padding,
        kv_bytes=sizes.kv_bytes(context),
        state_bytes=sizes.state_bytes,
        activation_bytes=sizes.activation_bytes + parts.row_bytes,
        budget=budget,
        resident_bytes=parts.resident_bytes,
        streamed_bytes=sum(extents[i].n_bytes for i in streamed),
        touched_bytes=table.touched_bytes,
        device_bytes=sum(extents[i].n_bytes for i in demand.of(Kind.DEVICE)),
        staging_bytes=parts.ring_bytes,
        expert_cache_bytes=parts.expert_bytes,
        row_bytes=parts.row_bytes,
        kept_rows=kept_rows,
        minimum_bytes=minimum,
        policy=policy,
        block=demand.block if streamed else 1,
        homes=homes(table, resident),
        parts=parts,
        notes=notes,
    )


def _resident(table: LayerTable, room: int, demand: Demand) -> Parts | None:
    """All that a pass touches in memory: with the embedding, or without it if there is only room for rows of it."""
    everything = tuple(demand.of(Kind.DENSE, Kind.EXPERT, Kind.ROWS))
    n_bytes, upload = sum(aligned(table.extents[i].n_bytes) for i in everything), demand.upload_bytes
    if n_bytes + upload <= room:
        return Parts(everything, n_bytes, upload)
    touched = tuple(demand.of(Kind.DENSE, Kind.EXPERT))
    n_bytes = sum(aligned(table.extents[i].n_bytes) for i in touched)
    rows = aligned(demand.row_bytes)
    if n_bytes + rows + upload <= room and len(touched) < len(everything):
        return Parts(touched, n_bytes, upload, row_bytes=rows)
    return None


def _streaming(demand: Demand, room: int, policy: str, whole: bool) -> Parts:
    """Some resident, the others through the ring or the experts' cache. whole: stages need the ring at its full size."""
    table, rows, padding = demand.table, aligned(demand.row_bytes), _padding(demand)
    room = (room - rows - padding) // ALIGNMENT * ALIGNMENT  # a cache of all of it is a frame of the memory
    if policy != "plan":  # one cache for all
        return Parts((), 0, ring_bytes=room, row_bytes=rows, padding=padding)
    dense, experts = demand.of(Kind.DENSE), demand.of(Kind.EXPERT)
    sizes = [demand.frame(extent) for extent in table.extents]
    total = demand.bytes_of(dense)
    left = room - total - demand.upload_bytes
    if experts and demand.largest_expert <= left:  # every token needs the others; of experts each a few
        return Parts(tuple(dense), total, demand.upload_bytes, left, rows, padding)
    expert_bytes = 0
    if experts:
        used = 2 * demand.largest_expert
        expert_bytes = max(demand.largest_expert, min(used, room - demand.ring_bytes, demand.bytes_of(experts)))
    room -= expert_bytes
    lack = total - room
    ring = demand.ring_bytes if whole else max(2 * demand.largest_op, min(lack, demand.ring_bytes))
    ring = max(demand.largest_op, min(ring, room))
    resident = fill([dense[i] for i in spread([sizes[i] for i in dense])], sizes, room - ring)
    resident_bytes = sum(sizes[i] for i in resident)
    left = room - ring - resident_bytes  # too little for any other tensor
    grown = max(ring, min(RING_BYTES, ring + left) // ALIGNMENT * ALIGNMENT)
    return Parts(tuple(resident), resident_bytes, grown, expert_bytes, rows, padding)


def homes(table: LayerTable, resident: Set[int]) -> dict[str, str]:
    """Of each tensor: device, memory, stream, experts (read when chosen), rows (of the embedding), or both, in chunks."""
    found: dict[str, set[str]] = {}
    for i, extent in enumerate(table.extents):
        elsewhere = {Kind.DENSE: "stream", Kind.EXPERT: "experts", Kind.ROWS: "rows", Kind.DEVICE: "device"}[extent.kind]
        found.setdefault(extent.tensor, set()).add("memory" if i in resident else elsewhere)
    return {tensor: places.pop() if len(places) == 1 else "both" for tensor, places in found.items()}


def _too_small(demand: Demand, sizes: Sizes, budget: int, context: int, minimum: int, everything: int) -> str:
    others = sizes.state_bytes + sizes.activation_bytes
    streaming = minimum - sizes.kv_bytes(context) - others
    return (
        f"a memory budget of {budget} bytes is too small: with a context of {context} this model needs {mib(minimum)} "
        f"({mib(sizes.kv_bytes(context))} key/value cache, {mib(others)} activations, {mib(streaming)} for weights while "
        f"they are used), and {mib(everything)} to keep all of them; raise --memory or lower --context"
    )


def mib(n_bytes: int) -> str:
    """Rounded up, so that the budget which a message asks for is enough."""
    return f"{math.ceil(10 * n_bytes / 2**20) / 10:.1f} MiB"
