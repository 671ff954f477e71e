"""Memory, the plan, the layer table, and the store that brings a file's byte ranges into memory."""

import asyncio
import ctypes
import re
from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wasmrt
from tests.programs import REFERENCE, Rig, Tensor, pieces, random_tensor, record, tensor
from wasmrt.errors import BudgetError, SourceError
from wasmrt.program.ops import Program
from wasmrt.store.layers import Entry, LayerTable, Segment
from wasmrt.store.memory import ALIGNMENT, HostMemory, aligned
from wasmrt.store.metrics import StoreMetrics
from wasmrt.store.plan import DEFAULT_CONTEXT, SMALLEST_CONTEXT, Sizes, make_plan
from wasmrt.store.source import MemorySource
from wasmrt.store.store import LayerStore

KIB, MIB = 1 << 10, 1 << 20


# Memory


@given(sizes=st.lists(st.integers(0, 5000), max_size=20))
def test_frames_are_aligned_zeroed_and_apart(sizes):
    """The processor's own addresses are aligned too; address 0 means absent and is never given."""
    memory = HostMemory(sum(map(aligned, sizes)))
    frames = [(memory.allocate(n), n) for n in sizes]
    for i, (address, n) in enumerate(frames, 1):
        assert address > 0
        assert address % ALIGNMENT == 0
        view = memory.view(address, n)
        assert bytes(view) == bytes(n)
        if n:
            assert ctypes.addressof(ctypes.c_char.from_buffer(view)) % ALIGNMENT == 0
        view[:] = bytes([i]) * n
    for i, (address, n) in enumerate(frames, 1):
        assert bytes(memory.view(address, n)) == bytes([i]) * n  # no frame was written through another
    assert memory.used == memory.capacity == sum(aligned(n) for n in sizes)


def test_the_capacity_is_a_ceiling():
    memory = HostMemory(3 * ALIGNMENT)
    memory.allocate(ALIGNMENT + 1)                               # takes two of three
    with pytest.raises(BudgetError, match=r"65 more bytes do not fit: 128 of 192"):
        memory.allocate(ALIGNMENT + 1)
    assert memory.used == 2 * ALIGNMENT                          # what was refused took nothing
    memory.allocate(ALIGNMENT)
    with pytest.raises(BudgetError):
        memory.allocate(1)


def test_what_the_system_refuses_is_a_budget_error():
    for capacity in (1 << 62, 1 << 80):
        with pytest.raises(BudgetError, match="choose a smaller budget"):
            HostMemory(capacity)


def test_addresses_past_4_gib():
    """Pages cost nothing until they are written, so this takes two."""
    memory = HostMemory(9 << 29)
    first, last = memory.allocate(1 << 32), memory.allocate(100)
    assert last > 1 << 32
    memory.view(first, 8)[:] = b"at first"
    memory.view(last, 8)[:] = b"at last."
    assert bytes(memory.view(last - 4, 12)) == b"\0\0\0\0at last."
    assert bytes(memory.view(first, 8)) == b"at first"           # no address was cut to 32 bits
    memory.close()


def test_views_share_the_memory_and_stay_inside_it():
    memory = HostMemory(KIB)
    address = memory.allocate(100)
    memory.view(address + 10, 3)[:] = b"abc"
    assert bytes(memory.view(address, 16)) == bytes(10) + b"abc" + bytes(3)
    for wrong in ((0, 1), (ALIGNMENT - 1, 1), (address, aligned(100) + 1), (address, -1), (address + KIB, 1)):
        with pytest.raises(ValueError, match="no frame"):
            memory.view(*wrong)


def test_closing_keeps_the_pages_of_views_that_are_held():
    memory = HostMemory(KIB)
    address = memory.allocate(100)
    array = np.frombuffer(memory.view(address, 100), np.uint8)
    array[:] = 7
    memory.close()
    memory.close()
    assert (array == 7).all()
    with pytest.raises(BudgetError):
        memory.allocate(1)
    with pytest.raises(ValueError, match="no frame"):
        memory.view(address, 1)


# The layer table and the plan


def segment(name, *entries):
    """entries: (tensor, offset, bytes). Every op reads one."""
    return Segment(name, tuple(Entry(*e) for e in entries), tuple((i,) for i in range(len(entries))))


