"""Ops, recording and the placement of values in slots."""

import inspect
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.programs import REFERENCE, Rig, normal, record, tensor
from wasmrt.device import reference
from wasmrt.device.device import arena_offsets
from wasmrt.gguf.types import BY_NAME
from wasmrt.program.ops import KERNELS, Program, Slot, Space
from wasmrt.program.record import ROW_STEP, Recorder, Rope
from wasmrt.store.memory import ALIGNMENT

F32 = BY_NAME["F32"]


# The table of ops


def operands_of(kernel):
    """The operands that a model page passes: those that the pass and the cache provide are not among them."""
    given = ("tokens", "pos", "n_out", "keys", "values")
    return [role.rstrip("?") for role in KERNELS[kernel].ins if role not in given]


def test_every_op_has_a_meaning_and_no_meaning_is_without_an_op():
    assert set(reference.OPS) == set(KERNELS)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_reference_function_takes_what_the_table_says(kernel):
    """Operands that the op updates, then its inputs, then its parameters: the device passes all but the last by position."""
    row = KERNELS[kernel]
    wanted = [*row.mutates, *(role.rstrip("?") for role in row.ins), *row.params]
    assert list(inspect.signature(reference.OPS[kernel]).parameters) == wanted
    assert reference.OPS[kernel].__doc__


@pytest.mark.parametrize("kernel", [name for name, row in KERNELS.items() if not row.fused])
def test_the_recorder_has_a_method_for_every_op(kernel):
    """Operands in the order of the table row, and the parameters; rope's come as one object."""
    names = list(inspect.signature(getattr(Recorder, kernel)).parameters)[1:]
    assert [name for name in names if name in operands_of(kernel)] == operands_of(kernel)
    params = [name for name in names if name not in operands_of(kernel)]
    # matmul's rows are those of the weight's entries; what else is missing here follows from shapes too.
    from_shapes = {"rope": ["rope"], "matmul": [], "columns": ["start", "n", "group"], "concat": ["n_groups"]}
    from_shapes |= {"ssm_scan": ["n_groups"], "delta_net": ["n_k_heads", "scale", "tiled"]}
    assert params == from_shapes.get(kernel, list(KERNELS[kernel].params))


def test_rope_parameters_reach_the_op_under_their_names():
    rope = Rope(6, 8, 2.0, "halves", 3.0, 4.0, 5.0, 7.0, 9.0)
    assert len(set(asdict(rope).values())) == len(fields(Rope))  # all different, so that none can pass for another
    t = Recorder("layer")
    program = t.finish(t.add(t.residual(16), t.rope(t.embed(t.weight("w", F32, (16, 3))), rope)))
    op = next(op for op in program.ops if op.kernel == "rope")
    assert dict(zip(KERNELS["rope"].params, op.params, strict=True)) == asdict(rope)


# Recording


def weights_of(t):
    """Operands of many shapes on a recorder."""
    shapes = {"row": (8,), "one": (1,), "two": (2,), "square": (8, 8), "wide": (8, 12), "experts": (8, 12, 3), "taps": (4, 8)}
    return {name: t.weight(name, F32, shape) for name, shape in shapes.items()}


