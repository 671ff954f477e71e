"""LayerStore: brings a model's byte ranges into memory ahead of their use, and fills each segment's address table.

All state is changed on the event loop, between two awaits; meanwhile reads go on, and computing in threads of the device. What
a run uses is pinned. An extent is in one of three states: absent, on its way into a frame, or there.
"""

import asyncio
import time
from array import array
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeAlias

from wasmrt.errors import BudgetError, SourceError
from wasmrt.store import policy
from wasmrt.store.fetcher import Fetcher, Read
from wasmrt.store.layers import Extent, Kind, LayerTable, Stage
from wasmrt.store.memory import ALIGNMENT, Memory
from wasmrt.store.metrics import StoreMetrics
from wasmrt.store.plan import Plan, frame_bytes, homes, mib, row_slots
from wasmrt.store.pool import Pool
from wasmrt.store.predict import Cyclic, Predictor
from wasmrt.store.source import Source

Addresses: TypeAlias = "array[int] | memoryview[int]"  # 64-bit
Progress = Callable[[int, int], None]  # bytes read so far, bytes in all
Chosen = Callable[[int, int, int], Collection[int]]  # segment, op that routed, chunk: the experts that it chose

RUN_SHARE = 4  # a run takes at most one part in so many of the ring: the rest is refilled meanwhile
FIRST_DISTANCE, MOST_DISTANCE = 2, 32  # extents that are read ahead where that costs places: see _distance
CALM = 64  # uses without a stall after which less is read ahead


@dataclass(frozen=True, slots=True)
class Part:
    """What may run now: consecutive segments, from op ops.start of the first to before op ops.stop of the last."""

    segments: range
    ops: range
    chunk: int = 0  # which chunk of the prompt
    partial: bool = False  # of experts only those that are in memory


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


