"""The layer table and the plan: a ledger that is never above the budget, and that makes a pass read no more than it must."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wasmrt
from tests.tables import SIZES, layers, segment, tables
from tests.test_policy import discrepancy
from wasmrt.errors import BudgetError
from wasmrt.store.layers import Entry, Kind, LayerTable, Segment
from wasmrt.store.memory import HostMemory, aligned
from wasmrt.store.plan import (
    DEFAULT_CONTEXT,
    KV_SHARE,
    RESIDENT_CONTEXT,
    RING_BYTES,
    SMALLEST_CONTEXT,
    Demand,
    Sizes,
    frame_bytes,
    make_plan,
)
from wasmrt.store.policy import SMALL

KIB, MIB = 1 << 10, 1 << 20
PLENTY = 1 << 50

# An embedding of 1000 bytes in two chunks, two layers, and a head that is tied to the embedding.
TABLE = LayerTable((
    segment("embedding", ("token_embd", 100, 600), ("token_embd", 700, 400)),
    segment("blk.0", ("blk.0.a", 1100, 500), ("blk.0.b", 1600, 10)),
    segment("blk.1", ("blk.1.a", 1700, 500), ("blk.1.b", 2200, 10)),
    segment("head", ("output_norm", 2300, 40), ("token_embd", 100, 600), ("token_embd", 700, 400)),
), row_bytes=20, n_rows=50)  # fmt: skip
UNTIED = LayerTable((*TABLE.segments[:3], segment("head", ("output", 5000, 700))), row_bytes=20, n_rows=50)


def sizes_of(rows: int) -> Sizes:
    """Rows that are kept take 100 bytes each."""
    return Sizes(SIZES.kv_frames, SIZES.state_frames, (5000 + 100 * rows,))


# The table


def test_a_tied_tensor_is_one_range():
    assert [(e.tensor, e.offset) for e in TABLE.ranges()] == [
        ("token_embd", 100), ("token_embd", 700), ("blk.0.a", 1100), ("blk.0.b", 1600), ("blk.1.a", 1700), ("blk.1.b", 2200),
        ("output_norm", 2300),
    ]  # fmt: skip
    assert TABLE.n_bytes == 600 + 400 + 2 * 510 + 40
    assert TABLE.extents[0].places == ((0, 0), (3, 1))
    assert {extent.kind for extent in TABLE.extents} == {Kind.DENSE}


def test_a_pass_touches_all_but_the_embedding():
    """Of the embedding a pass reads rows; as a tied head it is read whole."""
    assert TABLE.touched_bytes == 2 * 510 + 40 + 1000
    assert UNTIED.touched_bytes == 2 * 510 + 700
    assert [extent.kind for extent in UNTIED.extents[:3]] == [Kind.ROWS, Kind.ROWS, Kind.DENSE]


def test_needs_are_what_ops_read_of_the_extents():
    """Of the embedding nothing: rows of it are another matter."""
    assert TABLE.needs == (((), ()), ((2,), (3,)), ((4,), (5,)), ((6,), (0,), (1,)))


def test_experts_are_extents_of_their_own_kind():
    entries = tuple(Entry(f"e{i}", 100 * i, 90) for i in range(3))
    router = Segment("blk.0", entries, ((0,), (), (1, 2)), frozenset({1, 2}), frozenset({1}))
    table = LayerTable((segment("embedding", ("token_embd", 900, 64)), router))
    assert [extent.kind for extent in table.extents] == [Kind.ROWS, Kind.DENSE, Kind.EXPERT, Kind.EXPERT]


# The plan


def test_the_plan_of_a_model_that_fits_is_a_ledger_of_aligned_frames():
    plan = make_plan(TABLE, sizes_of, MIB, 100, 4096)
    assert plan.context == 100
    assert plan.weight_bytes == 640 + 448 + 2 * (512 + 64) + 64
    assert plan.kv_bytes == 4032 + 4032 + 2432
    assert (plan.state_bytes, plan.activation_bytes) == (128, 5056)
    assert plan.total_bytes == plan.weight_bytes + plan.kv_bytes + plan.state_bytes + plan.activation_bytes
    assert (plan.resident_bytes, plan.streamed_bytes, plan.bytes_bound) == (plan.weight_bytes, 0, 0)
    assert plan.touched_bytes == TABLE.touched_bytes
    assert set(plan.homes.values()) == {"memory"}
    as_dict = plan.as_dict()
    assert (as_dict["total_bytes"], as_dict["notes"], as_dict["bytes_bound"]) == (plan.total_bytes, [], 0)


ANY = {
    "table": tables(),
    "share": st.floats(0, 1.2),
    "context": st.sampled_from([1, 7, 100, 300, 1000]),
    "block": st.sampled_from([1, 512, 4096]),
    "chunk": st.sampled_from([4, 256]),
    "policy": st.sampled_from(["plan", "plan", "lru", "belady"]),
}


def budget_at(table, share, context, **options):
    """Between the smallest budget that works and one that holds everything, and a little beyond."""
    everything = make_plan(table, sizes_of, PLENTY, context, context, **options)
    return everything.minimum_bytes + int(share * (everything.total_bytes - everything.minimum_bytes))


@given(**ANY)
def test_every_line_adds_up_and_the_sum_is_never_above_the_budget(table, share, context, block, chunk, policy):
    """The memory is made with total_bytes, so every line must find its place in it, with frames aligned."""
    options = {"block": block, "chunk": chunk, "policy": policy}
    budget = budget_at(table, share, context, **options)
    plan = make_plan(table, sizes_of, budget, context, 4096, **options)
    sizes = sizes_of(plan.kept_rows)
    assert plan.total_bytes == plan.weight_bytes + plan.kv_bytes + plan.state_bytes + plan.activation_bytes <= budget
    assert plan.weight_bytes == plan.resident_bytes + plan.staging_bytes + plan.expert_cache_bytes + plan.parts.padding
    assert plan.activation_bytes == sizes.activation_bytes + plan.row_bytes
    assert (plan.kv_bytes, plan.state_bytes) == (sizes.kv_bytes(context), sizes.state_bytes)
    memory = HostMemory(plan.total_bytes)
    caches = 40 * context, 40 * context, 24 * context
    for n_bytes in (plan.weight_bytes, *caches, 100, sizes.activation_bytes, plan.row_bytes):
        memory.allocate(n_bytes)

    extents, resident = table.extents, plan.parts.resident
    frames = [frame_bytes(extent.offset, extent.n_bytes, plan.block) for extent in extents]
    assert len(set(resident)) == len(resident)
    assert plan.resident_bytes == sum(frames[i] for i in resident)
    streamed = [i for i, extent in enumerate(extents) if i not in set(resident) and extent.kind is not Kind.ROWS]
    assert plan.streamed_bytes == sum(extents[i].n_bytes for i in streamed)
    assert plan.streams == bool(streamed)
    if streamed:
        experts = max([frames[i] for i in streamed if extents[i].kind is Kind.EXPERT], default=0)
        dense = max([frames[i] for i in streamed if extents[i].kind is Kind.DENSE], default=0)
        if policy == "plan":
            assert plan.staging_bytes >= dense
            assert plan.expert_cache_bytes >= experts
            assert plan.staging_bytes <= max(RING_BYTES, dense)
        else:
            assert plan.staging_bytes >= max(dense, experts)


@given(**ANY)
def test_a_budget_is_enough_to_the_byte_and_a_refusal_names_one_that_is(table, share, context, block, chunk, policy):
    options = {"block": block, "chunk": chunk, "policy": policy}
    minimum = make_plan(table, sizes_of, PLENTY, context, 4096, **options).minimum_bytes
    plan = make_plan(table, sizes_of, minimum, context, 4096, **options)
    assert plan.minimum_bytes == minimum
    assert plan.total_bytes <= minimum
    for budget in (minimum - 1, int(share * minimum / 1.3)):
        with pytest.raises(BudgetError) as error:
            make_plan(table, sizes_of, budget, context, 4096, **options)
        message = str(error.value)
        (named,) = re.findall(r"needs ([\d.]+) MiB", message)
        assert minimum <= float(named) * MIB < minimum + 0.11 * MIB
        assert make_plan(table, sizes_of, int(float(named) * MIB), context, 4096, **options).context == context
        assert f"a memory budget of {budget} bytes" in message
        assert f"a context of {context} " in message
        assert "\n" not in message


@given(**ANY)
def test_nothing_streams_if_what_a_pass_touches_fits(table, share, context, block, chunk, policy):
    """With the embedding or, if that is too much, with rows of it."""
    options = {"block": block, "chunk": chunk, "policy": policy}
    others = sizes_of(0).kv_bytes(context) + sizes_of(0).state_bytes + sizes_of(0).activation_bytes
    touched = sum(aligned(extent.n_bytes) for extent in table.extents if extent.kind is not Kind.ROWS)
    everything = sum(aligned(extent.n_bytes) for extent in table.extents)
    rows = aligned(min(chunk, table.n_rows) * table.row_bytes)
    fits = min(everything, touched + rows if touched < everything else everything)
    minimum = make_plan(table, sizes_of, PLENTY, context, 4096, **options).minimum_bytes
    for budget in (budget_at(table, share, context, **options), others + fits, others + fits - 1):
        if budget < minimum:
            continue
        plan = make_plan(table, sizes_of, budget, context, 4096, **options)
        assert plan.streams == (budget - others < fits)
        assert plan.kept_rows == 0 or plan.streams
        if not plan.streams:
            assert (plan.staging_bytes, plan.expert_cache_bytes, plan.block) == (0, 0, 1)
            assert (plan.row_bytes > 0) == (budget - others < everything)


@given(**{**ANY, "policy": st.just("plan")}, most=st.sampled_from([100, 3000, 100_000]), data=st.data())
def test_a_pass_reads_what_there_is_no_room_for_and_little_more(table, share, context, block, chunk, policy, most, data):
    """Little more: the parts that are no residents' place, and less than the smallest tensor that did not find one."""
    table = data.draw(tables(most))
    options = {"block": block, "chunk": chunk, "policy": policy}
    plan = make_plan(table, sizes_of, budget_at(table, share, context, **options), context, 4096, **options)
    if not plan.streams:
        return
    demand = Demand(table, block, chunk)
    dense = demand.of(Kind.DENSE)
    read = [demand.frame(table.extents[i]) for i in dense if i not in set(plan.parts.resident)]
    others = plan.staging_bytes + plan.expert_cache_bytes + plan.row_bytes + plan.parts.padding
    assert sum(read) <= max(0, demand.bytes_of(dense) - (plan.room + plan.row_bytes) + others) + min(read, default=0)
    assert sum(read) == demand.bytes_of(dense) - plan.resident_bytes


