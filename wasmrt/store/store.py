"""LayerStore: brings a model's weights into memory ahead of their use, and says what may run now.

All state is changed on the event loop, between two awaits; meanwhile reads go on, and computing in threads of the device. What
a run uses is pinned.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from wasmrt.errors import WasmrtError
from wasmrt.store.chart import Chart
from wasmrt.store.frames import Addresses, Frames, Held, Upload
from wasmrt.store.layers import Kind, LayerTable, Stage
from wasmrt.store.lower import lower
from wasmrt.store.memory import Memory
from wasmrt.store.metrics import StoreMetrics
from wasmrt.store.order import Order
from wasmrt.store.plan import Plan
from wasmrt.store.predict import Cyclic, Predictor
from wasmrt.store.rows import EmbeddingRows
from wasmrt.store.source import Source

log = logging.getLogger("wasmrt")

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
        upload: Upload | None = None,
        uploaded: Callable[[bool], Awaitable[None]] | None = None,
    ) -> None:
        self.progress = progress  # told of bytes until all that a pass needs has been there once
        self._source, self._table = source, table
        self._uploaded = uploaded
        self._prefetch = prefetch
        self._order = order = Order(table, predictor or Cyclic(len(table.segments)))
        self._frames = frames = Frames(source, table, memory, tables, plan, order, upload)
        self._held = frames.held
        self._rows = EmbeddingRows(table, frames) if frames.by_rows else None
        frames.then = self._arrived
        # Ops whose experts may have to be read once a router has chosen, and the routers before them.
        self._routed_ops = {at for at, experts in enumerate(order.experts) if not all(map(frames.stays, experts))}
        self._all_routers = {at for at, (s, op) in enumerate(order.ops) if op in table.segments[s].routes}
        self._routers = {at for at in self._all_routers if self._routed_ops.intersection(order.of_segment(order.ops[at][0]))}
        self._complete = False  # known to be
        # What stays and has not come yet, in memory and on a GPU.
        self._missing = {i for i, held in enumerate(self._held) if self._stays(held)}
        self._loading: asyncio.Task[None] | None = None
        self._adaptive = FIRST_DISTANCE
        self._calm = 0
        self._stalled: set[int] = set()  # segments, of the pass that runs
        self._demanded: set[int] = set()
        self._routed: dict[int, set[int]] = {}  # segment -> the experts that its router chose
        self._chart: Chart | None = None
        self.running = range(0)  # the segments that a pass computes or waits for

    @property
    def metrics(self) -> StoreMetrics:
        return self._frames.metrics

    def chart(self, running: range) -> list[dict[str, Any]]:
        """What of each segment is where now, while some are running: Chart.segments."""
        if self._chart is None:
            self._chart = Chart(self._table, self._held)
        return self._chart.segments(running)

    @property
    def used_bytes(self) -> int:
        """Of memory, by frames of weights."""
        return self._frames.used

    @property
    def tables(self) -> Sequence[Addresses]:
        return self._frames.tables

    # Everything at once

    async def load(self, progress: Progress | None = None) -> None:
        """Read what is resident, here or on a GPU, in the order of use. May be cancelled; what was read so far stays."""
        order = [i for i, held in enumerate(self._held) if self._stays(held)]
        total = sum(self._held[i].extent.n_bytes for i in order)
        done = sum(self._held[i].extent.n_bytes for i in order if self._held[i].there)
        for at, i in enumerate(order):
            for ahead in order[at : at + self._frames.fetcher.at_once]:
                self._frames.begin(ahead, demand=False)
            was_there = self._held[i].there and self._held[i].seen and not self._held[i].fresh
            await self._frames.bring(i)
            self._held[i].fresh = False
            if self._uploaded is not None:
                await self._uploaded(at == len(order) - 1)
            if not was_there:
                done += self._held[i].extent.n_bytes
                if progress:
                    progress(done, total)

    def begin(self, progress: Progress | None = None) -> None:
        """The same in the background, while passes use what is there. A pass that lacks something meets what has failed."""
        self._loading = asyncio.get_running_loop().create_task(self._load_quietly(progress))

    async def _load_quietly(self, progress: Progress | None) -> None:
        try:
            await self.load(progress)
        except WasmrtError as error:
            log.info("weights are not read ahead any more: %s", error)

    def _stays(self, held: Held) -> bool:
        return held.pool is self._frames.resident or held.extent.kind is Kind.DEVICE

    @property
    def is_complete(self) -> bool:
        """Whether all that a pass needs is resident and there."""
        if not self._complete and not self._frames.plan.streams:
            self._complete = all(held.there for held in self._held if self._stays(held))
        return self._complete

    # A pass

    async def parts(
        self, n_segments: int, n_chunks: int = 1, stages: Sequence[Stage] = (), chosen: Chosen | None = None
    ) -> AsyncGenerator[Part, None]:
        """A pass through the first n_segments, in parts that may run now: their weights are pinned until the next is asked for.

        Of several chunks each goes through a stage before the next one's weights come; through the head only the last goes.
        Whoever leaves early closes it, and with it all that is inside: a pin that goes later could meet the next pass.
        """
        try:
            if self.is_complete and n_chunks == 1:
                self.metrics.hits += n_segments
                self.running = range(n_segments)
                yield Part(self.running, range(len(self._table.segments[n_segments - 1].uses)))
                return
            async with aclosing(self._parts(n_segments, n_chunks, stages, chosen)) as parts:
                async for part in parts:
                    self.running = part.segments
                    yield part
        finally:
            self.running = range(0)

    async def _parts(
        self, n_segments: int, n_chunks: int, stages: Sequence[Stage], chosen: Chosen | None
    ) -> AsyncGenerator[Part, None]:
        if isinstance(self._order.predictor, Cyclic):
            self._order.predictor.end = n_segments
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
        start, end = self._order.start_of[last], self._order.start_of[n_segments]
        async with aclosing(self._flow(start, end, n_chunks - 1, chosen)) as parts:
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
        start, end = (self._order.start_of[stage.segment] + op for op in (stage.ops.start, stage.ops.stop))
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
        return self._frames.ring.limit // RUN_SHARE

    def _part(self, start: int, stop: int, chunk: int, partial: bool = False) -> Part:
        (first, op), (last, last_op) = self._order.ops[start], self._order.ops[stop - 1]
        return Part(range(first, last + 1), range(op, last_op + 1), chunk, partial)

    async def _gather(self, start: int, end: int, pinned: list[int], most: int) -> int:
        """Pin what the ops from `start` on need, waiting for the first of them only; returns the op before which to stop."""
        at, streamed = start, 0
        # A device stops after a router that chose what has not come yet.
        routers = self._all_routers if self._missing else self._routers
        while at < end and at not in self._routed_ops:
            needs = self._order.dense[at]
            if self._missing and not (at == 0 and self._rows):
                needs = (*needs, *(i for i in self._order.all[at] if i in self._missing and i not in needs))
            if not self._frames.are_there(needs):
                if at > start:
                    break
                await self._wait_for(at, needs, pinned)
            else:
                self._frames.pin(needs, pinned)
            streamed += sum(self._held[i].n_bytes for i in self._order.dense[at] if self._held[i].pool is self._frames.ring)
            at += 1
            if streamed > most or at - 1 in routers:
                break
        return at

    async def _wait_for(self, at: int, needs: Sequence[int], pinned: list[int]) -> None:
        """Pin what op `at` needs and wait until it is there."""
        self._frames.pin(needs, pinned)
        segment = self._order.ops[at][0]
        self.running = range(segment, segment + 1)
        started = time.perf_counter()
        try:
            for i in needs:
                if self._frames.begin(i, demand=True):
                    self._demanded.add(segment)
            for i in needs:
                await self._frames.bring(i)
        finally:
            self._stalled.add(segment)
            self.metrics.stalled_seconds += time.perf_counter() - started
            self._adapt(stalled=True)

    def _unpin(self, pinned: list[int]) -> None:
        """What was pinned has been used."""
        if pinned:
            self._adapt(stalled=False)
        self._frames.unpin(pinned)

    def _move(self, at: int) -> None:
        """The ops before this one have run."""
        self._order.move(at)
        self._pump()

    # Experts

    async def _after_route(self, at: int, chunks: Sequence[int], chosen: Chosen | None) -> None:
        """If op `at` was a router: what it chose is used more often from now on, and begins to be read."""
        if at not in self._routers:
            return
        assert chosen is not None
        segment, op = self._order.ops[at]
        experts = self._routed[segment] = {e for chunk in chunks for e in chosen(segment, op, chunk)}
        coming = [i for later in range(at + 1, self._order.of_segment(segment).stop) for i in self._named(later, experts)]
        self._frames.popularity.used(coming)
        for i in coming:
            if self._frames.fetcher.in_flight < self._frames.fetcher.at_once:
                self._frames.begin(i, demand=False)

    def _named(self, at: int, experts: Collection[int]) -> list[int]:
        """The extents of an op's experts."""
        return [self._order.experts[at][e] for e in sorted(experts)] if self._order.experts[at] else []

    async def _through_experts(self, at: int, chunks: Sequence[int], chosen: Chosen | None) -> AsyncGenerator[Part, None]:
        """All chunks through an op of experts, with as many of these at once as there is room for."""
        segment = self._order.ops[at][0]
        wanted = self._named(at, self._routed[segment])
        # Those on their way come with the first: an address that appears while threads run would not be seen by all of them.
        left = sorted(wanted, key=lambda i: not self._held[i].there and self._held[i].read is None)
        done: list[int] = []
        while left:
            pinned: list[int] = []
            try:
                batch = self._batch(segment, left)
                if self._frames.are_there(batch):
                    self._frames.pin(batch, pinned)
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
                if not self._frames.begin(i, demand=True):
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
                self._frames.enter(i, shown, segment)

    # The embedding's rows

    async def rows(self, tokens: Sequence[int], chunk: int) -> Sequence[int]:
        """Bring the embedding's rows of at most `chunk` tokens; returns the ids by which the embedding has them now."""
        return tokens if self._rows is None else await self._rows.bring(tokens, chunk)

    # Reading ahead

    def _arrived(self, i: int) -> None:
        """An extent has come."""
        if i in self._missing:
            self._missing.discard(i)
            if not self._missing:
                self._order.pass_over(self._frames.plan.parts.resident)
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

    def _pump(self) -> None:
        """Begin to read what is needed next, as far as there is room."""
        if self._prefetch == 0 or self._frames.fetcher.in_flight >= self._frames.fetcher.at_once:
            return
        distance, ahead = self._distance(), 0
        for i in self._order.upcoming():
            held = self._held[i]
            if held.there and not held.fresh:
                continue
            ahead += 1
            if ahead > distance:
                return
            if held.there or held.read is not None:
                continue
            if not self._frames.begin(i, demand=False) or self._frames.fetcher.in_flight >= self._frames.fetcher.at_once:
                return

    def _distance(self) -> int:
        """How many extents to read ahead. A ring is there for nothing else; in a cache each takes another's place."""
        if self._prefetch is not None:
            return self._prefetch
        return len(self._held) if self._frames.plan.policy == "plan" else self._adaptive

    def _adapt(self, stalled: bool) -> None:
        """Further ahead after a stall, less far after a long time without."""
        self._calm = 0 if stalled else self._calm + 1
        if stalled:
            self._adaptive = min(MOST_DISTANCE, self._adaptive + 1)
        elif self._calm >= CALM:
            self._calm, self._adaptive = 0, max(1, self._adaptive - 1)

    # Another budget

    async def lower(self, budget: int) -> Plan:
        """Keep to a smaller budget from now on, between two passes; returns the new plan. BudgetError if that is too little."""
        prefetch, self._prefetch = self._prefetch, 0
        try:
            await lower(self._frames, self._table, self._order, self._source, budget)
        finally:
            self._prefetch, self._complete = prefetch, False
            self._missing = {i for i in self._frames.plan.parts.resident if not self._held[i].seen}
            self._order.pass_over(() if self._missing else self._frames.plan.parts.resident)
        self._pump()
        return self._frames.plan

    # Segments one by one: what tools do that are no model

    async def pin(self, segment: int) -> None:
        """Bring a whole segment into memory and keep it there; what is expected to follow begins to be read."""
        ops = self._order.of_segment(segment)
        self._order.predictor.observe(segment)
        self._order.cursor = ops.start
        needs = [i for at in ops for i in self._order.dense[at]]
        pinned: list[int] = []
        self._stalled.discard(segment)
        self._demanded.discard(segment)
        try:
            if self._frames.are_there(needs):
                self._frames.pin(needs, pinned)
            else:
                await self._wait_for(ops.start, needs, pinned)
        except BaseException:
            self._unpin(pinned)
            raise
        stalled = segment in self._stalled
        self.metrics.stalls += stalled
        self.metrics.hits += not stalled
        self.metrics.demand_loads += segment in self._demanded
        self._order.cursor = ops.stop - 1
        self._pump()

    def unpin(self, segment: int) -> None:
        """A pinned segment has been used and may leave."""
        self._unpin([i for at in self._order.of_segment(segment) for i in self._order.dense[at]])
        self._pump()

    async def close(self) -> None:
        """End all reads; nothing writes to the memory any more, and the tables are not touched."""
        self._prefetch = 0
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait([self._loading])
        await self._frames.close()
        self._frames.tables = ()
