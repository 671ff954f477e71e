"""The layer store on made-up segments: what is pinned is there, what is absent is not in a table, and no frame is two's.

A source that gives up the event loop in each read stands for a drive; the memory is that of this process.
"""

import asyncio
import random
from array import array
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wasmrt.errors import BudgetError, SourceError
from wasmrt.store.layers import Entry, LayerTable, Segment
from wasmrt.store.memory import HostMemory, aligned
from wasmrt.store.plan import Parts, Plan, Sizes, make_plan
from wasmrt.store.predict import Cyclic
from wasmrt.store.source import MemorySource
from wasmrt.store.store import LayerStore

MIB = 1 << 20
NOTHING_ELSE = Sizes((), (), ())


def table_of(sizes, tied=False):
    """An embedding of two entries, and a layer for each list of sizes, each of whose ops reads one entry."""
    segments, at = [], 128
    for s, entries in enumerate([[600, 400], *sizes]):
        made = []
        for i, n_bytes in enumerate(entries):
            made.append(Entry(f"{s}.{i}", at, n_bytes))
            at += aligned(n_bytes)
        uses = tuple((i,) for i in range(len(made)))
        segments.append(Segment(f"blk.{s}", tuple(made), uses if s else ((0, 1),)))
    if tied:
        embedding = segments[0].entries
        segments.append(Segment("head", embedding, ((0,), (1,))))
    return LayerTable(tuple(segments), row_bytes=20, n_rows=50), at


class Drive(MemorySource):
    """Reads take some turns of the event loop, or wait to be let go; `fail` says which fail, by their number."""

    def __init__(self, n_bytes, seed=0):
        super().__init__(np.random.default_rng(seed).bytes(n_bytes))
        self.reads = []
        self.turns = random.Random(seed)
        self.fail = lambda n: None
        self.writing = []                                        # views that are being written to

    async def read_into(self, offset, view):
        self.reads.append((offset, len(view)))
        error = self.fail(len(self.reads))
        self.writing.append(view)
        try:
            for _ in range(self.turns.randrange(4)):
                await asyncio.sleep(0)
            if error:
                raise error
            await super().read_into(offset, view)
        finally:
            self.writing = [other for other in self.writing if other is not view]

    def bytes_of(self, entry):
        return bytes(self._data[entry.offset : entry.offset + entry.n_bytes])


class Bench:
    """A store with all that it needs. budget: of weights and embedding rows; None: whatever is needed."""

    def __init__(self, sizes, budget=None, policy="plan", prefetch=None, tied=False, chunk=8, seed=0):
        self.table, n_bytes = table_of(sizes, tied)
        self.plan = make_plan(
            self.table, lambda rows: NOTHING_ELSE, budget or 1 << 40, 1, 1, policy=policy, chunk=chunk
        )  # fmt: skip
        self.source = Drive(n_bytes, seed)
        self.memory = HostMemory(self.plan.total_bytes)
        self.tables = [array("Q", bytes(8 * len(segment.entries))) for segment in self.table.segments]
        self.store = LayerStore(self.source, self.table, self.memory, self.tables, self.plan, prefetch)
        self.chunk, self.most = chunk, self.plan.weight_bytes

    def check(self, pinned=()):
        """What must hold at any moment."""
        store, frames = self.store, []
        for held in store._held:
            if held.there or held.read is not None:
                frames.append((held.frame, held.frame + held.n_bytes))
            for s, e in held.extent.places:
                if s == 0 and self.plan.row_bytes:
                    continue
                assert (self.tables[s][e] != 0) == held.there
                if held.there:
                    entry = self.table.segments[s].entries[e]
                    assert bytes(self.memory.view(self.tables[s][e], entry.n_bytes)) == self.source.bytes_of(entry)
        frames.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(frames))
        assert sum(end - begin for begin, end in frames) <= self.plan.weight_bytes
        assert store.metrics.high_water_bytes <= self.most
        for s in pinned:
            assert all(self.tables[s])


def smallest(sizes, **options):
    return Bench(sizes, **options).plan.minimum_bytes


LAYERS = [[500, 10, 300], [500, 10, 300], [700, 20, 300], [500, 300]]
budgets = st.floats(0, 1)


def budget_at(share, **options):
    """From the smallest that works to everything."""
    made = Bench(LAYERS, **options)
    return made.plan.minimum_bytes + int(share * (made.plan.total_bytes - made.plan.minimum_bytes))


# Everything in memory