class LayerStore:
    """Weights of one model. `tables[i]` is segment i's address table, a device's; 0 marks an entry that is not in memory.

    prefetch: extents that are read ahead at most; None: as many as the ring holds, or as stalls ask for; 0: none.
    """

    def __init__(
        self,
        source: Source,
        table: LayerTable,
        memory: Memory,
        tables: Sequence[Addresses],
        plan: Plan,
        prefetch: int | None = None,
        predictor: Predictor | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.metrics = StoreMetrics()
        self.tables = tables
        self.progress = progress  # told of bytes until all that stays is there
        self._source, self._table, self._memory, self._plan = source, table, memory, plan
        self._prefetch = prefetch
        self._predictor = predictor or Cyclic(len(table.segments))
        self._fetcher = Fetcher(source, self.metrics)
        parts, block = plan.parts, plan.block
        at = memory.allocate(plan.weight_bytes)
        pools = []
        for n_bytes in (parts.resident_bytes, parts.ring_bytes, parts.expert_bytes):
            at = -(-at // block) * block
            pools.append(Pool(at, n_bytes))
            at += n_bytes
        self._resident, self._ring, self._expert_cache = pools
        homes = set(parts.resident)
        self._held = [
            Held(extent, self._pool_of(i, extent, homes), frame_bytes(extent.offset, extent.n_bytes, block))
            for i, extent in enumerate(table.extents)
        ]
        self._occupants: dict[int, set[int]] = {id(pool): set() for pool in pools}
        self._popularity = policy.Popularity(len(self._held))
        self._by_rows = parts.row_bytes > 0
        self._rows = memory.allocate(parts.row_bytes) if self._by_rows else 0
        self._row_of: OrderedDict[int, int] = OrderedDict()  # token -> row, the least recently used first
        self._place_rows()
        # All ops of a pass in a row.
        self._flat = [(s, op) for s, segment in enumerate(table.segments) for op in range(len(segment.uses))]
        self._start_of = [0]
        for segment in table.segments:
            self._start_of.append(self._start_of[-1] + len(segment.uses))
        kinds = [held.extent.kind for held in self._held]
        self._dense = [tuple(i for i in table.needs[s][op] if kinds[i] is Kind.DENSE) for s, op in self._flat]
        self._experts = [tuple(i for i in table.needs[s][op] if kinds[i] is Kind.EXPERT) for s, op in self._flat]
        self._uses = self._uses_of()
        self._by_offset = {held.extent.offset: held for held in self._held}
        # Ops whose experts may have to be read once a router has chosen, and the routers before them.
        self._routed_ops = {
            at for at, experts in enumerate(self._experts) if any(self._held[i].pool is not self._resident for i in experts)
        }
        self._routers = {
            at for at, (s, op) in enumerate(self._flat)
            if op in table.segments[s].routes and self._routed_ops.intersection(range(at, self._start_of[s + 1]))
        }
        self._complete = False  # known to be
        self._missing = {i for i, held in enumerate(self._held) if held.pool is self._resident}  # residents that are not there
        self._moving: list[list[tuple[int, int]]] | None = None  # of each segment, (op, extent) of what may have to be read
        self._cursor = 0  # the first op, of all in a row, that has not run
        self._now = 0  # counts uses
        self._adaptive = FIRST_DISTANCE
        self._calm = 0
        self._stalled: set[int] = set()  # segments, of the pass that runs
        self._demanded: set[int] = set()
        self._routed: dict[int, set[int]] = {}  # segment -> the experts that its router chose

    def _pool_of(self, i: int, extent: Extent, homes: set[int]) -> Pool:
        if i in homes:
            return self._resident
        own = extent.kind is Kind.EXPERT and self._plan.parts.expert_bytes
        return self._expert_cache if own else self._ring

    def _uses_of(self) -> list[list[int]]:
        """For each extent, the ops that use it, of all in a row."""
        uses: list[list[int]] = [[] for _ in self._held]
        for at, (dense, experts) in enumerate(zip(self._dense, self._experts, strict=True)):
            for i in (*dense, *experts):
                uses[i].append(at)
        return uses

    # Everything at once

    async def load(self, progress: Progress | None = None) -> None:
        """Read what is resident, in the order of use. May be cancelled; what was read so far stays."""
        order = [i for i, held in enumerate(self._held) if held.pool is self._resident]
        total = sum(self._held[i].extent.n_bytes for i in order)
        done = sum(self._held[i].extent.n_bytes for i in order if self._held[i].there)
        for at, i in enumerate(order):
            for ahead in order[at : at + self._fetcher.at_once]:
                self._begin(ahead, demand=False)
            was_there = self._held[i].there and self._held[i].seen and not self._held[i].fresh
            await self._bring(i)
            self._held[i].fresh = False
            if not was_there:
                done += self._held[i].extent.n_bytes
                if progress:
                    progress(done, total)

    @property
    def is_complete(self) -> bool:
        """Whether all that a pass needs is resident and there."""
        if not self._complete and not self._plan.streams:
            self._complete = all(held.there for held in self._held if held.pool is self._resident)
        return self._complete

    # A pass

    async def parts(
        self, n_segments: int, n_chunks: int = 1, stages: Sequence[Stage] = (), chosen: Chosen | None = None
    ) -> AsyncGenerator[Part, None]:
        """A pass through the first n_segments, in parts that may run now: their weights are pinned until the next is asked for.

        Of several chunks each goes through a stage before the next one's weights come; through the head only the last goes.
        Whoever leaves early closes it, and with it all that is inside: a pin that goes later could meet the next pass.
        """
        if self.is_complete and n_chunks == 1:
            self.metrics.hits += n_segments
            yield Part(range(n_segments), range(len(self._table.segments[n_segments - 1].uses)))
            return
        if isinstance(self._predictor, Cyclic):
            self._predictor.end = n_segments
        self._stalled.clear()
        self._demanded.clear()
        self._routed.clear()
        self._move(0)
        last = n_segments - 1 if n_chunks > 1 else 0
        for stage in stages if n_chunks > 1 else ():
            if stage.segment < last:
                async with aclosing(self._stage(stage, n_chunks, chosen)) as parts:
                    async for part in parts:
                        yield part
        async with aclosing(self._flow(self._start_of[last], self._start_of[n_segments], n_chunks - 1, chosen)) as parts:
            async for part in parts:
                yield part
        self._move(0)
        stalls = len(self._stalled)
        self.metrics.stalls += stalls
        self.metrics.hits += n_segments - stalls
        self.metrics.demand_loads += len(self._demanded)
        self._pump()

    async def _flow(self, start: int, end: int, chunk: int, chosen: Chosen | None) -> AsyncGenerator[Part, None]:
        """One chunk through ops [start, end), as many at once as are ready, and as leave the ring room to be refilled."""
        at = start
        while at < end:
            if at in self._routed_ops:
                async with aclosing(self._through_experts(at, (chunk,), chosen)) as parts:
                    async for part in parts:
                        yield part
                at += 1
                self._move(at)
                continue
            pinned: list[int] = []
            try:
                stop = await self._gather(at, end, pinned, self._run_bytes)
                self._move(at)
                yield self._part(at, stop, chunk)
            finally:
                self._unpin(pinned)
            await self._after_route(stop - 1, (chunk,), chosen)
            at = stop
            self._move(at)

    async def _stage(self, stage: Stage, n_chunks: int, chosen: Chosen | None) -> AsyncGenerator[Part, None]:
        """All chunks through some ops of a segment: the first as its weights arrive, the others with all of them there."""
        start, end = (self._start_of[stage.segment] + op for op in (stage.ops.start, stage.ops.stop))
        chunks = range(n_chunks)
        if start in self._routed_ops:
            async with aclosing(self._through_experts(start, chunks, chosen)) as parts:
                async for part in parts:
                    yield part
            self._move(end)
            return
        pinned: list[int] = []
        try:
            at = start
            while at < end:
                stop = await self._gather(at, end, pinned, self._run_bytes)
                self._move(stop)
                yield self._part(at, stop, 0)
                at = stop
            for chunk in chunks[1:]:
                yield self._part(start, end, chunk)
        finally:
            self._unpin(pinned)
        await self._after_route(end - 1, chunks, chosen)
        self._move(end)

    @property
    def _run_bytes(self) -> int:
        return self._ring.limit // RUN_SHARE

    def _part(self, start: int, stop: int, chunk: int, partial: bool = False) -> Part:
        (first, op), (last, last_op) = self._flat[start], self._flat[stop - 1]
        return Part(range(first, last + 1), range(op, last_op + 1), chunk, partial)

    async def _gather(self, start: int, end: int, pinned: list[int], most: int) -> int:
        """Pin what the ops from `start` on need, waiting for the first of them only; returns the op before which to stop."""
        at, streamed = start, 0
        while at < end and at not in self._routed_ops:
            needs = self._dense[at]
            if not all(self._held[i].there for i in needs):
                if at > start:
                    break
                await self._wait_for(at, needs, pinned)
            else:
                self._pin(needs, pinned)
            streamed += sum(self._held[i].n_bytes for i in needs if self._held[i].pool is self._ring)
            at += 1
            if streamed > most or at - 1 in self._routers:
                break
        return at

    def _pin(self, extents: Sequence[int], pinned: list[int]) -> None:
        for i in extents:
            self._held[i].pins += 1
            pinned.append(i)

    async def _wait_for(self, at: int, needs: Sequence[int], pinned: list[int]) -> None:
        """Pin what op `at` needs and wait until it is there."""
        self._pin(needs, pinned)
        segment = self._flat[at][0]
        started = time.perf_counter()
        try:
            for i in needs:
                if self._begin(i, demand=True):
                    self._demanded.add(segment)
            for i in needs:
                await self._bring(i)
        finally:
            self._stalled.add(segment)
            self.metrics.stalled_seconds += time.perf_counter() - started
            self._adapt(stalled=True)

    def _unpin(self, pinned: list[int]) -> None:
        """What was pinned has been used."""
        for i in pinned:
            held = self._held[i]
            held.pins -= 1
            held.fresh = False
            self._now += 1
            held.last_use = self._now
        if pinned:
            self._adapt(stalled=False)
        pinned.clear()

    def _move(self, at: int) -> None:
        """The ops before this one have run."""
        if at < len(self._flat) and self._flat[at][0] != self._flat[self._cursor][0]:
            self._predictor.observe(self._flat[at][0])
        self._cursor = at if at < len(self._flat) else 0
        self._pump()

    # Experts

    async def _after_route(self, at: int, chunks: Sequence[int], chosen: Chosen | None) -> None:
        """If op `at` was a router: what it chose is used more often from now on, and begins to be read."""
        if at not in self._routers:
            return
        assert chosen is not None
        segment, op = self._flat[at]
        experts = self._routed[segment] = {e for chunk in chunks for e in chosen(segment, op, chunk)}
        coming = [i for later in range(at + 1, self._start_of[segment + 1]) for i in self._named(later, experts)]
        self._popularity.used(coming)
        for i in coming:
            if self._fetcher.in_flight < self._fetcher.at_once:
                self._begin(i, demand=False)

    def _named(self, at: int, experts: Collection[int]) -> list[int]:
        """The extents of an op's experts."""
        return [self._experts[at][e] for e in sorted(experts)] if self._experts[at] else []

    async def _through_experts(self, at: int, chunks: Sequence[int], chosen: Chosen | None) -> AsyncGenerator[Part, None]:
        """All chunks through an op of experts, with as many of these at once as there is room for."""
        segment = self._flat[at][0]
        wanted = self._named(at, self._routed[segment])
        left = sorted(wanted, key=lambda i: not self._held[i].there)
        done: list[int] = []
        while left:
            pinned: list[int] = []
            try:
                batch = self._batch(segment, left)
                if all(self._held[i].there for i in batch):
                    self._pin(batch, pinned)
                else:
                    await self._wait_for(at, batch, pinned)
                partial = len(batch) < len(wanted)
                self._show(segment, done, False)  # or they would be computed again, unpinned
                for chunk in chunks:
                    yield self._part(at, at + 1, chunk, partial)
            finally:
                self._show(segment, done, True)
                self._unpin(pinned)
            done += batch
            left = [i for i in left if i not in set(batch)]

    def _batch(self, segment: int, left: Sequence[int]) -> list[int]:
        """The first of these that have room beside each other; one at the least."""
        batch: list[int] = []
        for i in left:
            held = self._held[i]
            if not held.there and held.read is None:
                if not self._begin(i, demand=True):
                    break
                self._demanded.add(segment)
            held.pins += 1
            batch.append(i)
        for i in batch:
            self._held[i].pins -= 1
        return batch or [left[0]]

    def _show(self, segment: int, extents: Sequence[int], shown: bool) -> None:
        for i in extents:
            if self._held[i].there:
                self._enter(i, shown, segment)

    # The embedding's rows

    def _place_rows(self) -> None:
        """The embedding's entries as if the rows that are held were its first."""
        if not self._by_rows:
            return
        at = self._rows
        for e, entry in enumerate(self._table.segments[0].entries):
            self.tables[0][e] = at if at < self._rows + self._plan.parts.row_bytes else 0
            at += entry.n_bytes

    async def rows(self, tokens: Sequence[int], chunk: int) -> Sequence[int]:
        """Bring the embedding's rows of at most `chunk` tokens; returns the ids by which the embedding has them now."""
        if not self._by_rows:
            return tokens
        try:
            return await self._bring_rows(tokens, chunk)
        except Exception as error:  # once more, as in _bring
            if isinstance(error, SourceError) and not error.transient:
                raise
        self.metrics.retries += 1
        return await self._bring_rows(tokens, chunk)

    async def _bring_rows(self, tokens: Sequence[int], chunk: int) -> Sequence[int]:
        self._fetcher.check_open()
        n_slots, row_of = row_slots(self._table, chunk), self._row_of
        distinct = dict.fromkeys(tokens)
        for token in distinct:
            if token in row_of:
                row_of.move_to_end(token)
        missing = [token for token in distinct if token not in row_of]
        free = sorted(set(range(n_slots)).difference(row_of.values()))
        reads: list[tuple[int, Read]] = []
        started = time.perf_counter()
        try:
            for token in missing:
                row = free.pop(0) if free else row_of.popitem(last=False)[1]
                read = self._read_row(token, row)
                if read is None:
                    row_of[token] = row
                else:
                    reads.append((token, read))
                    row_of[token] = row
            for _, read in reads:
                await asyncio.wait([read.done])
        finally:
            await self._rows_arrived(reads)
            self.metrics.stalled_seconds += time.perf_counter() - started
        for _, read in reads:
            read.done.result()
        return [row_of[token] for token in tokens]

    def _read_row(self, token: int, row: int) -> Read | None:
        """Begin to read a row, or copy it if the head, which may be the same matrix, has it in memory."""
        n_bytes = self._table.row_bytes
        entries = self._table.segments[0].entries
        per_entry = max(1, entries[0].n_bytes // n_bytes)
        entry = entries[token // per_entry]
        within = token % per_entry * n_bytes
        view = self._memory.view(self._rows + row * n_bytes, n_bytes)
        held = self._by_offset.get(entry.offset)
        if held is not None and held.there:
            view[:] = self._memory.view(self._address(held) + within, n_bytes)
            return None
        self.metrics.row_bytes_read += n_bytes
        return self._fetcher.read(entry.offset + within, view, True, lambda _: None)

    async def _rows_arrived(self, reads: Sequence[tuple[int, Read]]) -> None:
        """Forget the rows that did not come: only once nothing writes to them. What is still under way is given up."""
        cancelled = False
        for _, read in reads:
            self._fetcher.cancel(read)
        for token, read in reads:
            while not read.done.done():
                try:
                    await asyncio.wait([read.done])
                except asyncio.CancelledError:
                    cancelled = True
            if read.done.cancelled() or read.done.exception() is not None:
                self._row_of.pop(token, None)
        if cancelled:
            raise asyncio.CancelledError

    # Reading

    def _address(self, held: Held) -> int:
        return held.frame + held.extent.offset % self._plan.block

    def _begin(self, i: int, demand: bool) -> bool:
        """Begin to read an extent that is absent, if there is room; whether it was begun."""
        held = self._held[i]
        if held.there:
            return False
        if held.read is not None:
            if demand:
                self._fetcher.hurry(held.read)
            return False
        self._fetcher.check_open()  # the memory may be gone, too
        frame = self._allocate(i, demand)
        if frame is None:
            return False
        held.frame, held.fresh = frame, True
        self._occupants[id(held.pool)].add(i)
        offset = held.extent.offset // self._plan.block * self._plan.block
        n_bytes = min(held.n_bytes if self._plan.block > 1 else held.extent.n_bytes, self._source.size - offset)
        held.read = self._fetcher.read(offset, self._memory.view(frame, n_bytes), demand, lambda read: self._arrived(i, read))
        used = sum(pool.used for pool in (self._resident, self._ring, self._expert_cache))
        self.metrics.high_water_bytes = max(self.metrics.high_water_bytes, used)
        return True

    def _arrived(self, i: int, read: Read) -> None:
        """A read has ended, well or not."""
        held = self._held[i]
        held.read = None
        if read.done.cancelled() or read.done.exception() is not None:
            self._occupants[id(held.pool)].discard(i)
            held.pool.free(held.frame)
            held.fresh = False
            return
        if held.seen or held.pool is not self._resident:
            self.metrics.streamed_bytes += len(read.view)
        held.there = held.seen = True
        self._enter(i, True)
        if self.progress is not None:
            self._tell_progress()
        self._pump()

    def _tell_progress(self) -> None:
        assert self.progress is not None
        dense = [held for held in self._held if held.extent.kind is Kind.DENSE]
        done = sum(held.extent.n_bytes for held in dense if held.seen)
        total = sum(held.extent.n_bytes for held in dense)
        self.progress(done, total)
        if done == total:
            self.progress = None

    def _enter(self, i: int, there: bool, only: int | None = None) -> None:
        """Write an extent's address, or its absence, into the tables (of one segment)."""
        held = self._held[i]
        address = self._address(held) if there else 0
        for segment, entry in held.extent.places:
            if only in (None, segment) and not (segment == 0 and self._by_rows):
                self.tables[segment][entry] = address

    async def _bring(self, i: int) -> None:
        """Wait until an extent is there. A read that failed is done once more from here before its error is raised."""
        held, failed = self._held[i], False
        while not held.there:
            if held.read is None and not self._begin(i, demand=True):
                await self._wait_for_room(held)
                continue
            read = held.read
            assert read is not None
            self._fetcher.hurry(read)
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
        reads = [self._held[j].read for j in self._occupants[id(held.pool)]]
        waiting = [read.done for read in reads if read is not None]
        if not waiting:
            raise BudgetError(
                f"tensor {held.extent.tensor!r} needs {mib(held.n_bytes)} beside what is in use, and the memory budget of "
                f"{mib(held.pool.limit)} for such pieces does not hold both; raise --memory"
            )
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    def _pump(self) -> None:
        """Begin to read what is needed next, as far as there is room."""
        if self._prefetch == 0 or self._fetcher.in_flight >= self._fetcher.at_once:
            return
        distance, ahead = self._distance(), 0
        for i in self._upcoming():
            held = self._held[i]
            if held.there and not held.fresh:
                continue
            ahead += 1
            if ahead > distance:
                return
            if held.there or held.read is not None:
                continue
            if not self._begin(i, demand=False) or self._fetcher.in_flight >= self._fetcher.at_once:
                return

    def _upcoming(self) -> Iterator[int]:
        """Extents in the order in which they will be used, from the op that runs next to the end of the pass after this.

        Once all residents are there, they are passed over: this is walked at each read's end, and they are most of a pass.
        """
        if self._moving is None or self._missing:
            self._missing = {i for i in self._missing if not self._held[i].there}
            self._moving = [
                [(at, i) for at in range(self._start_of[s], self._start_of[s + 1]) for i in self._dense[at]
                 if i in self._missing or self._held[i].pool is not self._resident]
                for s in range(len(self._table.segments))
            ]  # fmt: skip
        here = self._flat[self._cursor][0]
        for at, i in self._moving[here]:
            if at >= self._cursor:
                yield i
        for segment in self._predictor.predict_next(len(self._table.segments)):
            for _, i in self._moving[segment]:
                yield i

    def _distance(self) -> int:
        """How many extents to read ahead. A ring is there for nothing else; in a cache each takes another's place."""
        if self._prefetch is not None:
            return self._prefetch
        return len(self._held) if self._plan.policy == "plan" else self._adaptive

    def _adapt(self, stalled: bool) -> None:
        """Further ahead after a stall, less far after a long time without."""
        self._calm = 0 if stalled else self._calm + 1
        if stalled:
            self._adaptive = min(MOST_DISTANCE, self._adaptive + 1)
        elif self._calm >= CALM:
            self._calm, self._adaptive = 0, max(1, self._adaptive - 1)

    # Room

    def _allocate(self, i: int, demand: bool) -> int | None:
        """A frame for an extent, in place of others if need be; None if nothing may leave for it."""
        held = self._held[i]
        while (frame := held.pool.allocate(held.n_bytes)) is None:
            victim = self._victim(i, demand)
            if victim is None:
                return None
            self._evict(victim)
        return frame

    def _victim(self, i: int, demand: bool) -> int | None:
        """What leaves first. What is pinned or on its way stays; what was read ahead leaves only for what is wanted now."""
        held = self._held
        may = [j for j in self._occupants[id(held[i].pool)] if held[j].there and not held[j].pins]
        old = [j for j in may if not held[j].fresh]
        if held[i].pool is self._expert_cache:
            # An expert that is read ahead takes the place of none that is used more often.
            victim = policy.least_popular(old, self._popularity.score, lambda j: held[j].last_use)
        elif self._plan.policy == "lru":
            victim = policy.least_recent(old, lambda j: held[j].last_use)
        else:
            victim = policy.farthest(old, self._next_use)
            if victim is not None and not demand and self._next_use(victim) <= self._next_use(i):
                victim = None
        if victim is None and demand:
            victim = policy.farthest(may, self._next_use)
        return victim

    def _next_use(self, i: int) -> tuple[float, int]:
        """When an extent is used next: segments from now, and the op."""
        here, until = self._flat[self._cursor][0], self._predictor.until
        soonest = (float("inf"), 0)
        for at in self._uses[i]:
            segment = self._flat[at][0]
            away = 0 if segment == here and at >= self._cursor else until(segment)
            soonest = min(soonest, (away, at))
        return soonest

    def _evict(self, i: int) -> None:
        self._leave(i)
        self._held[i].pool.free(self._held[i].frame)

    def _leave(self, i: int) -> None:
        """An extent is absent from now on; its frame is still taken."""
        held = self._held[i]
        self._enter(i, False)
        self._occupants[id(held.pool)].discard(i)
        held.there = held.fresh = False
        self.metrics.evictions += 1

    async def lower(self, budget: int) -> Plan:
        """Keep to a smaller budget from now on, between two passes: what has to leave is streamed. Returns the new plan.

        Of what is resident leaves first what came last, so that the rest stays spread; then the caches shrink. If nothing was
        streamed so far, a ring takes the place of some of it. BudgetError, and no change, if less is left than an op needs.
        """
        before = self._plan
        excess = before.total_bytes - budget
        ring, experts = self._least_bytes()
        leaving = [i for i in reversed(before.parts.resident) if self._may_leave(i)]
        spare = sum(self._held[i].n_bytes for i in leaving) + max(0, self._expert_cache.limit - experts)
        spare += self._ring.limit - ring if self._ring.limit else -ring
        if excess > spare:
            least = budget + excess - max(0, spare)
            raise BudgetError(f"a memory budget of {budget} bytes is too small: this model, as opened, needs {mib(least)}")
        prefetch, self._prefetch = self._prefetch, 0
        try:
            if excess > 0 and not self._ring.limit:
                await self._source.bypass_cache()
                self._carve_ring(ring)
            for i in leaving:
                if excess > 0 and self._held[i].pool is self._resident:
                    excess -= await self._give_up(i)
            for pool, least in ((self._expert_cache, experts), (self._ring, ring)):
                if excess > 0 and pool.limit > least:
                    excess -= await self._shrink(pool, max(least, pool.limit - excess) // ALIGNMENT * ALIGNMENT)
        finally:
            self._prefetch, self._complete, self._moving = prefetch, False, None
            self._plan = self._plan_now(budget)
        self._pump()
        return self._plan

    def _least_bytes(self) -> tuple[int, int]:
        """The smallest ring and cache of experts: of one op, or of a stage if chunks of a prompt go through it together."""
        ring = max((sum(self._held[i].n_bytes for i in needs) for needs in self._dense), default=0)
        experts = max((held.n_bytes for held in self._held if held.pool is self._expert_cache), default=0)
        return (self._plan.parts.ring_bytes if self._plan.kept_rows else ring), -(-experts // ALIGNMENT) * ALIGNMENT

    def _may_leave(self, i: int) -> bool:
        """Whether a resident can be streamed: not an embedding that is read in memory, nor an expert without a cache."""
        held = self._held[i]
        embedded = not self._by_rows and any(segment == 0 for segment, _ in held.extent.places)
        return held.pool is self._resident and not embedded and held.extent.kind is Kind.DENSE

    def _carve_ring(self, least: int) -> None:
        """Make a ring of the frames of neighbours: of the first that are large enough."""
        window: list[Held] = []
        for held in sorted((held for held in self._held if held.there), key=lambda held: held.frame):
            adjacent = window and window[-1].frame + window[-1].n_bytes == held.frame
            window = [*(window if adjacent else ()), held] if self._may_leave(self._held.index(held)) else []
            if sum(held.n_bytes for held in window) >= least:
                break
        else:
            raise BudgetError("no part of what is resident is large enough to stream through; open the model again")
        for held in window:
            self._leave(self._held.index(held))
            self._resident.hand_over(held.frame)
        n_bytes = sum(held.n_bytes for held in window)
        self._ring = Pool(window[0].frame, n_bytes)
        self._occupants[id(self._ring)] = set()
        self._resident.limit -= n_bytes
        for held in window:
            held.pool = self._ring

    def _plan_now(self, budget: int) -> Plan:
        """The plan with what is resident, streamed and held in caches now."""
        resident = tuple(i for i in self._plan.parts.resident if self._held[i].pool is self._resident)
        n_bytes = sum(self._held[i].n_bytes for i in resident)
        parts = replace(
            self._plan.parts, resident=resident, resident_bytes=n_bytes, ring_bytes=self._ring.limit,
            expert_bytes=self._expert_cache.limit,
        )  # fmt: skip
        streamed = [held for held in self._held if held.pool is not self._resident and held.extent.kind is not Kind.ROWS]
        return replace(
            self._plan, budget=budget, resident_bytes=n_bytes, parts=parts, staging_bytes=parts.ring_bytes,
            expert_cache_bytes=parts.expert_bytes, homes=homes(self._table, set(resident)),
            weight_bytes=n_bytes + parts.ring_bytes + parts.expert_bytes + parts.padding,
            streamed_bytes=sum(held.extent.n_bytes for held in streamed),
        )  # fmt: skip

    async def _give_up(self, i: int) -> int:
        """A resident becomes one that is streamed; returns the bytes that this frees."""
        held = self._held[i]
        while held.read is not None:
            await asyncio.wait([held.read.done])
        if held.there:
            frame = held.frame
            self._evict(i)
            self._memory.release(frame, held.n_bytes)
        self._resident.limit -= held.n_bytes
        held.pool = self._ring
        return held.n_bytes

    async def _shrink(self, pool: Pool, n_bytes: int) -> int:
        """Empty a cache and make it smaller; returns the bytes that this frees."""
        while reads := [self._held[i].read for i in self._occupants[id(pool)] if self._held[i].read is not None]:
            await asyncio.wait([read.done for read in reads if read is not None])
        for i in list(self._occupants[id(pool)]):
            self._evict(i)
        freed = pool.cut(n_bytes)
        self._memory.release(pool.start + n_bytes, freed)
        return freed

    # Segments one by one: what tools do that are no model

    async def pin(self, segment: int) -> None:
        """Bring a whole segment into memory and keep it there; what is expected to follow begins to be read."""
        start, end = self._start_of[segment], self._start_of[segment + 1]
        self._predictor.observe(segment)
        self._cursor = start
        needs = [i for at in range(start, end) for i in self._dense[at]]
        pinned: list[int] = []
        self._stalled.discard(segment)
        self._demanded.discard(segment)
        try:
            if all(self._held[i].there for i in needs):
                self._pin(needs, pinned)
            else:
                await self._wait_for(start, needs, pinned)
        except BaseException:
            self._unpin(pinned)
            raise
        stalled = segment in self._stalled
        self.metrics.stalls += stalled
        self.metrics.hits += not stalled
        self.metrics.demand_loads += segment in self._demanded
        self._cursor = end - 1
        self._pump()

    def unpin(self, segment: int) -> None:
        """A pinned segment has been used and may leave."""
        self._unpin([i for at in range(self._start_of[segment], self._start_of[segment + 1]) for i in self._dense[at]])
        self._pump()

    async def close(self) -> None:
        """End all reads; nothing writes to the memory any more."""
        self._prefetch = 0
        await self._fetcher.close()
        for held in self._held:  # a pass may still be on its way out: memory and tables are gone before it is
            held.there = False