# An embedding of 1000 bytes in two chunks, two layers, and a head that is tied to the embedding.
TABLE = LayerTable((
    segment("embedding", ("token_embd", 100, 600), ("token_embd", 700, 400)),
    segment("blk.0", ("blk.0.a", 1100, 500), ("blk.0.b", 1600, 10)),
    segment("blk.1", ("blk.1.a", 1700, 500), ("blk.1.b", 2200, 10)),
    segment("head", ("output_norm", 2300, 40), ("token_embd", 100, 600), ("token_embd", 700, 400)),
))  # fmt: skip
SIZES = Sizes(kv_frames=(40, 40, 24), state_frames=(100,), activation_frames=(5000,))


def test_a_tied_tensor_is_one_range():
    assert [(e.tensor, e.offset) for e in TABLE.ranges()] == [
        ("token_embd", 100), ("token_embd", 700), ("blk.0.a", 1100), ("blk.0.b", 1600), ("blk.1.a", 1700), ("blk.1.b", 2200),
        ("output_norm", 2300),
    ]  # fmt: skip
    assert TABLE.n_bytes == 600 + 400 + 2 * 510 + 40


def test_a_pass_touches_all_but_the_embedding():
    """Of the embedding a pass reads rows; as a tied head it is read whole."""
    assert TABLE.touched_bytes == 2 * 510 + 40 + 1000
    untied = LayerTable((*TABLE.segments[:3], segment("head", ("output", 5000, 700))))
    assert untied.touched_bytes == 2 * 510 + 700


def test_the_plan_is_a_ledger_of_aligned_frames():
    plan = make_plan(TABLE, SIZES, MIB, 100, 4096)
    assert plan.context == 100
    assert plan.weight_bytes == 640 + 448 + 2 * (512 + 64) + 64
    assert plan.kv_bytes == 4032 + 4032 + 2432
    assert (plan.state_bytes, plan.activation_bytes) == (128, 5056)
    assert plan.total_bytes == plan.weight_bytes + plan.kv_bytes + plan.state_bytes + plan.activation_bytes
    assert (plan.resident_bytes, plan.streamed_bytes) == (plan.weight_bytes, 0)
    assert plan.touched_bytes == TABLE.touched_bytes
    as_dict = plan.as_dict()
    assert (as_dict["total_bytes"], as_dict["notes"]) == (plan.total_bytes, [])


@given(context=st.integers(1, 5000), short=st.integers(1, 10_000))
def test_a_budget_fits_to_the_byte_and_a_refusal_names_one_that_does(context, short):
    needed = make_plan(TABLE, SIZES, 1 << 40, context, 8192).total_bytes
    assert make_plan(TABLE, SIZES, needed, context, 8192).total_bytes == needed
    with pytest.raises(BudgetError) as error:
        make_plan(TABLE, SIZES, needed - short, context, 8192)
    (minimum,) = re.findall(r"needs ([\d.]+) MiB", str(error.value))
    assert needed <= float(minimum) * MIB < needed + 0.11 * MIB
    assert make_plan(TABLE, SIZES, int(float(minimum) * MIB), context, 8192).context == context
    assert f"{needed - short} bytes" in str(error.value)
    assert "\n" not in str(error.value)