def test_load_reads_every_range_once_in_the_order_of_use():
    bench = Bench(LAYERS, tied=True)
    seen = []
    asyncio.run(bench.store.load(lambda done, total: seen.append((done, total))))
    bench.check(range(1, 6))
    assert bench.source.reads == [(e.offset, e.n_bytes) for e in bench.table.ranges()]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (bench.table.n_bytes, bench.table.n_bytes)
    assert bench.memory.used == bench.memory.capacity == bench.plan.total_bytes
    assert bench.tables[5] == bench.tables[0]                    # a tied head has the embedding's frames
    asyncio.run(bench.store.load())
    assert len(bench.source.reads) == bench.store.metrics.reads == len(bench.table.extents)
    assert bench.store.metrics.bytes_read == bench.table.n_bytes
    assert bench.store.metrics.streamed_bytes == bench.store.metrics.evictions == 0


@pytest.mark.parametrize("stop_at", range(1, 12))
def test_a_cancelled_load_can_be_taken_up_again(stop_at):
    """It reads nothing twice but what was cut short, and its progress goes on where it was."""
    bench = Bench(LAYERS)
    seen = []

    async def scene():
        load = asyncio.create_task(bench.store.load())
        bench.source.fail = lambda n: load.cancel() and None if n == stop_at else None
        with pytest.raises(asyncio.CancelledError):
            await load
        bench.source.fail = lambda n: None
        bench.check()
        await bench.store.load(lambda done, total: seen.append(done))

    asyncio.run(scene())
    bench.check(range(5))
    assert len(bench.source.reads) == len(bench.table.extents)   # reads that were on their way go on
    assert seen == sorted(seen)
    assert bench.store.is_complete


def test_a_read_ahead_that_fails_is_done_again_by_who_wants_it():
    bench = Bench(LAYERS)
    bench.source.fail = lambda n: SourceError("a bad sector") if n == 4 else None
    asyncio.run(bench.store.load())
    bench.check(range(5))
    assert len(bench.source.reads) == len(bench.table.extents) + 1


def test_a_read_that_fails_leaves_the_store_usable():
    bench = Bench(LAYERS)
    bench.source.fail = lambda n: SourceError("the drive is gone") if n >= 4 else None
    with pytest.raises(SourceError, match="the drive is gone"):
        asyncio.run(bench.store.load())
    bench.check()
    bench.source.fail = lambda n: None
    asyncio.run(bench.store.load())
    bench.check(range(5))


# Passes


async def walk(bench, n_segments=None):
    """A pass; what each part needs is there while it runs. Returns the ops that ran."""
    n_segments = n_segments or len(bench.table.segments)
    ran = []
    async for part in bench.store.parts(n_segments):
        for s in part.segments:
            n_ops = len(bench.table.segments[s].uses)
            first = part.ops.start if s == part.segments.start else 0
            end = part.ops.stop if s == part.segments.stop - 1 else n_ops
            ran += [(s, op) for op in range(first, end)]
        for _ in range(bench.source.turns.randrange(3)):
            await asyncio.sleep(0)                               # reads end while it computes
            bench.check()
        for s, op in ran[-(part.ops.stop - part.ops.start) :] if len(part.segments) == 1 else ():
            for e in bench.table.segments[s].uses[op] if s else ():
                entry = bench.table.segments[s].entries[e]
                assert bytes(bench.memory.view(bench.tables[s][e], entry.n_bytes)) == bench.source.bytes_of(entry)
    return ran


@settings(max_examples=60)
@given(
    share=budgets, policy=st.sampled_from(["plan", "lru", "belady"]), prefetch=st.sampled_from([None, 0, 1, 3]),
    tied=st.booleans(), seed=st.integers(0, 99), short=st.booleans(),
)  # fmt: skip
def test_a_pass_runs_every_op_once_with_what_it_needs(share, policy, prefetch, tied, seed, short):
    """In order, in any budget from the smallest on; afterwards nothing is pinned. A pass without head in between, too."""
    budget = budget_at(share, tied=tied)
    bench = Bench(LAYERS, budget, policy, prefetch, tied, seed=seed)
    n = len(bench.table.segments)

    async def scene():
        for n_segments in (n, n - short, n, n):
            ran = await walk(bench, n_segments)
            assert ran == [(s, op) for s in range(n_segments) for op in range(len(bench.table.segments[s].uses))]
            assert all(held.pins == 0 for held in bench.store._held)
            bench.check()
        await bench.store.close()

    asyncio.run(scene())
    assert not bench.source.writing
    metrics = bench.store.metrics
    assert metrics.hits + metrics.stalls == 4 * n - short
    assert metrics.demand_loads <= metrics.stalls


