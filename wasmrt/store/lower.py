"""lower: a budget that shrinks while a model is open. What has to leave is streamed from then on."""

import asyncio
from dataclasses import replace

from wasmrt.errors import BudgetError
from wasmrt.store.frames import Frames, Held
from wasmrt.store.layers import Kind, LayerTable
from wasmrt.store.memory import ALIGNMENT
from wasmrt.store.order import Order
from wasmrt.store.plan import Plan, full_ring, homes, mib
from wasmrt.store.pool import Pool
from wasmrt.store.source import Source

RING_OPS = 4  # a ring that takes the place of residents holds so many ops' weights, if the budget allows


async def lower(frames: Frames, table: LayerTable, order: Order, source: Source, budget: int) -> None:
    """Keep to a smaller budget from now on, between two passes and while nothing is read ahead. Changes frames.plan.

    Of what is resident leaves first what came last, so that the rest stays spread; then the caches shrink. If nothing was
    streamed so far, a ring takes the place of some of it. BudgetError, and no change, if less is left than an op needs.
    """
    excess = frames.plan.total_bytes - budget
    ring, experts = least_bytes(frames, order)
    leaving = [i for i in reversed(frames.plan.parts.resident) if may_leave(frames, i)]
    spare = sum(frames.held[i].n_bytes for i in leaving) + max(0, frames.expert_cache.limit - experts)
    spare += frames.ring.limit - ring if frames.ring.limit else -ring
    if excess > spare:
        least = mib(budget + excess - max(0, spare))
        raise BudgetError(f"a memory budget of {budget} bytes is too small: this model, as opened, needs {least}")
    if excess > 0 and not frames.ring.limit:
        await source.bypass_cache()
        carve_ring(frames, ring, min(RING_OPS * ring, ring + spare - excess))
    try:
        for i in leaving:
            if excess > 0 and frames.stays(i):
                excess -= await give_up(frames, i)
        for pool, least_of in ((frames.expert_cache, experts), (frames.ring, ring)):
            if excess > 0 and pool.limit > least_of:
                excess -= await shrink(frames, pool, max(least_of, pool.limit - excess) // ALIGNMENT * ALIGNMENT)
    finally:
        frames.plan = plan_now(frames, table, budget)


def least_bytes(frames: Frames, order: Order) -> tuple[int, int]:
    """The smallest ring and cache of experts: of one op, or of a stage if chunks of a prompt go through it together."""
    stays = {i for i in range(len(frames.held)) if frames.stays(i) and not may_leave(frames, i)}
    ring = max((sum(frames.held[i].n_bytes for i in needs if i not in stays) for needs in order.dense), default=0)
    others = [held.n_bytes for held in frames.held if held.pool is frames.ring and held.extent.kind is Kind.EXPERT]
    ring = max([ring, *others])  # where one cache is for all
    experts = max((held.n_bytes for held in frames.held if held.pool is frames.expert_cache), default=0)
    if frames.plan.kept_rows:  # stages were cut for a ring that lacks nothing; there is none yet if only experts were streamed
        ring = frames.plan.parts.ring_bytes or full_ring(ring)
    return ring, -(-experts // ALIGNMENT) * ALIGNMENT


def may_leave(frames: Frames, i: int) -> bool:
    """Whether a resident can be streamed: not an embedding that is read in memory, nor an expert without a cache."""
    extent = frames.held[i].extent
    embedded = not frames.by_rows and any(segment == 0 for segment, _ in extent.places)
    return frames.stays(i) and not embedded and extent.kind is Kind.DENSE


def carve_ring(frames: Frames, least: int, wanted: int) -> None:
    """Make a ring of the frames of neighbours: of the first that are as large as wanted, or else of the largest."""
    there = sorted((i for i, held in enumerate(frames.held) if held.there), key=lambda i: frames.held[i].frame)
    window: list[int] = []
    best: list[int] = []
    for i in there:
        last: Held | None = frames.held[window[-1]] if window else None
        adjacent = last is not None and last.frame + last.n_bytes == frames.held[i].frame
        window = [*(window if adjacent else ()), i] if may_leave(frames, i) else []
        if size_of(frames, window) > size_of(frames, best) and size_of(frames, window[:-1]) < wanted:
            best = window
    n_bytes = size_of(frames, best)
    if n_bytes < least:
        raise BudgetError("no part of what is resident is large enough to stream through; open the model again")
    for i in best:
        frames.leave(i)
        frames.resident.hand_over(frames.held[i].frame)
    frames.ring = Pool(frames.held[best[0]].frame, n_bytes)
    frames.resident.limit -= n_bytes
    for i in best:
        frames.held[i].pool = frames.ring


def size_of(frames: Frames, extents: list[int]) -> int:
    return sum(frames.held[i].n_bytes for i in extents)


async def give_up(frames: Frames, i: int) -> int:
    """A resident becomes one that is streamed; returns the bytes that this frees."""
    held = frames.held[i]
    while held.read is not None:
        await asyncio.wait([held.read.done])
    if held.there:
        frames.leave(i)
    if held.frame:  # also if its read failed
        frames.resident.free(held.frame)
        frames.memory.release(held.frame, held.n_bytes)
    frames.resident.limit -= held.n_bytes
    held.pool = frames.ring
    return held.n_bytes


async def shrink(frames: Frames, pool: Pool, n_bytes: int) -> int:
    """Empty a cache and make it smaller; returns the bytes that this frees."""
    while reads := [read.done for i in frames.occupants(pool) if (read := frames.held[i].read) is not None]:
        await asyncio.wait(reads)
    for i in list(frames.occupants(pool)):
        frames.evict(i)
    freed = pool.cut(n_bytes)
    frames.memory.release(pool.start + n_bytes, freed)
    return freed


def plan_now(frames: Frames, table: LayerTable, budget: int) -> Plan:
    """The plan with what is resident, streamed and held in caches now."""
    plan = frames.plan
    resident = tuple(i for i in plan.parts.resident if frames.stays(i))
    n_bytes = size_of(frames, list(resident))
    ring_bytes, expert_bytes = frames.ring.limit, frames.expert_cache.limit
    parts = replace(plan.parts, resident=resident, resident_bytes=n_bytes, ring_bytes=ring_bytes, expert_bytes=expert_bytes)
    elsewhere = Kind.ROWS, Kind.DEVICE
    streamed = [held for held in frames.held if held.pool is not frames.resident and held.extent.kind not in elsewhere]
    return replace(
        plan,
        budget=budget,
        resident_bytes=n_bytes,
        parts=parts,
        staging_bytes=ring_bytes,
        expert_cache_bytes=expert_bytes,
        homes=homes(table, set(resident)),
        weight_bytes=n_bytes + ring_bytes + expert_bytes + parts.padding,
        streamed_bytes=sum(held.extent.n_bytes for held in streamed),
    )