WRONG = {
    "a second residual stream": lambda t, w, x: t.residual(8),
    "a norm's weight of another width": lambda t, w, x: t.rms_norm(x, w["one"], 1e-5),
    "a matrix for other rows": lambda t, w, x: t.matmul(w["wide"], t.matmul(w["wide"], x)),
    "experts where a matrix is wanted": lambda t, w, x: t.matmul(w["experts"], x),
    "a value where a matrix is wanted": lambda t, w, x: t.matmul(x, x),
    "rows of a value": lambda t, w, x: t.embed(x),
    "rows of experts": lambda t, w, x: t.embed(w["experts"]),
    "a matrix as a norm's weight": lambda t, w, x: t.rms_norm(x, w["square"], 1e-5),
    "a value as a norm's weight": lambda t, w, x: t.rms_norm(x, x, 1e-5),
    "a bias of another width": lambda t, w, x: t.layer_norm(x, w["row"], 1e-5, w["one"]),
    "a value as a bias": lambda t, w, x: t.layer_norm(x, w["row"], 1e-5, x),
    "adding a matrix": lambda t, w, x: t.add(x, w["square"]),
    "adding rows of another width": lambda t, w, x: t.add(x, t.matmul(w["wide"], x)),
    "adding a bias of another width": lambda t, w, x: t.mul(x, w["two"]),
    "adding rows of another number": lambda t, w, x: t.add(x, t.last_rows(x)),
    "heads that do not fill the rows": lambda t, w, x: t.rope(x, Rope(2, 3)),
    "rotating more than a head": lambda t, w, x: t.rope(x, Rope(6, 4)),
    "rotating half a pair": lambda t, w, x: t.rope(x, Rope(3, 4)),
    "too few rope factors": lambda t, w, x: t.rope(x, Rope(8, 8), w["two"]),
    "attention without a cache": lambda t, w, x: t.attention(x, 2, 2, 1.0),
    "keys and values stored twice": lambda t, w, x: [t.store_kv(x, x), t.store_kv(x, x)],
    "heads that cannot share key heads": lambda t, w, x: [t.store_kv(x, x), t.attention(x, 4, 3, 1.0)],
    "query and key heads of different width": lambda t, w, x: [t.store_kv(x, x), t.attention(x, 4, 2, 1.0)],
    "more experts than there are": lambda t, w, x: t.route(x, 9),
    "no experts": lambda t, w, x: t.route(x, 0),
    "a scale for part of a row": lambda t, w, x: t.expert_mul(x, w["row"], t.route(x, 3)[0]),
    "a row of scales for each expert": lambda t, w, x: t.expert_mul(x, w["square"], t.route(x, 2)[0]),
    "a sum of what does not divide": lambda t, w, x: t.expert_sum(x, t.route(x, 3)[1]),
    "a matrix where experts are wanted": lambda t, w, x: t.expert_matmul(w["wide"], x, t.route(x, 2)[0]),
    "experts for other rows": lambda t, w, x: t.expert_matmul(w["experts"], t.matmul(w["wide"], x), t.route(x, 2)[0]),
    "taps for other rows": lambda t, w, x: t.causal_conv(t.matmul(w["wide"], x), w["taps"]),
    "a result that cannot overwrite the stream": lambda t, w, x: t.finish(t.rms_norm(x, w["row"], 1e-5)),
    "a result of another width": lambda t, w, x: t.finish(t.matmul(w["wide"], x)),
    "a result while the stream is still needed": lambda t, w, x: t.finish([t.mul(x, x), t.mul(x, x)][0]),
}


@pytest.mark.parametrize("page", WRONG.values(), ids=WRONG)
def test_what_cannot_run_cannot_be_recorded(page):
    t = Recorder("layer")
    with pytest.raises(ValueError, match="cannot be recorded"):
        page(t, weights_of(t), t.residual(8))


def test_the_residual_stream_comes_first():
    t = Recorder("layer")
    t.embed(t.weight("w", F32, (8, 3)))
    with pytest.raises(ValueError, match="taken first"):
        t.residual(8)


def test_layers_with_the_same_calls_are_equal_programs():
    """They are shared by hash; anything that a device compiles in makes them different."""

    def made(eps=1e-5, quant="Q8_0", rows=32, chunk_bytes=1 << 20):
        t = Recorder("layer", chunk_bytes)
        x = t.residual(32)
        h = t.rms_norm(x, t.weight("norm", F32, (32,)), eps)
        h = t.matmul(t.weight("up", BY_NAME[quant], (32, rows)), h)
        return t.finish(t.add(x, t.matmul(t.weight("down", F32, (rows, 32)), h)))

    assert made() == made()
    assert hash(made()) == hash(made())
    others = [made(eps=1e-6), made(quant="Q4_0"), made(rows=64), made(chunk_bytes=100)]
    assert len({made(), *others}) == 5