@given(share=st.floats(0, 0.99))
def test_a_pass_reads_what_memory_lacks_and_a_ring(share):
    bench = Bench(LAYERS, budget_at(share))

    async def scene():
        await walk(bench)
        await walk(bench)
        read = bench.store.metrics.bytes_read
        for _ in range(3):
            await walk(bench)
        return (bench.store.metrics.bytes_read - read) / 3

    read, plan = asyncio.run(scene()), bench.plan
    if not plan.streams:
        assert read == 0
    else:
        padding = sum(aligned(e.n_bytes) - e.n_bytes for e in bench.table.extents)
        assert read <= plan.streamed_bytes + plan.staging_bytes / 3
        assert read <= plan.bytes_bound + plan.staging_bytes * 4 / 3 + padding + max(e.n_bytes for e in bench.table.extents)


def test_reading_ahead_leaves_nothing_to_be_asked_for():
    """A synchronous load is one that nobody had begun: after the first pass there is none, while computing takes some time."""
    for prefetch, least, most in ((None, 0, 0), (0, 12, 16)):
        bench = Bench(LAYERS, budget_at(0.3), prefetch=prefetch)

        async def scene(bench=bench):
            await walk(bench)
            before = bench.store.metrics.demand_loads
            for _ in range(4):
                async for _ in bench.store.parts(len(bench.table.segments)):
                    for _ in range(20):
                        await asyncio.sleep(0)
            return bench.store.metrics.demand_loads - before

        assert least <= asyncio.run(scene()) <= most


@settings(max_examples=60)
@given(
    share=budgets, policy=st.sampled_from(["plan", "lru", "belady"]), seed=st.integers(0, 99), stop=st.integers(0, 12),
    failing=st.sets(st.integers(1, 60), max_size=8), transient=st.booleans(),
)  # fmt: skip
def test_failures_and_cancels_leave_no_trace(share, policy, seed, stop, failing, transient):
    """Reads fail, a pass is cancelled somewhere: a typed error or nothing, and the next pass is right."""
    bench = Bench(LAYERS, budget_at(share), policy, seed=seed)

    async def scene():
        bench.source.fail = lambda n: SourceError("a bad sector", transient) if n in failing else None
        task, ended = asyncio.create_task(walk(bench)), []
        for _ in range(stop):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except (SourceError, asyncio.CancelledError) as error:
            ended.append(str(error))
        assert ended in ([], [""], ["a bad sector"])
        bench.check()
        bench.source.fail = lambda n: None
        await walk(bench)
        await walk(bench)
        bench.check()
        assert all(held.pins == 0 for held in bench.store._held)
        await bench.store.close()

    asyncio.run(scene())


def test_a_read_that_ends_as_the_store_closes_touches_nothing():
    """Its task has ended, and the tables go before the event loop's next turn, in which the store would be told."""
    bench = Bench(LAYERS, budget_at(0.3))
    complaints = []

    async def scene():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: complaints.append(context["message"]))
        gate, turn = loop.create_future(), loop.create_future()

        async def read_into(offset, view):
            await gate

        bench.source.read_into = read_into
        assert bench.store._frames.begin(2, demand=True)
        await asyncio.sleep(0)
        loop.call_soon(gate.set_result, None)                    # the read ends in the next turn, and we go on after it
        loop.call_soon(turn.set_result, None)
        await turn
        await bench.store.close()
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(scene())
    assert not complaints
    assert not any(held.there for held in bench.store._held)


# Segments one by one


@settings(max_examples=60)
@given(
    script=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), max_size=25), share=st.floats(0.35, 1),
    policy=st.sampled_from(["plan", "lru", "belady"]), prefetch=st.sampled_from([None, 0, 2]), seed=st.integers(0, 99),
)  # fmt: skip
def test_pinned_segments_stay(script, share, policy, prefetch, seed):
    """Whatever is pinned beside them, or BudgetError, which changes nothing."""
    bench = Bench(LAYERS, budget_at(share), policy, prefetch, seed=seed)

    async def scene():
        pinned = []
        for segment, keep in script:
            try:
                await bench.store.pin(segment)
                pinned.append(segment)
            except BudgetError:
                assert pinned
            bench.check(pinned)
            while len(pinned) > keep:
                bench.store.unpin(pinned.pop(0))
                bench.check(pinned)
        for segment in pinned:
            bench.store.unpin(segment)
        assert all(held.pins == 0 for held in bench.store._held)
        await bench.store.close()

    asyncio.run(scene())


# Embedding rows


