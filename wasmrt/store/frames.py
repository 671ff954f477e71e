"""Frames: extents in memory. Finds them a place, reads them into it, and lets others leave for them.

An extent is in one of three states: absent, on its way into a frame, or there. What is pinned does not leave.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from wasmrt.errors import BudgetError, DeviceError, SourceError
from wasmrt.store import policy
from wasmrt.store.fetcher import Fetcher, Read
from wasmrt.store.layers import Extent, Kind, LayerTable
from wasmrt.store.memory import Frame, Memory, Words
from wasmrt.store.metrics import StoreMetrics
from wasmrt.store.order import Order
from wasmrt.store.plan import Plan, frame_bytes, mib
from wasmrt.store.pool import Pool
from wasmrt.store.source import Source

# Takes the bytes of a weight that stays on a GPU, for its places (segment, entry), to where it stays.
Upload: TypeAlias = Callable[[Sequence[tuple[int, int]], Frame], None]
Addresses: TypeAlias = Words


@dataclass(eq=False, slots=True)
class Held:
    """An extent and what the store knows of it."""

    extent: Extent
    pool: Pool
    n_bytes: int  # of its frame
    frame: int = 0
    read: Read | None = None  # on its way
    there: bool = False
    fresh: bool = False  # read ahead and not used yet
    seen: bool = False  # has been there before
    pins: int = 0
    last_use: int = 0


class Frames:
    """Where each extent is. `held[i]` is what is known of extent i; address tables are kept up to date."""

    def __init__(
        self,
        source: Source,
        table: LayerTable,
        memory: Memory,
        tables: Sequence[Addresses],
        plan: Plan,
        order: Order,
        upload: Upload | None = None,
    ) -> None:
        self.metrics = StoreMetrics()
        self.fetcher = Fetcher(source, self.metrics)
        self.tables = tables
        self.memory = memory
        self.plan = plan
        self.by_rows = plan.parts.row_bytes > 0  # the embedding's entries stand for rows, wherever its extents are
        self.then: Callable[[int], None] = lambda i: None  # told of each extent that has come
        self.popularity = policy.Popularity(len(table.extents))
        self._source, self._order, self._upload = source, order, upload
        at, pools = memory.allocate(plan.weight_bytes), []
        for n_bytes in (plan.parts.resident_bytes, plan.parts.ring_bytes, plan.parts.expert_bytes):
            at = -(-at // plan.block) * plan.block
            pools.append(Pool(at, n_bytes))
            at += n_bytes
        self.resident, self.ring, self.expert_cache = pools
        homes = set(plan.parts.resident)
        self.held = [
            Held(extent, self._pool_of(i, extent, homes), frame_bytes(extent.offset, extent.n_bytes, plan.block))
            for i, extent in enumerate(table.extents)
        ]
        self._occupants: dict[int, set[int]] = {id(pool): set() for pool in pools}
        self._uses = 0
        self._closed = False
        self._refused: DeviceError | None = None  # why the GPU takes no more weights
        self._short = 0  # of room: how many wait for it

    def _pool_of(self, i: int, extent: Extent, homes: set[int]) -> Pool:
        if i in homes:
            return self.resident
        own = extent.kind is Kind.EXPERT and self.plan.parts.expert_bytes
        return self.expert_cache if own else self.ring

    def stays(self, i: int) -> bool:
        """Whether an extent's home is memory."""
        return self.held[i].pool is self.resident

    @property
    def used(self) -> int:
        """Bytes that frames take."""
        return self.resident.used + self.ring.used + self.expert_cache.used

    def are_there(self, extents: Sequence[int]) -> bool:
        return all(self.held[i].there for i in extents)

    def occupants(self, pool: Pool) -> set[int]:
        """The extents with a frame in a pool."""
        return self._occupants.setdefault(id(pool), set())

    # Pins

    def pin(self, extents: Sequence[int], pinned: list[int]) -> None:
        """Keep these until they are unpinned; they are added to `pinned`."""
        for i in extents:
            self.held[i].pins += 1
            pinned.append(i)

    def unpin(self, pinned: list[int]) -> None:
        """What was pinned has been used."""
        for i in pinned:
            held = self.held[i]
            held.pins -= 1
            held.fresh = False
            self._uses += 1
            held.last_use = self._uses
        pinned.clear()

    # Reading

    def address(self, held: Held) -> int:
        return held.frame + held.extent.offset % self.plan.block

    def begin(self, i: int, demand: bool) -> bool:
        """Begin to read an extent that is absent, if there is room; whether it was begun."""
        held = self.held[i]
        if held.there:
            return False
        if held.read is not None:
            if demand:
                self.fetcher.hurry(held.read)
            return False
        self.fetcher.check_open()  # the memory may be gone, too
        if self._short and not demand:
            return False  # or it would take, again and again, the room that left for what is wanted now
        frame = self._allocate(i, demand)
        if frame is None:
            return False
        held.frame, held.fresh = frame, True
        self.occupants(held.pool).add(i)
        offset = held.extent.offset // self.plan.block * self.plan.block
        n_bytes = min(held.n_bytes if self.plan.block > 1 else held.extent.n_bytes, self._source.size - offset)
        held.read = self.fetcher.read(offset, self.memory.place(frame, n_bytes), demand, lambda read: self._arrived(i, read))
        self.metrics.high_water_bytes = max(self.metrics.high_water_bytes, self.used)
        return True

    def _arrived(self, i: int, read: Read) -> None:
        """A read has ended, well or not."""
        held = self.held[i]
        held.read = None
        if self._closed:  # one that had ended before it could be cancelled: its table is gone
            return
        if read.done.cancelled() or read.done.exception() is not None:
            self.occupants(held.pool).discard(i)
            if not self.stays(i):  # a resident's place is kept: it is read again, and there is none to spare
                held.pool.free(held.frame)
            held.fresh = False
            return
        if held.seen or (held.pool is not self.resident and held.extent.kind is not Kind.DEVICE):
            self.metrics.streamed_bytes += len(read.view)
        held.there = held.seen = True
        if held.extent.kind is Kind.DEVICE:
            assert self._upload is not None
            held.fresh = False
            start = held.extent.offset % self.plan.block
            self.occupants(held.pool).discard(i)
            held.pool.free(held.frame)
            try:
                self._upload(held.extent.places, read.view[start : start + held.extent.n_bytes])
            except DeviceError as error:  # nobody awaits this: whoever wants the extent is told
                held.there, self._refused = False, error
                return
        else:
            self.enter(i, True)
        self.then(i)

    def enter(self, i: int, there: bool, only: int | None = None) -> None:
        """Write an extent's address, or its absence, into the tables (of one segment)."""
        held = self.held[i]
        address = self.address(held) if there else 0
        for segment, entry in held.extent.places:
            if only in (None, segment) and not (segment == 0 and self.by_rows):
                self.tables[segment][entry] = address

    async def bring(self, i: int) -> None:
        """Wait until an extent is there. A read that failed is done once more from here before its error is raised."""
        held, failed = self.held[i], False
        while not held.there:
            if self._refused is not None:
                raise self._refused
            if held.read is None and not self.begin(i, demand=True):
                await self._wait_for_room(held)
                continue
            read = held.read
            assert read is not None
            self.fetcher.hurry(read)
            await asyncio.wait([read.done])
            if read.done.cancelled():
                raise SourceError(f"{self._source.name!r} was closed while {held.extent.tensor!r} was read; open it again")
            error = read.done.exception()
            if error is None:
                continue  # it is there, or had to leave before we came to look
            if failed or (isinstance(error, SourceError) and not error.transient):
                raise error
            failed = True
            self.metrics.retries += 1

    async def _wait_for_room(self, held: Held) -> None:
        """Until a read into the same pool has ended: it may leave then. BudgetError if there is none."""
        reads = [self.held[j].read for j in self.occupants(held.pool)]
        waiting = [read.done for read in reads if read is not None]
        if not waiting:
            raise BudgetError(
                f"tensor {held.extent.tensor!r} needs {mib(held.n_bytes)} beside what is in use, and the memory budget of "
                f"{mib(held.pool.limit)} for such pieces does not hold both; raise --memory"
            )
        self._short += 1
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._short -= 1

    # Room

    def _allocate(self, i: int, demand: bool) -> int | None:
        """A frame for an extent, in place of others if need be; None if nothing may leave for it."""
        held = self.held[i]
        if self.stays(i) and held.frame:  # its read failed
            return held.frame
        while (frame := held.pool.allocate(held.n_bytes)) is None:
            victim = self._victim(i, demand)
            if victim is None:
                return None
            self.evict(victim)
        return frame

    def _victim(self, i: int, demand: bool) -> int | None:
        """What leaves first. What is pinned or on its way stays; what was read ahead leaves only for what is wanted now."""
        held = self.held
        may = [j for j in self.occupants(held[i].pool) if held[j].there and not held[j].pins]
        old = [j for j in may if not held[j].fresh]
        if held[i].pool is self.expert_cache:
            # An expert that is read ahead takes the place of none that is used more often.
            victim = policy.least_popular(old, self.popularity.score, lambda j: held[j].last_use)
        elif self.plan.policy == "lru":
            victim = policy.least_recent(old, lambda j: held[j].last_use)
        else:
            victim = policy.farthest(old, self._order.next_use)
            if victim is not None and not demand and self._order.next_use(victim) <= self._order.next_use(i):
                victim = None
        if victim is None and demand:
            victim = policy.farthest(may, self._order.next_use)
        return victim

    def evict(self, i: int) -> None:
        self.leave(i)
        self.held[i].pool.free(self.held[i].frame)

    def leave(self, i: int) -> None:
        """An extent is absent from now on; its frame is still taken."""
        held = self.held[i]
        self.enter(i, False)
        self.occupants(held.pool).discard(i)
        held.there = held.fresh = False
        self.metrics.evictions += 1

    async def close(self) -> None:
        """End all reads; nothing writes to the memory any more."""
        self._closed = True
        await self.fetcher.close()
        for held in self.held:  # a pass may still be on its way out: memory and tables are gone before it is
            held.there = False