@given(n_ctx_train=st.integers(1, 20_000), budget=st.integers(0, 700_000))
def test_an_automatic_context_takes_what_the_budget_holds(n_ctx_train, budget):
    """It is the model's own, 4096 at the most, lowered to what fits, 64 at the least; by an eighth too far at most."""
    wanted = min(n_ctx_train, DEFAULT_CONTEXT)
    least = min(wanted, SMALLEST_CONTEXT)
    fixed = make_plan(TABLE, SIZES, 1 << 40, 1, 1).total_bytes - SIZES.kv_bytes(1)
    if fixed + SIZES.kv_bytes(least) > budget:
        with pytest.raises(BudgetError, match=f"with a context of {least} "):
            make_plan(TABLE, SIZES, budget, None, n_ctx_train)
        return
    plan = make_plan(TABLE, SIZES, budget, None, n_ctx_train)
    assert least <= plan.context <= wanted
    assert plan.total_bytes <= budget
    if plan.context < wanted:
        (note,) = plan.notes
        assert f"the context is {plan.context} positions, not {wanted}" in note
        assert fixed + SIZES.kv_bytes(plan.context * 8 // 7 + 2) > budget
    else:
        assert plan.notes == ()


def test_an_explicit_context_is_never_changed():
    assert make_plan(TABLE, SIZES, MIB, 17, 4096).context == 17
    assert make_plan(TABLE, SIZES, MIB, 5000, 4096).context == 5000
    with pytest.raises(BudgetError, match="with a context of 5000"):
        make_plan(TABLE, SIZES, 100_000, 5000, 8192)


@pytest.mark.reference
@pytest.mark.parametrize("name", ["llama-dense.Q4_K_M", "llama-moe.Q4_K_M"])
def test_the_plan_says_what_a_loaded_model_takes(reference_dir, name):
    with wasmrt.load(reference_dir / "logits" / f"{name}.gguf", device="reference", context=40) as model:
        memory = model.engine._memory
        assert memory.used == memory.capacity == model.plan.total_bytes
        weights = sum(aligned(e.n_bytes) for e in model.engine._store._table.ranges())
        assert (model.plan.weight_bytes, model.plan.context) == (weights, 40)


# The store


class Counting(MemorySource):
    """A file in memory that notes its reads, gives the event loop a turn in each, and can stop at one of them."""

    def __init__(self, data):
        super().__init__(data)
        self.reads = []
        self.at_read = lambda n: None

    async def read_into(self, offset, view):
        self.reads.append((offset, view.nbytes))
        self.at_read(len(self.reads))
        await asyncio.sleep(0)
        await super().read_into(offset, view)


def file_of(n_bytes=2400):
    return np.random.default_rng(5).bytes(n_bytes)


def store_on(data, table=TABLE, spare=0):
    source = Counting(data)
    memory = HostMemory(sum(aligned(e.n_bytes) for e in table.ranges()) + spare)
    tables = [array("Q", bytes(8 * len(segment.entries))) for segment in table.segments]
    return source, memory, LayerStore(source, table, memory, tables)


def assert_loaded(store, memory, data, table=TABLE):
    for addresses, seg in zip(store.tables, table.segments, strict=True):
        for address, entry in zip(addresses, seg.entries, strict=True):
            assert bytes(memory.view(address, entry.n_bytes)) == data[entry.offset : entry.offset + entry.n_bytes]


def test_load_fills_the_tables_and_reads_every_range_once():
    """In the order of use; what is tied has one frame and two entries."""
    source, memory, store = store_on(data := file_of())
    assert all(address == 0 for addresses in store.tables for address in addresses)
    asyncio.run(store.load())
    assert_loaded(store, memory, data)
    assert source.reads == [(e.offset, e.n_bytes) for e in TABLE.ranges()]
    assert store.tables[3][1:] == store.tables[0]
    assert memory.used == memory.capacity
    assert (store.metrics.bytes_read, store.metrics.reads) == (TABLE.n_bytes, len(source.reads))
    assert store.metrics.read_seconds > 0
    asyncio.run(store.load())                                    # all there: nothing to do
    assert len(source.reads) == store.metrics.reads


def test_progress_never_goes_back_and_ends_at_the_total():
    seen = []
    _, _, store = store_on(file_of())
    asyncio.run(store.load(lambda done, total: seen.append((done, total))))
    assert {total for _, total in seen} == {TABLE.n_bytes}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[0][0] == 600
    assert seen[-1][0] == TABLE.n_bytes


@pytest.mark.parametrize("stop_at", range(1, 8))
def test_a_cancelled_load_can_be_taken_up_again(stop_at):
    """It needs no memory twice, reads nothing twice but what was cut short, and its progress goes on where it was."""
    source, memory, store = store_on(data := file_of())
    seen = []

    async def main():
        load = asyncio.create_task(store.load())
        source.at_read = lambda n: load.cancel() if n == stop_at else None
        with pytest.raises(asyncio.CancelledError):
            await load
        source.at_read = lambda n: None
        there = [i for addresses in store.tables for i in addresses if i]
        assert len(there) == stop_at - 1                         # the cut one is not taken for read
        await store.load(lambda done, total: seen.append(done))

    asyncio.run(main())
    assert_loaded(store, memory, data)
    assert memory.used == memory.capacity
    assert len(source.reads) == len(list(TABLE.ranges())) + 1
    assert seen == sorted(seen)
    assert seen[-1] == TABLE.n_bytes


def test_a_read_that_fails_leaves_its_entry_absent():
    source, memory, store = store_on(data := file_of())

    def fail(n):
        if n == 4:
            raise SourceError("the drive is gone")

    source.at_read = fail
    with pytest.raises(SourceError, match="the drive is gone"):
        asyncio.run(store.load())
    assert [list(map(bool, addresses)) for addresses in store.tables[:2]] == [[True, True], [True, False]]
    asyncio.run(store.load())
    assert_loaded(store, memory, data)


def test_fetch_brings_what_is_asked_and_counts_what_it_read():
    source, _, store = store_on(file_of())

    async def main():
        assert await store.fetch(3, (1, 0)) == 640
        assert await store.fetch(3, (1, 0)) == 0
        assert await store.fetch(0, (0,)) == 0                   # tied: it is there already
        assert await store.fetch(0, ()) == 0

    asyncio.run(main())
    assert source.reads == [(100, 600), (2300, 40)]
    assert store.tables[0][0] == store.tables[3][1] != 0
    assert [list(map(bool, addresses)) for addresses in store.tables] == [
        [True, False], [False, False], [False, False], [True, True, False],
    ]  # fmt: skip


@pytest.mark.parametrize(("n", "last"), [(1, 2), (3, 2), (4, 3)])
def test_ready_gives_a_whole_pass_at_once(n, last):
    """Of a model that is resident; n segments, the last of which has so many ops."""
    _, _, store = store_on(file_of())

    async def main():
        return [part async for part in store.ready(n)]

    assert asyncio.run(main()) == [(range(n), range(last))]
    assert store.metrics.hits == n


def test_metrics_as_dict_has_every_counter():
    metrics = StoreMetrics()
    metrics.read(10, 0.5)
    metrics.read(5, 0.25)
    assert metrics.as_dict() == {"bytes_read": 15, "reads": 2, "read_seconds": 0.75, "hits": 0, "stalled_seconds": 0.0}


# Store and device together: experts that are fetched when a router asks for them


N, FF, N_EXPERTS = 32, 48, 6


def expert_layer(t, w, x):
    chosen, weights = t.route(t.matmul(w.router, x), 2)
    y = t.swiglu(t.expert_matmul(w.gate_exps, x, chosen), t.expert_matmul(w.up_exps, x, chosen))
    return t.last_rows(t.add(x, t.expert_sum(t.expert_matmul(w.down_exps, y, chosen), weights)))


EMBEDDING = {"token_embd": tensor(np.random.default_rng(1).standard_normal((20, N)))}
EXPERTS = {
    "router": random_tensor(2, "F32", N, N_EXPERTS), "gate_exps": random_tensor(3, "Q8_0", N, FF, N_EXPERTS),
    "up_exps": random_tensor(4, "F16", N, FF, N_EXPERTS), "down_exps": random_tensor(5, "F32", FF, N, N_EXPERTS),
}  # fmt: skip


def file_with(*segments: tuple[Program, dict[str, Tensor]]) -> tuple[bytes, LayerTable]:
    """A file's bytes and its layer table: the tensors of these programs, one after another."""
    data, made = bytearray(b"GGUF" + bytes(28)), []
    for program, tensors in segments:
        entries = []
        for weight in program.weights:
            for piece in pieces(weight, tensors[weight.name].data):
                entries.append(Entry(weight.name, len(data), len(piece)))
                data += piece
        made.append(Segment(program.name, tuple(entries), tuple(program.entries_of(op) for op in program.ops)))
    return bytes(data), LayerTable(tuple(made))


@given(prompts=st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=3), min_size=1, max_size=3))
def test_experts_are_fetched_when_a_router_chooses_them(prompts):
    """Through the store, pass after pass: the same bits as with all experts there, and each expert is read once, if at all."""
    segments = (record(lambda t, w: t.embed(w.token_embd), EMBEDDING), EMBEDDING), (record(expert_layer, EXPERTS, N), EXPERTS)
    with Rig(REFERENCE, *segments) as rig:
        want = [rig.run(ids) for ids in prompts]

    data, table = file_with(*segments)
    source = Counting(data)
    with Rig(REFERENCE, *segments, spare=2 * len(data)) as rig:
        bounds = [rig.device.bind(bound.program, 1) for bound in rig.bounds]
        store = LayerStore(source, table, rig.memory, [bound.table for bound in bounds])
        experts = [w for w in bounds[1].program.weights if w.is_expert]
        ops = range(len(bounds[1].program.ops))

        async def step(ids):
            rig.device.begin(ids, 0, len(ids))
            await rig.device.run(bounds[:1], range(1))
            stop = await rig.device.run(bounds[1:], ops)
            while stop.missing:
                await store.fetch(1, stop.missing)
                stop = await rig.device.run(bounds[1:], range(stop.next_op, ops.stop))
            assert stop.next_op == ops.stop
            return np.asarray(rig.device.logits(bounds[1]))

        async def main():
            await store.fetch(0, (0,))
            await store.fetch(1, (0,))                           # the router
            return [await step(ids) for ids in prompts]

        for got, wanted in zip(asyncio.run(main()), want, strict=True):
            np.testing.assert_array_equal(got, wanted)
        read = {entry for w in experts for entry in range(w.first, w.first + N_EXPERTS) if store.tables[1][entry]}
        assert len(source.reads) == 2 + len(read)
        assert len(read) <= 3 * 2 * len({token for ids in prompts for token in ids})