@given(passes=st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=8), min_size=1, max_size=6), tied=st.booleans())
def test_rows_are_those_of_the_tokens_and_the_latest_are_kept(passes, tied):
    bench = Bench(LAYERS, budget_at(0.0, tied=tied), tied=tied)
    row_bytes, (first, *_) = bench.table.row_bytes, bench.table.segments[0].entries

    async def scene():
        for tokens in passes:
            before = len(bench.source.reads)
            ids = await bench.store.rows(tokens, bench.chunk)
            again = len(bench.source.reads)
            assert again - before <= len(set(tokens))
            per_entry = first.n_bytes // row_bytes
            for token, i in zip(tokens, ids, strict=True):
                address = bench.tables[0][i // per_entry] + i % per_entry * row_bytes
                at = first.offset + token * row_bytes + (aligned(600) - 600) * (token >= 30)
                assert bytes(bench.memory.view(address, row_bytes)) == bytes(bench.source._data[at : at + row_bytes])
            assert await bench.store.rows(tokens, bench.chunk) == ids
            assert len(bench.source.reads) == again              # what was had last is there still
        await bench.store.close()

    asyncio.run(scene())


def test_a_row_that_fails_is_read_again_once():
    bench = Bench(LAYERS, budget_at(0.0))

    async def scene():
        bench.source.fail = lambda n: OSError("strange") if n == 1 else None
        ids = await bench.store.rows([3, 4], bench.chunk)
        assert len(set(ids)) == 2
        bench.source.fail = lambda n: SourceError("it changed")
        with pytest.raises(SourceError, match="it changed"):
            await bench.store.rows([3, 7], bench.chunk)
        bench.source.fail = lambda n: None
        assert len(set(await bench.store.rows([3, 4, 7], bench.chunk))) == 3

    asyncio.run(scene())


# Addresses past 4 GiB


def test_frames_past_4_gib_are_used():
    """Two extents of a store of 5 GiB, of which only a few pages are ever written."""
    giant = (1 << 32) + MIB
    segments = (
        Segment("embedding", (Entry("e", 0, 64),), ((0,),)),
        Segment("blk.0", (Entry("a", 4096, giant), Entry("b", 4096 + giant, 4096)), ((0,), (1,))),
    )
    table = LayerTable(segments)

    class Sparse:
        name, size, block = "sparse", 8192 + giant, 1

        async def read_into(self, offset, view):
            view[:8] = offset.to_bytes(8, "little")
            view[-8:] = (offset + len(view)).to_bytes(8, "little")

    n_bytes = 64 + aligned(giant) + 4096
    plan = Plan(1, n_bytes, 0, 0, 0, 1 << 40, 0, 0, 0, parts=Parts((0, 1, 2), n_bytes))
    memory = HostMemory(plan.weight_bytes)
    tables = [array("Q", bytes(8 * len(segment.entries))) for segment in segments]
    store = LayerStore(Sparse(), table, memory, tables, plan)
    asyncio.run(store.load())
    assert tables[1][1] > 1 << 32
    assert bytes(memory.view(tables[1][1], 8)) == (4096 + giant).to_bytes(8, "little")
    assert bytes(memory.view(tables[1][0] + giant - 8, 8)) == (4096 + giant).to_bytes(8, "little")
    assert bytes(memory.view(tables[1][0], 8)) == (4096).to_bytes(8, "little")
    memory.close()


# A smaller budget


@settings(max_examples=40)
@given(shares=st.lists(budgets, min_size=1, max_size=4), start=budgets, policy=st.sampled_from(["plan", "lru", "belady"]))
def test_a_budget_can_be_lowered_between_passes(shares, start, policy):
    """Passes stay right, the ledger keeps to the budget; what is too little is refused and changes nothing."""
    bench = Bench(LAYERS, budget_at(start), policy)
    released = []
    bench.memory.release = lambda address, n_bytes: released.append(n_bytes)

    async def scene():
        if not bench.plan.streams:
            await bench.store.load()
        await walk(bench)
        for share in sorted(shares, reverse=True):
            budget = min(budget_at(share), bench.plan.budget)
            before = bench.plan
            try:
                bench.plan = await bench.store.lower(budget)
            except BudgetError:
                assert bench.store._frames.plan is before
                continue
            assert bench.plan.total_bytes <= bench.plan.budget == budget
            for _ in range(2):
                ran = await walk(bench)
                assert len(ran) == len(bench.store._order.ops)
            assert sum(held.n_bytes for held in bench.store._held if held.there) <= bench.plan.weight_bytes
        await bench.store.close()

    asyncio.run(scene())


def test_a_predictor_of_ones_own_is_followed():
    class Backwards(Cyclic):
        def predict_next(self, n):
            return list(range(self._now - 1, 0, -1))[:n]

    bench = Bench(LAYERS, budget_at(0.6), prefetch=2)
    bench.store._order.predictor = Backwards(5)

    async def scene():
        await bench.store.pin(3)
        for _ in range(50):
            await asyncio.sleep(0)
        return bench.source.reads[3:]

    reads = asyncio.run(scene())
    before = {e.offset for e in bench.table.segments[2].entries}
    assert reads
    assert {offset for offset, _ in reads} <= before