@given(table=tables(), shares=st.tuples(st.floats(0, 1.2), st.floats(0, 1.2)), block=st.sampled_from([1, 4096]))
def test_a_larger_budget_never_streams_more(table, shares, block):
    """Among those that keep as many rows of a prompt."""
    budgets = [budget_at(table, share, 1000, block=block) for share in sorted(shares)]
    small, large = (make_plan(table, sizes_of, budget, 1000, 4096, block=block) for budget in budgets)
    if small.kept_rows == large.kept_rows:
        assert large.streamed_bytes <= small.streamed_bytes


@pytest.mark.parametrize("frames", [10, 17, 28, 39])
def test_what_stays_is_spread_evenly(frames):
    """The residents of 40 equal layers are nowhere more than two away from an even share."""
    table = layers(*[SMALL] * 40)
    plan = make_plan(table, lambda rows: Sizes((), (), ()), frames * SMALL + 4096, 4, 4, chunk=4)
    chosen = [i - 1 for i in plan.parts.resident]                # the first is the embedding
    assert len(chosen) == frames - min(8, max(2, 40 - frames))   # what a ring of this lack takes
    assert discrepancy(chosen, 40) < 2


def test_a_ring_is_64_mib_or_one_op_at_the_most():
    for size, ring in ((MIB, 8 * MIB), (30 * MIB, 64 * MIB), (100 * MIB, 100 * MIB)):
        plan = make_plan(layers(*[size] * 40), lambda rows: Sizes((), (), ()), 20 * size + MIB // 2, 10, 10)
        assert ring <= plan.staging_bytes <= max(RING_BYTES, 2 * size)


def test_other_policies_have_one_cache_for_all():
    for policy in ("lru", "belady"):
        plan = make_plan(layers(*[3000] * 40), sizes_of, 60_000, 10, 10, policy=policy)
        assert (plan.parts.resident, plan.policy) == ((), policy)
        assert plan.staging_bytes == plan.weight_bytes > 40_000


# A prompt of several chunks


def test_rows_of_a_prompt_are_kept_where_there_is_room():
    """Else a note says what a long prompt costs; a prompt of one chunk keeps nothing."""
    table = layers(*[9000] * 40)
    few, many = (make_plan(table, sizes_of, budget, 1000, 1000, chunk=256) for budget in (210_000, 400_000))
    assert few.streams
    assert many.streams
    assert (few.kept_rows, many.kept_rows) == (0, 1000)
    assert "once for each chunk" in few.notes[0]
    assert many.notes == ()
    assert many.activation_bytes - few.activation_bytes == pytest.approx(100_000, abs=64)
    assert make_plan(table, sizes_of, 210_000, 256, 1000, chunk=256).notes == ()


# The context


@given(table=tables(), n_ctx_train=st.integers(1, 20_000), budget=st.integers(0, 700_000))
def test_an_automatic_context_takes_what_the_budget_holds(table, n_ctx_train, budget):
    """The model's own, 4096 at the most; lowered to 512 rather than stream, else to a fourth of the budget, 64 at the least."""
    wanted = min(n_ctx_train, DEFAULT_CONTEXT)
    least = min(wanted, SMALLEST_CONTEXT)
    everything = make_plan(table, sizes_of, PLENTY, least, n_ctx_train)
    if budget < everything.minimum_bytes:
        with pytest.raises(BudgetError, match=f"with a context of {least} "):
            make_plan(table, sizes_of, budget, None, n_ctx_train)
        return
    plan = make_plan(table, sizes_of, budget, None, n_ctx_train)
    assert least <= plan.context <= wanted
    assert plan.total_bytes <= budget
    longer = min(wanted, plan.context * 8 // 7 + 2)              # a step of the search more
    resident = min(wanted, RESIDENT_CONTEXT)
    kv = sizes_of(0).kv_bytes
    fixed = everything.total_bytes - kv(least)
    if fixed + kv(resident) <= budget:
        assert not plan.streams
        assert plan.context >= resident
        assert plan.context == wanted or fixed + kv(longer) > budget
    elif plan.context > least:
        assert kv(plan.context) <= budget // KV_SHARE
        assert plan.context == wanted or kv(longer) > budget // KV_SHARE or (
            budget < make_plan(table, sizes_of, PLENTY, longer, n_ctx_train).minimum_bytes
        )
    about = [note for note in plan.notes if "the context is" in note]
    assert len(about) == (plan.context < wanted)
    if about:
        assert f"the context is {plan.context} positions, not {wanted}" in about[0]


def test_an_explicit_context_is_never_changed():
    assert make_plan(TABLE, sizes_of, MIB, 17, 4096).context == 17
    assert make_plan(TABLE, sizes_of, MIB, 5000, 4096).context == 5000
    with pytest.raises(BudgetError, match="with a context of 5000"):
        make_plan(TABLE, sizes_of, 100_000, 5000, 8192)


# A model's plan


@pytest.mark.reference
@pytest.mark.parametrize("name", ["llama-dense.Q4_K_M", "llama-moe.Q4_K_M"])
def test_the_plan_says_what_a_loaded_model_takes(reference_dir, name):
    with wasmrt.load(reference_dir / "logits" / f"{name}.gguf", device="reference", context=40) as model:
        memory = model.engine._memory
        assert memory.used == memory.capacity == model.plan.total_bytes
        weights = sum(aligned(e.n_bytes) for e in model.engine._store._table.ranges())
        assert (model.plan.weight_bytes, model.plan.context) == (weights, 40)
