"""The layer store where reads fail or are late: places that are kept, experts that are on their way or absent, lowering."""

import asyncio
from array import array
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wasmrt
from tests.gguf_files import write_llama
from wasmrt.errors import DeviceError, SourceError
from wasmrt.store.layers import Entry, LayerTable, Segment, Stage
from wasmrt.store.memory import HostMemory
from wasmrt.store.plan import RING_FRAMES, Sizes, make_plan
from wasmrt.store.source import MemorySource
from wasmrt.store.store import LayerStore

SIZES = Sizes(kv_frames=(64,), state_frames=(), activation_frames=(64,))


class Faulty(MemorySource):
    """Fails the first read at some offsets, and waits at others until it is told to go on."""

    def __init__(self, data, failing=(), held=()):
        super().__init__(data)
        self.failing, self.held, self.go = set(failing), set(held), asyncio.Event()

    async def read_into(self, offset, view):
        await asyncio.sleep(0)
        if offset in self.failing:
            self.failing.discard(offset)
            raise SourceError("broken", transient=False)
        if offset in self.held:
            await self.go.wait()
        await super().read_into(offset, view)


def segment(name, start, sizes, **more):
    """A segment with an entry for each op, one after another in the file."""
    entries, at = [], start
    for size in sizes:
        entries.append(Entry(f"{name}.{len(entries)}", at, size))
        at += size
    return Segment(name, tuple(entries), more.pop("uses", tuple((e,) for e in range(len(entries)))), **more)


def opened(source, table, budget):
    plan = make_plan(table, lambda rows: SIZES, budget, 1, 1)
    tables = [array("Q", bytes(8 * len(s.entries))) for s in table.segments]
    return LayerStore(source, table, HostMemory(plan.total_bytes), tables, plan)


@given(sizes=st.lists(st.integers(1, 40), min_size=9, max_size=30), data=st.data())
def test_reads_that_fail_cost_no_resident_its_place(sizes, data):
    """The places of residents fill their part of memory to the byte: were one given to another, a third would find none."""
    sizes = [64 * size for size in sizes]
    table = LayerTable((segment("embedding", 0, [64]), segment("layer", 64, sizes)), row_bytes=64, n_rows=1)
    content = bytes(i % 251 for i in range(64 + sum(sizes)))
    offsets = [entry.offset for entry in table.ranges()]
    failing = data.draw(st.sets(st.sampled_from(offsets)))

    async def load():
        source = Faulty(content, failing)
        store = opened(source, table, 1 << 30)
        while True:
            try:
                await store.load()
                break
            except SourceError:
                continue
        assert store.is_complete
        assert store.metrics.evictions == 0
        for addresses, s in zip(store.tables, table.segments, strict=True):
            for address, entry in zip(addresses, s.entries, strict=True):
                assert bytes(store._frames.memory.view(address, entry.n_bytes)) == content[entry.offset :][: entry.n_bytes]
        await store.close()

    asyncio.run(load())


def test_no_expert_arrives_while_others_of_its_op_are_computed():
    """Threads that do not all see the same experts share the work out differently, and some of it is done by none."""
    router, experts, size = 64, 4, 640
    layer = segment(
        "layer", 64, [router, *[size] * experts],
        uses=((0,), (1, 2, 3, 4)), experts=frozenset({1, 2, 3, 4}), routes=frozenset({0}),
    )  # fmt: skip
    table = LayerTable((segment("embedding", 0, [64]), layer, segment("head", 64 + router + experts * size, [64])), 64, 1)
    content = bytes(64 + router + experts * size + 64)

    async def run():
        source = Faulty(content, held=[layer.entries[4].offset])
        budget = 128 + 64 + router + 64 + 2 * size  # fixed, a row of the embedding, what is dense: room for two experts
        store = opened(source, table, budget)
        assert store._frames.expert_cache.limit == 2 * size
        frames, first = store._frames, 2  # extent 0 is the embedding, 1 the router
        await frames.bring(first)
        frames.begin(first + 3, demand=False)  # as a pass that was cancelled would leave it
        asyncio.get_running_loop().call_later(0.01, source.go.set)
        ran = []
        async with aclosing(store.parts(3, chosen=lambda *_: {0, 1, 3})) as parts:
            async for part in parts:
                if part.partial:
                    assert all(frames.held[first + e].read is None for e in (0, 1, 3))
                    ran.append({e for e in range(experts) if store.tables[1][1 + e]})
                    await asyncio.sleep(0.02)
                    assert {e for e in range(experts) if store.tables[1][1 + e]} == ran[-1]
        assert set().union(*ran) == {0, 1, 3}
        await store.close()

    asyncio.run(run())


def test_a_model_that_lacks_an_expert_says_so(device, tmp_path):
    """A run that stops at a router is not taken for one that went through."""
    with wasmrt.load(write_llama(tmp_path / "m.gguf", experts=4), device=device) as model:
        list(model.generate([1, 2, 3], max_tokens=1))
        engine = model.engine
        for entry in engine._built.table.segments[1].experts:
            engine._bounds[1].table[entry] = 0
        with pytest.raises(DeviceError, match=r"experts .* are not in memory"):
            list(model.generate([4, 5, 6], max_tokens=1))


def test_lowering_what_streamed_only_experts_makes_a_ring_that_stages_fit():
    """Prompts go through in stages, which were cut for a whole ring; there was none while all but experts was resident."""
    dense, n, size = 640, 12, 6400
    uses = ((0,), (1, 2, 3, 4), *((5 + i,) for i in range(n)))
    layer = segment(
        "layer", 64, [dense, *[size] * 4, *[dense] * n],
        uses=uses, experts=frozenset({1, 2, 3, 4}), routes=frozenset({0}),
    )  # fmt: skip
    end = 64 + dense + 4 * size + n * dense
    table = LayerTable((segment("embedding", 0, [64]), layer, segment("head", end, [dense])), 64, 1)

    async def run():
        budget = 64 * 64 + 64 + 64 + (n + 2) * dense + 2 * size  # cache, activations, a row, what is dense, two experts
        plan = make_plan(table, lambda rows: SIZES, budget, 64, 64, chunk=8)
        assert (plan.kept_rows, plan.staging_bytes) == (64, 0)
        tables = [array("Q", bytes(8 * len(s.entries))) for s in table.segments]
        store = LayerStore(Faulty(bytes(end + dense)), table, HostMemory(plan.total_bytes), tables, plan)
        ops = range(1), range(1, 2), range(2, 8), range(8, 2 + n)
        stages = [Stage(0, range(1)), *(Stage(1, some) for some in ops)]
        for lower in (False, True):
            if lower:
                plan = await store.lower(plan.total_bytes - 1)
                assert plan.total_bytes < budget
                assert plan.staging_bytes >= RING_FRAMES * dense
            async with aclosing(store.parts(3, 3, stages, lambda *_: {0, 2})) as parts:
                async for part in parts:
                    for op in part.ops if part.segments == range(1, 2) and not part.partial else ():
                        assert all(tables[1][e] for e in uses[op] if e not in layer.experts)
        await store.close()

    asyncio.run(run())