@given(
    quant=st.sampled_from(["F32", "Q8_0", "Q6_K"]),
    rows=st.integers(1, 300),
    chunk_bytes=st.integers(1, 40_000),
    n_experts=st.sampled_from([None, 1, 5]),
)
def test_the_entries_of_a_weight_cover_its_rows_once(quant, rows, chunk_bytes, n_experts):
    """Whole rows, one at the least, of chunk_bytes at most and about as many in each entry; an expert is never cut."""
    t = Recorder("layer", chunk_bytes)
    before = t.weight("before", F32, (7, 1))
    shape = (256, rows) if n_experts is None else (256, rows, n_experts)
    w = t.weight("w", BY_NAME[quant], shape)
    assert t.weight("w", BY_NAME[quant], shape) == w             # asked for again: the same operand
    program = t.finish(t.embed(before))
    weight = program.weights[w.index]
    row_bytes = BY_NAME[quant].row_bytes(256)
    assert weight.first == 1
    assert program.n_entries == 1 + weight.n_entries
    assert weight.is_expert == (n_experts is not None)
    if n_experts is not None:
        assert (weight.n_entries, weight.rows_per_entry) == (n_experts, rows)
    else:
        most = max(1, chunk_bytes // row_bytes)
        assert weight.rows_per_entry <= min(rows, most)
        assert weight.n_entries <= -(-rows // most) + (most > ROW_STEP)
        assert weight.rows_per_entry % ROW_STEP == 0 or weight.rows_per_entry in (rows, most)
        assert (weight.n_entries - 1) * weight.rows_per_entry < rows <= weight.n_entries * weight.rows_per_entry


def test_entries_of_an_op_are_those_of_its_weights():
    t = Recorder("layer", chunk_bytes=4 * 8)
    x = t.residual(8)
    h = t.matmul(t.weight("a", F32, (8, 3)), x)
    chosen, weights = t.route(h, 2)
    y = t.expert_matmul(t.weight("e", F32, (8, 8, 3)), x, chosen)
    program = t.finish(t.add(x, t.add(t.expert_sum(y, weights), t.weight("b", F32, (8,)))))
    got = [(op.kernel, program.entries_of(op)) for op in program.ops[:-1]]
    products = [("matmul", (i,)) for i in range(3)]              # of a weight in three entries: one op each, into one slot
    assert got == [*products, ("route", ()), ("expert_matmul", (3, 4, 5)), ("expert_sum", ()), ("add", (6,))]
    assert [op.params for op in program.ops[:3]] == [(0, 1), (1, 1), (2, 1)]
    assert len({op.out for op in program.ops[:3]}) == 1


# Slots


WIDTH, FF = 8, 12
TENSORS = {
    "table": tensor(normal(1, (9, WIDTH))), "norm": tensor(normal(2, (WIDTH,))), "wide_norm": tensor(normal(3, (FF,))),
    "up": tensor(normal(4, (FF, WIDTH)) / 3), "down": tensor(normal(5, (WIDTH, FF)) / 3), "conv": tensor(normal(6, (WIDTH, 3))),
    "experts": tensor(normal(7, (4, FF, WIDTH))), "router": tensor(normal(8, (4, WIDTH))), "scale": tensor(normal(9, (4,))),
    "square": tensor(normal(10, (WIDTH, WIDTH))),
}  # fmt: skip
ONE_INPUT = ["norm", "product", "bias", "rope", "conv", "attention", "experts"]
TWO_INPUTS = ["add", "mul", "swiglu"]

# An op, and which of the values so far are its inputs: counted from the end, so that values die.
step = st.tuples(st.sampled_from(ONE_INPUT + TWO_INPUTS), st.integers(0, 5), st.integers(0, 5))
steps = st.lists(step, min_size=1, max_size=25)


def random_page(steps):
    """A page of these ops on a residual stream, which ends in a sum."""

    def page(t, w, x):
        values = {WIDTH: [x], FF: [t.matmul(w.up, x)]}
        cached = False
        for op, i, j in steps:
            width = FF if (i + j) % 3 == 0 and op in ("norm", *TWO_INPUTS) else WIDTH
            a, b = (values[width][-1 - at % len(values[width])] for at in (i, j))
            if op in TWO_INPUTS:
                made = getattr(t, op)(a, b)
            elif op == "norm":
                made = t.rms_norm(a, w.norm if width == WIDTH else w.wide_norm, 1e-5)
            elif op == "product":
                made = t.matmul(w.up, a) if j % 2 else t.matmul(w.down, values[FF][-1 - i % len(values[FF])])
            elif op == "bias":
                made = t.add(a, w.norm)
            elif op == "rope":
                made = t.rope(a, Rope(4, 4))
            elif op == "conv":
                made = t.causal_conv(a, w.conv)
            elif op == "attention":
                if not cached:
                    t.store_kv(a, b)
                cached = True
                made = t.attention(b, 2, 2, 0.5)
            else:
                chosen, weights = t.route(t.matmul(w.router, a), 2)
                made = t.expert_sum(t.expert_mul(t.expert_matmul(w.experts, b, chosen), w.scale, chosen), weights)
            values[made.width].append(made)
        return t.add(values[WIDTH][-1], values[WIDTH][-2 if len(values[WIDTH]) > 1 else -1])

    return page


def record_both(page) -> tuple[Program, Program]:
    """The program of a page, and the same ops with a slot of its own for every value."""
    t = Recorder("layer")
    w = SimpleNamespace(**{name: t.weight(name, x.type, x.shape) for name, x in TENSORS.items()})
    result = page(t, w, t.residual(WIDTH))
    placed = t.finish(result)
    slots = tuple(Slot(value.rows, value.width) for value in t._values)
    return placed, replace(placed, ops=tuple(t._ops), slots=slots, result=result)


@given(steps=steps)
def test_no_live_value_is_overwritten(steps):
    """Follow what each slot holds, op by op: an op finds in its slots the very values that were recorded."""
    placed, apart = record_both(random_page(steps))
    assert len(placed.ops) == len(apart.ops)
    holds = {0: 0}                                               # slot -> value; the residual stream is value 0
    for op, recorded in zip(placed.ops, apart.ops, strict=True):
        assert (op.kernel, op.params) == (recorded.kernel, recorded.params)
        outs = [o.index for o in op.out if o.space is Space.ACTIVATION]
        ins = [o.index for o in op.ins if o is not None and o.space is Space.ACTIVATION]
        assert len(set(outs)) == len(outs)
        # Only an elementwise kernel may write where it reads: others read an element again after they wrote another.
        assert KERNELS[op.kernel].elementwise or not set(outs) & set(ins)
        for now, value in zip(op.ins, recorded.ins, strict=True):
            if now is not None and now.space is Space.ACTIVATION:
                assert holds[now.index] == value.index
            else:
                assert now == value
        for now, value in zip(op.out, recorded.out, strict=True):
            if now.space is Space.ACTIVATION:
                assert (placed.slots[now.index].rows, placed.slots[now.index].width) == (value.rows, value.width)
                holds[now.index] = value.index
    assert placed.result.index == 0
    assert holds[0] == apart.result.index


@given(steps=steps)
def test_reused_slots_give_the_same_bits(steps):
    """Against the same ops where every value has a slot of its own; two passes, so that cache and state take part."""
    embedding = record(lambda t, w: t.embed(w.table), TENSORS)

    def run(program):
        with Rig(REFERENCE, (embedding, TENSORS), (program, TENSORS)) as rig:
            return np.concatenate([rig.run([3, 1, 4]), rig.run([1, 5], 3)])

    placed, apart = record_both(random_page(steps))
    np.testing.assert_array_equal(run(placed), run(apart))


def test_slots_are_as_few_as_lifetimes_allow():
    """A chain of products needs two slots beside the stream, of elementwise ops one, however long it is."""
    t = Recorder("layer")
    x = h = t.residual(8)
    square = t.weight("square", F32, (8, 8))
    for _ in range(20):
        h = t.matmul(square, h)
    assert len(t.finish(t.add(x, h)).slots) == 3
    t = Recorder("layer")
    x = t.residual(8)
    h = t.mul(x, x)
    for _ in range(20):
        h = t.mul(h, h)
    assert len(t.finish(t.add(x, h)).slots) == 2


def test_the_stream_enters_and_leaves_in_slot_0():
    layer = record(lambda t, w, x: t.add(x, t.rms_norm(x, w.norm, 1e-5)), TENSORS, WIDTH)
    assert layer.ops[0].ins[0].index == layer.result.index == 0
    assert layer.slots[0] == Slot("T", WIDTH)
    unlike = record(lambda t, w, x: t.add(t.rms_norm(x, w.norm, 1e-5), w.norm), TENSORS, WIDTH)
    assert unlike.result.index == 0                              # also where the stream itself is not in the sum
    product = record(lambda t, w, x: t.matmul(w.square, t.mul(x, x)), TENSORS, WIDTH)
    assert product.ops[1].ins[1].index != product.result.index == 0
    embedding = record(lambda t, w: t.mul(t.embed(w.table), w.norm), TENSORS)
    assert embedding.result.index == 0
    head = record(lambda t, w, x: t.matmul(w.up, t.last_rows(x)), TENSORS, WIDTH)
    assert (head.ops[0].ins[0].index, head.result.rows) == (0, "out")
    assert head.result.index != 0


def test_a_result_outlives_the_ops_that_read_it():
    """Here nothing reads y after the sum, which is of no use, but the device's caller."""

    def page(t, w):
        y = t.last_rows(t.embed(w.table))
        t.add(y, y)
        return y

    with Rig(REFERENCE, (record(page, TENSORS), TENSORS)) as rig:
        np.testing.assert_array_equal(rig.run([4, 2]), TENSORS["table"].values()[[4, 2]])


@given(steps=steps, max_tokens=st.integers(1, 70), max_out=st.integers(1, 9))
def test_slots_do_not_overlap_in_the_arena(steps, max_tokens, max_out):
    program, _ = record_both(random_page(steps))
    program = replace(program, slots=(*program.slots, Slot("out", 5)))
    offsets = arena_offsets(program, max_tokens, max_out)
    assert offsets[0] == 0                                       # the stream is where the segment before left it
    assert len(offsets) == len(program.slots) + 1
    for slot, start, end in zip(program.slots, offsets, offsets[1:], strict=False):
        assert start % ALIGNMENT == 0
        assert end - start >= 4 * slot.width * (max_tokens if slot.rows == "T" else max_out)
