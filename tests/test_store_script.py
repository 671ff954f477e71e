"""The layer store in random tables and scenes: experts, prompts in chunks, failing drives, cancelled passes, smaller budgets.

Whatever happens, what is in a table is in memory with the right bytes, no frame is two's, and the next pass works.
"""

import asyncio
import random
from contextlib import aclosing
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tables import Opened, file_of, layers, segment, size_of, tables, wanted_bytes
from wasmrt.errors import BudgetError, SourceError
from wasmrt.store import fetcher
from wasmrt.store.layers import Entry, Kind, LayerTable, Segment, Stage
from wasmrt.store.plan import Demand, full_ring
from wasmrt.store.predict import Learned

CHUNK = 4                                                        # tokens


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch):
    monkeypatch.setattr(fetcher, "BACKOFF_SECONDS", 0.0)


class SlowDrive:
    """Writes a read's bytes a third at a time, over some turns of the event loop; some reads fail in the middle."""

    name = "slow.gguf"

    def __init__(self, data, dice, block):
        self.data, self.dice, self.block, self.size = data, dice, block, len(data)
        self.faults = []                                         # what a read may end with
        self.writing = 0
        self.bytes_read = 0

    async def bypass_cache(self):
        pass

    async def read_into(self, offset, view):
        assert offset >= 0
        assert offset + len(view) <= self.size
        self.writing += 1
        try:
            fault = self.dice.choice(self.faults) if self.faults else None
            step = max(1, -(-len(view) // 3))
            for at in range(0, len(view), step):
                for _ in range(self.dice.choice((0, 0, 1, 5))):
                    await asyncio.sleep(0)
                n_bytes = min(step, len(view) - at)
                view[at : at + n_bytes] = self.data[offset + at : offset + at + n_bytes]
                if fault is not None:
                    raise fault
            self.bytes_read += len(view)
        finally:
            self.writing -= 1


class Scene:
    """A store on a slow drive, and a model's passes through it, of which each step is checked."""

    def __init__(self, table, seed, share, block=1, policy="plan", prefetch=None, kept=True, predictor=None):
        self.table, self.dice = table, random.Random(seed)
        self.data = file_of(size_of(table))
        self.drive = SlowDrive(self.data, self.dice, block)
        options = {"chunk": CHUNK, "block": block, "kept": kept}
        everything = Opened(table, self.drive, 1 << 28, **options).plan
        room = everything.minimum_bytes + int(share * (everything.total_bytes - everything.minimum_bytes))
        options |= {"policy": policy, "prefetch": prefetch, "predictor": predictor}
        self.opened = Opened(table, self.drive, room, **options)
        self.store, self.plan, self.tables = self.opened.store, self.opened.plan, self.opened.tables
        self.most = self.plan.weight_bytes
        self.stages = self.cut()

    def cut(self):
        """As model/stages.py does it, for frames as wide as they come."""
        demand = Demand(self.table, self.plan.block, CHUNK)
        capacity = max(demand.largest_op, full_ring(demand.largest_op) - 2 * demand.largest_op)
        found, dense = [], set(demand.of(Kind.DENSE))
        for s, here in enumerate(self.table.segments[:-1]):
            start, n_bytes = 0, 0
            for op, used in enumerate(here.uses):
                size = demand.bytes_of([i for i in self.table.needs[s][op] if i in dense])
                alone = {op, op - 1} & here.routes or here.experts.intersection(used)
                alone = alone or (op and here.experts.intersection(here.uses[op - 1]))
                if op > start and (n_bytes + size > capacity or alone):
                    found.append(Stage(s, range(start, op)))
                    start, n_bytes = op, 0
                n_bytes += size
            found.append(Stage(s, range(start, len(here.uses))))
        return found

    def check(self, hidden=()):
        """What must hold at any moment. hidden: entries of experts that are there and not to be computed again."""
        spans = []
        for held in self.store._held:
            assert held.pins >= 0
            assert not held.there or held.frame % self.plan.block == 0
            if held.there or held.read is not None:
                spans.append((held.frame, held.frame + held.n_bytes))
            for s, e in held.extent.places:
                if s == 0 and self.plan.row_bytes:
                    continue
                if held.there and self.tables[s][e]:
                    assert self.opened.entry_bytes(s, e) == wanted_bytes(self.data, self.table, s, e)
                else:
                    assert self.tables[s][e] == 0
                    assert not held.there or (s, e) in hidden
        spans.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
        assert sum(end - begin for begin, end in spans) <= self.plan.weight_bytes
        assert self.store.metrics.high_water_bytes <= self.most

    async def compute(self):
        for _ in range(self.dice.choice((0, 1, 3, 8))):
            await asyncio.sleep(0)

    async def run(self, n_segments=None, n_chunks=1):
        """A pass. Every chunk goes through every op in order, and finds what the op needs, also at the end of its run."""
        n_segments = n_segments or len(self.table.segments)
        n_chunks = n_chunks if self.plan.kept_rows else 1
        uses = [segment.uses for segment in self.table.segments]
        ops = [(s, op) for s in range(n_segments) for op in range(len(uses[s]))]
        routed = {}                                              # (segment, chunk) -> experts
        computed = {}                                            # (segment, op, chunk) -> experts
        ran = {chunk: [] for chunk in range(n_chunks)}

        def chosen(s, op, chunk):
            assert op in self.table.segments[s].routes
            assert (s, op) in ran[chunk]                         # it has run
            n_experts = len(next(used for used in uses[s][op + 1 :] if self.table.segments[s].experts.intersection(used)))
            return routed.setdefault((s, chunk), set(self.dice.sample(range(n_experts), min(2, n_experts))))

        async with aclosing(self.store.parts(n_segments, n_chunks, self.stages, chosen)) as parts:
            async for part in parts:
                first, last = part.segments.start, part.segments.stop - 1
                mine = ops[ops.index((first, part.ops.start)) : ops.index((last, part.ops.stop - 1)) + 1]
                assert n_chunks == 1 or len(part.segments) == 1
                for moment in range(2):
                    hidden = self.look(mine, part, routed, computed if moment else {})
                    self.check(hidden)
                    await self.compute()
                again = len(mine) == 1 and mine[0] in ran[part.chunk]
                assert not again or part.partial
                if not again:
                    ran[part.chunk] += mine
        last = n_segments - 1
        for chunk in range(n_chunks):
            assert ran[chunk] == [(s, op) for s, op in ops if s < last or chunk == n_chunks - 1]
            for (s, _, c), experts in computed.items():
                assert c != chunk or experts >= routed[s, c]
        assert all(held.pins == 0 for held in self.store._held)
        self.check()

    def look(self, mine, part, routed, computed):
        """All that these ops read is there; returns the entries that are hidden from them."""
        hidden = set()
        for s, op in mine:
            segment = self.table.segments[s]
            used = segment.uses[op] if s else ()
            experts = [e for e in used if e in segment.experts]
            assert all(self.tables[s][e] for e in used if e not in segment.experts)
            if experts and (s, part.chunk) in routed:
                there = {n for n, e in enumerate(experts) if self.tables[s][e]}
                wanted = routed[s, part.chunk]
                assert part.partial or there >= wanted
                before = computed.setdefault((s, op, part.chunk), set())
                pinned = {e for held in self.store._held if held.pins for place, e in held.extent.places if place == s}
                now = there & set().union(*(routed[key] for key in routed if key[0] == s))
                assert {experts[n] for n in now} <= pinned or not part.partial
                before |= there
                hidden |= {(s, e) for e in experts if not self.tables[s][e]}
        return hidden

    async def rows(self, tokens):
        """Each token's row has its bytes."""
        ids = await self.store.rows(tokens, CHUNK)
        entries, row_bytes = self.table.segments[0].entries, self.table.row_bytes
        per_entry = max(1, entries[0].n_bytes // row_bytes)

        def row(token, bases):
            return bases[token // per_entry] + token % per_entry * row_bytes

        for token, i in zip(tokens, ids, strict=True):
            if row(i, self.tables[0]):
                at = row(token, [entry.offset for entry in entries])
                there = self.opened.memory.view(row(i, self.tables[0]), row_bytes)
                assert bytes(there) == self.data[at : at + row_bytes]

    async def cancelled(self, work):
        """Begin something and cancel it after some turns, maybe twice."""
        task = asyncio.create_task(work)
        for _ in range(self.dice.choice((1, 2, 5, 20, 60))):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        if self.dice.random() < 0.3:
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def end(self):
        """A quiet pass, whatever was before; then nothing is left that writes."""
        self.drive.faults = []
        if not self.plan.streams:
            await self.store.load()
        await self.run()
        await self.run(n_chunks=3)
        self.check()
        await self.store.close()
        assert self.drive.writing == 0


def play(scene, story):
    asyncio.run(asyncio.wait_for(story(scene), 60))


BROKEN = SourceError("it broke", transient=True)
FAULTS = {
    "quiet": [],
    "seldom": [None] * 9 + [BROKEN],
    "often": [None, BROKEN],
    "lasting": [None] * 20 + [SourceError("'slow.gguf' has changed")],
    "strange": [None] * 6 + [ZeroDivisionError("strange")],
}
STEPS = ("run", "rows", "cancel", "cancel rows", "part", "chunks", "lower")
ANY = {
    "table": tables(),
    "seed": st.integers(0, 1 << 20),
    "share": st.one_of(st.just(0.0), st.floats(0, 1)),
    "block": st.sampled_from([1, 1, 512, 4096]),
    "policy": st.sampled_from(["plan", "plan", "lru", "belady"]),
    "prefetch": st.sampled_from([None, None, 0, 1, 3]),
}


@settings(max_examples=150)
@given(**ANY, kept=st.booleans())
def test_a_model_runs_in_any_budget(table, seed, share, block, policy, prefetch, kept):
    """Prompts of several chunks, parts of one without the head, tokens; experts as they are chosen."""

    async def story(scene):
        if not scene.plan.streams:
            await scene.store.load()
        for n_chunks, head in ((3, True), (1, False), (1, True), (2, True), (1, True)):
            tokens = [scene.dice.randrange(table.n_rows) for _ in range(CHUNK)]
            await scene.rows(tokens)
            await scene.run(len(table.segments) - (not head), n_chunks if head else 1)
        await scene.end()

    play(Scene(table, seed, share, block, policy, prefetch, kept), story)


@settings(max_examples=150)
@given(**ANY, script=st.lists(st.sampled_from([*STEPS, *FAULTS]), max_size=9))
def test_whatever_happens_the_next_pass_works(table, seed, share, block, policy, prefetch, script):
    async def story(scene):
        if not scene.plan.streams:
            await scene.store.load()
        for step in script:
            tokens = [scene.dice.randrange(table.n_rows) for _ in range(CHUNK)]
            try:
                match step:
                    case "run":
                        await scene.run()
                    case "chunks":
                        await scene.run(n_chunks=3)
                    case "part":
                        await scene.run(max(1, len(table.segments) - 1))
                    case "rows":
                        await scene.rows(tokens)
                    case "cancel":
                        await scene.cancelled(scene.run(n_chunks=scene.dice.choice((1, 3))))
                    case "cancel rows":
                        await scene.cancelled(scene.rows(tokens))
                    case "lower":
                        await lowered(scene)
                    case faults:
                        scene.drive.faults = FAULTS[faults]
            except (SourceError, ZeroDivisionError):
                if not scene.drive.faults:
                    raise
            assert all(held.pins == 0 for held in scene.store._held)
            scene.check()
        await scene.end()

    play(Scene(table, seed, share, block, policy, prefetch), story)


async def lowered(scene):
    """A smaller budget, or a refusal that changes nothing."""
    before = scene.plan
    budget = int(before.budget * scene.dice.choice((0.6, 0.9, 0.99)))
    try:
        scene.plan = await scene.store.lower(budget)
    except BudgetError:
        assert scene.store._frames.plan is before
        return
    assert scene.plan.total_bytes <= budget


@settings(max_examples=60)
@given(table=tables(with_experts=False), seed=ANY["seed"], share=ANY["share"], policy=ANY["policy"])
def test_segments_in_any_order(table, seed, share, policy):
    """As a tool uses the store: pinned one by one, by a pattern that is learned. What has no room is a BudgetError."""

    async def story(scene):
        n = len(table.segments)
        order = [scene.dice.randrange(1, n) for _ in range(6)] * 4
        for s in order:
            try:
                await scene.store.pin(s)
            except BudgetError:
                assert all(held.pins == 0 for held in scene.store._held)
                scene.check()
                continue
            scene.check()
            await scene.compute()
            scene.check()
            assert all(scene.tables[s])
            scene.store.unpin(s)
        assert all(held.pins == 0 for held in scene.store._held)
        await scene.store.close()
        assert scene.drive.writing == 0

    play(Scene(table, seed, share, policy=policy, predictor=Learned()), story)


def test_what_was_read_ahead_in_vain_is_not_missed():
    """Whether it failed before somebody waited for it or while somebody did; the demand read is the second and works."""

    async def story(scene):
        await scene.run()
        reads = scene.drive.read_into
        left = dict.fromkeys((entry.offset for entry in scene.table.ranges()), fetcher.ATTEMPTS)

        async def failing(offset, view):
            if left[offset]:
                left[offset] -= 1
                for _ in range(scene.dice.randrange(9)):
                    await asyncio.sleep(0)
                raise BROKEN
            await reads(offset, view)

        scene.drive.read_into = failing
        for _ in range(3):
            await scene.run()
        assert [n for n in left.values() if n == 0]
        await scene.end()

    for seed in range(20):
        play(Scene(layers(*[640] * 8), seed, 0.5, prefetch=2), story)


def test_a_lasting_error_names_the_file_and_the_next_pass_works():
    async def story(scene):
        await scene.run()
        scene.drive.faults = [SourceError("'slow.gguf' has changed")]
        with pytest.raises(SourceError, match=r"slow\.gguf"):
            await scene.run()
        await scene.end()

    play(Scene(layers(*[640] * 8), 1, 0.5), story)


def test_a_closed_store_reads_no_more():
    async def story(scene):
        await scene.run()
        await scene.store.close()
        before = scene.drive.bytes_read
        with pytest.raises(SourceError, match="is closed"):
            [part async for part in scene.store.parts(len(scene.table.segments))]
        assert (scene.drive.writing, scene.drive.bytes_read) == (0, before)

    play(Scene(layers(*[640] * 8), 1, 0.5), story)


@pytest.mark.parametrize("policy", ["lru", "belady"])
def test_one_cache_for_all_is_not_lowered_below_an_expert(policy):
    """An expert that is larger than any op's tensors still finds a place."""
    entries = tuple(Entry(f"e{i}", 128 + 1024 * i, 1024) for i in range(4))
    uses = (4,), (), (0, 1, 2, 3), ()
    router = Segment("blk.0", (*entries, Entry("norm", 5000, 64)), uses, frozenset(range(4)), frozenset({1}))
    table = LayerTable((segment("embedding", ("token_embd", 0, 64)), router, segment("head", ("output", 6000, 64))), 16, 4)

    async def story(scene):
        await scene.run()
        for budget in range(scene.plan.budget, 0, -64):
            try:
                scene.plan = await scene.store.lower(budget)
            except BudgetError:
                break
            await scene.run()
        assert 1024 <= scene.plan.staging_bytes < 2048
        await scene.end()

    play(Scene(table, 1, 0.9, policy=policy, kept=False), story)
