"""Ops of other families on the CPU device: against the reference device, and every build, number of threads and split of a
prompt against each other bit for bit. As tests/test_cpu_device.py.

Bounds on the normalised squared error stand beside the tests: the worst seen over 120 random cases, times ten.
"""

import asyncio
import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wasmrt
from tests.programs import CPU, PLAIN, REFERENCE, Rig, Tensor, nmse, normal, random_tensor, record, run_op, run_route, tensor
from tests.test_cpu_device import (
    EXACT,
    OTHERS,
    SOURCES,
    Guarded,
    assert_same_bits,
    cuts_of,
    draw_experts,
    formats,
    others,
    quantized,
    reference,
    run,
    seeds,
    sizes_of_rows,
    uneven,
)
from tests.test_reference_device import size_of_product
from tests.test_reference_ops import NUMBERS, deltas, exactly, routes
from wasmrt.device import binary
from wasmrt.gguf.types import BY_NAME
from wasmrt.program.ops import FUNCTIONS, SCORES

pytestmark = pytest.mark.usefixtures("cpu")

rows_of_x = st.sampled_from([1, 2, 5, 6, 9, 17, 64, 130])
widths = st.sampled_from([1, 3, 63, 64, 65, 257, 700])
small_formats = st.sampled_from(["F32", "F16", "BF16", "Q8_0", "Q4_K"])


def in_passes(kind, kernel, ins, cuts=(), **params):
    """The op on rows in passes that end at these cuts. ins: by role; a Tensor is a weight, an array (T, n) a value."""
    tensors = {role: x if isinstance(x, Tensor) else tensor(x) for role, x in ins.items()}
    [n_tokens] = {len(x) for x in ins.values() if not isinstance(x, Tensor)}

    def page(t, w):
        given = {role: getattr(w, role) for role in tensors}
        given = {role: x if isinstance(ins[role], Tensor) else t.embed(x) for role, x in given.items()}
        return t.last_rows(getattr(t, kernel)(**given, **params))

    with (Rig if kind is REFERENCE else Guarded)(kind, (record(page, tensors), tensors), max_tokens=n_tokens) as rig:
        edges = itertools.pairwise([0, *sorted(cuts), n_tokens])
        return np.concatenate([rig.run(range(a, b), a) for a, b in edges])


def results(kind, page, tensors, rows):
    """What a pass of `rows` tokens leaves, whether they are numbers or not."""
    program = record(page, tensors)
    with Guarded(kind, (program, tensors), max_tokens=rows) as rig:
        rig.device.begin(range(rows), 0, rows)
        asyncio.run(rig.device.run(rig.bounds, range(len(program.ops))))
        width = program.result.width
        data = bytes(rig.memory.view(rig.bounds[0].slots[program.result.index], 4 * rows * width))
        return np.frombuffer(data, np.float32).reshape(rows, width)


# Norms


# Worst: 2e-14, for layer_norm in units of the row before its mean is taken off.
@settings(max_examples=60)
@given(
    other=others, kernel=st.sampled_from(["rms_norm", "layer_norm"]), rows=rows_of_x, n_groups=st.sampled_from([1, 2, 7, 33]),
    group=st.sampled_from([1, 5, 64, 65, 257]), w_is=st.sampled_from(["nothing", "group", "row", "matrix"]),
    b_is=st.sampled_from(["nothing", "group", "row"]), name=small_formats, seed=seeds,
)  # fmt: skip
def test_norms_of_groups(other, kernel, rows, n_groups, group, w_is, b_is, name, seed):
    block = BY_NAME[name].block
    group = -(-group // block) * block
    x = normal(seed, (rows, n_groups * group))
    shapes = {"group": (group,), "row": (n_groups * group,), "matrix": (group, n_groups)}
    ins = [random_tensor(seed + 1, name, *shapes[w_is]) if w_is in shapes else None]
    if kernel == "layer_norm":
        ins.append(random_tensor(seed + 2, name, *shapes[b_is]) if b_is in shapes else None)
    got, want = (r(kernel, x, *ins, eps=1e-5, group=group) for r in (lambda *a, **k: run(other, *a, **k), reference))
    size = np.abs(want) + (np.mean([np.abs(w.values()).mean() for w in ins if w] or [1]) if kernel == "layer_norm" else 0)
    assert nmse(got, want, size) < 2e-13


# Functions

# Zeros, subnormals, ends of the range and both sides of where a formula changes.
EDGES = [0.0, -0.0, 1e-40, -1e-40, 1e-6, -1e-6, 0.625, -0.625, 0.6249999, 9.0, -9.0, 20.0, 20.000002, -87.3, -88.0, -104.0]


# Of themselves, or of 1e-30 where that is more. exp of a large number multiplies its rounding: worst 1.2e-5 for these two; else
# 4e-7. xielu is 0 in between, so its errors go with x.
FAR_BELOW = {"gelu": 1.2e-4, "gelu_erf": 1.3e-4}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", [CPU, *OTHERS], ids=lambda kind: kind.name)
def test_unary(kind, function):
    """Small results keep their digits."""
    x = np.concatenate([np.linspace(-12, 12, 6001), np.linspace(-0.01, 0.01, 801), np.geomspace(1e-30, 88, 300)])
    x = np.concatenate([x, -np.geomspace(1e-30, 88, 300), EDGES]).astype(np.float32).reshape(1, -1)
    got = run_op(kind, "unary", x, rig=Guarded, function=function, **dict(zip("abcd", NUMBERS.get(function, ()), strict=False)))
    want = exactly(function, x)
    error = np.abs(got - want) / np.maximum(np.abs(want), np.abs(x) if function == "xielu" else 1e-30)
    assert np.max(error) < FAR_BELOW.get(function, 4e-6), x.ravel()[np.argmax(error)]


FAR = {  # what a function gives of -inf, inf, -1e30 and 1e30
    "scale": (-math.inf, math.inf, -0.37e30, 0.37e30), "softcap": (-30, 30, -30, 30), "clamp": (-1.5, 2.5, -1.5, 2.5),
    "gelu": (math.nan, math.inf, 0, 1e30), "gelu_erf": (math.nan, math.inf, 0, 1e30),
    "gelu_quick": (math.nan, math.inf, 0, 1e30), "silu": (math.nan, math.inf, 0, 1e30), "relu": (0, math.inf, 0, 1e30),
    "relu2": (0, math.inf, 0, math.inf),
    "sigmoid": (0, 1, 0, 1), "softplus": (0, math.inf, 0, 1e30), "tanh": (-1, 1, -1, 1), "exp": (0, math.inf, 0, math.inf),
    "xielu": (math.nan, math.inf, 0.3e30, math.inf),
}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", [CPU, PLAIN], ids=lambda kind: kind.name)
def test_unary_far_out(kind, function):
    """NaN stays NaN, and the end of the range is a limit or NaN; never a number that means nothing."""
    x = np.array([[-math.inf, math.inf, -1e30, 1e30, math.nan]], np.float32)
    numbers = dict(zip("abcd", NUMBERS.get(function, ()), strict=False))
    got = results(kind, lambda t, w: t.last_rows(t.unary(t.embed(w.x), function, **numbers)), {"x": tensor(x)}, 1)
    np.testing.assert_allclose(got[0], [*FAR[function], math.nan], rtol=1e-5, atol=1e-30)


@settings(max_examples=60)
@given(other=others, function=st.sampled_from(FUNCTIONS), rows=rows_of_x, n=widths, scale=st.sampled_from([1, 9]), seed=seeds)
def test_unary_of_any_shape(other, function, rows, n, scale, seed):
    """An element's bits do not depend on where it lies."""
    x, numbers = normal(seed, (rows, n), scale), dict(zip("abcd", NUMBERS.get(function, ()), strict=False))
    got = run(other, "unary", x, function=function, **numbers)
    assert_same_bits(run_op(CPU, "unary", x.reshape(1, -1), function=function, **numbers), got.reshape(1, -1))


# Worst: 6e-15.
@settings(max_examples=40)
@given(other=others, rows=rows_of_x, n=widths, scale=st.sampled_from([0.1, 1.0, 9.0, 100.0]), seed=seeds)
def test_gated_activations(other, rows, n, scale, seed):
    gate, up = normal(seed, (rows, n), scale), normal(seed + 1, (rows, n), scale)
    assert nmse(run(other, "geglu", gate, up), reference("geglu", gate, up), gate * up) < 6e-14
    got, want = (r("swiglu_oai", gate, up, alpha=1.702, limit=7.0) for r in (lambda *a, **k: run(other, *a, **k), reference))
    assert nmse(got, want, gate * (np.abs(up) + 1)) < 6e-14


# Columns and rows


@settings(max_examples=40)
@given(other=others, rows=rows_of_x, n_groups=st.sampled_from([1, 2, 9]), group=widths, data=st.data(), seed=seeds)
def test_columns(other, rows, n_groups, group, data, seed):
    start = data.draw(st.integers(0, group - 1))
    n = data.draw(st.integers(1, group - start))
    x, params = normal(seed, (rows, n_groups * group)), {"start": start, "n": n, "group": group}
    assert_same_bits(run(other, "columns", x, **params), reference("columns", x, **params))


@settings(max_examples=40)
@given(other=others, rows=rows_of_x, n_groups=st.sampled_from([1, 2, 9]), n_x=widths, n_y=widths, seed=seeds)
def test_concat(other, rows, n_groups, n_x, n_y, seed):
    ins = normal(seed, (rows, n_groups * n_x)), normal(seed + 1, (rows, n_groups * n_y))
    assert_same_bits(run(other, "concat", *ins, n_groups=n_groups), reference("concat", *ins, n_groups=n_groups))


@settings(max_examples=40)
@given(
    other=others, rows=rows_of_x, n=widths, pos=st.integers(0, 9), per_entry=st.integers(1, 99), name=small_formats, seed=seeds
)
def test_add_position(other, rows, n, pos, per_entry, name, seed):
    w = random_tensor(seed, name, -(-n // BY_NAME[name].block) * BY_NAME[name].block, pos + rows + 2)
    x, chunk_bytes = normal(seed, (rows, w.shape[0])), per_entry * w.type.row_bytes(w.shape[0])
    got = run(other, "add_position", x, w, pos=pos, chunk_bytes=chunk_bytes)
    assert_same_bits(got, reference("add_position", x, w, pos=pos))


def test_a_position_past_the_table_is_refused():
    """It would be looked up past the end of the weight."""
    tensors = {"x": random_tensor(1, "F32", 8, 9), "w": random_tensor(2, "F32", 8, 5)}
    program = record(lambda t, w: t.last_rows(t.add_position(t.embed(w.x), w.w)), tensors)
    with Guarded(CPU, (program, tensors), context=64) as rig:
        assert rig.run([0, 1], 3).shape == (2, 8)
        for ids, pos in (([0, 1], 4), ([0], 5), (range(6), 0)):
            with pytest.raises(ValueError, match="there are 9 tokens and 5 positions"):
                rig.run(ids, pos)


# Worst: 0, since the factor is double here too.
@settings(max_examples=40)
@given(
    other=others, rows=rows_of_x, n=widths, pos=st.sampled_from([0, 3, 8190, 100000]), offset=st.sampled_from([0.0, 1.0]),
    length=st.sampled_from([1.0, 7.0, 8192.0]), seed=seeds,
)  # fmt: skip
def test_temper(other, rows, n, pos, offset, length, seed):
    x, params = normal(seed, (rows, n)), {"pos": pos, "length": length, "scale": 0.1, "offset": offset}
    assert nmse(run(other, "temper", x, **params), reference("temper", x, **params)) < 1e-14


# Products


@formats
@settings(max_examples=15)
@given(other=others, rows=rows_of_x, m=st.integers(1, 41), n_heads=st.integers(1, 7), data=st.data(), seed=seeds)
def test_head_matmul(name, other, rows, m, n_heads, data, seed):
    """Bit for bit what matmul gives of a head's part and its matrix, for any build, threads and split."""
    n = data.draw(sizes_of_rows(name))
    w, x = random_tensor(seed, name, n, m, n_heads), uneven(seed + 1, (rows, n_heads * n), 1.0)
    got = run(other, "head_matmul", w, x, n_heads=n_heads)
    for begin, end in itertools.pairwise([0, *data.draw(cuts_of(rows)), rows]):
        part = run_op(other, "head_matmul", w, x[begin:end], n_heads=n_heads, rig=Guarded)
        assert_same_bits(part, got[begin:end])
    n_bytes = len(w.data) // n_heads
    for h in range(n_heads):
        matrix, part = Tensor(w.type, (n, m), w.data[h * n_bytes : (h + 1) * n_bytes]), x[:, h * n : (h + 1) * n]
        of_head, values = got[:, h * m : (h + 1) * m], matrix.values()
        assert_same_bits(run_op(CPU, "matmul", matrix, part), of_head)
        assert nmse(of_head, quantized(name, part)[0] @ values.T, size_of_product(values, part)) < EXACT


@formats
@pytest.mark.parametrize("rows", [1, 9])
def test_matmul_by_one_row(name, rows):
    n = BY_NAME[name].block * 3
    w, x = random_tensor(1, name, n), normal(2, (rows, n))
    got = run(PLAIN, "matmul", w, x)
    values = w.values().reshape(1, n)
    assert nmse(got, quantized(name, x)[0] @ values.T, size_of_product(values, x)) < EXACT


STACKS = {
    "x": random_tensor(1, "F32", 512, 9), "router": random_tensor(6, "F32", 512, 5), "a": random_tensor(2, "Q8_0", 128, 256, 4),
    "b": random_tensor(3, "Q8_0", 128, 256, 4), "c": random_tensor(4, "Q8_0", 256, 512, 2),
    "d": random_tensor(5, "Q4_K", 512, 64), "e": random_tensor(7, "Q8_0", 512, 64, 5),
}  # fmt: skip


def stacks(t, w):
    """Stacks of matrices that are routed, and that are not."""
    x = t.embed(w.x)
    y = t.add(t.head_matmul(w.a, x, 4), t.head_matmul(w.b, x, 4))
    y = t.add(y, t.head_matmul(w.c, x, 2))                       # the same x in fewer, longer parts: other tiles
    y = t.columns(y, 0, 512)
    chosen, weights = t.route(t.matmul(w.router, x), 2)
    z = t.add(t.matmul(w.d, x), t.expert_sum(t.expert_matmul(w.e, t.add(x, y), chosen), weights))
    return t.last_rows(z)


@pytest.mark.parametrize("rows", [1, 5, 6, 9])
def test_what_is_quantized_once_is_the_same_as_each_time(rows):
    program = record(stacks, STACKS)
    with Guarded(CPU, (program, STACKS), max_tokens=9) as rig:
        want = rig.run(range(rows))
    with Rig(CPU, (program, STACKS), max_tokens=9) as rig:
        device = rig.device
        view = rig.memory.view(device._programs[program], len(binary.serialize(program)))
        told = [binary.HEADER.size + i * binary.OP.size + 4 for i in range(len(program.ops))]
        assert sum(view[at] == binary.QUANTIZED for at in told) == 1
        for at in told:
            view[at] = 0
        assert_same_bits(rig.run(range(rows)), want)


def test_a_stack_that_is_not_routed_needs_all_of_its_matrices():
    """A router's experts are looked for in the stacks that are routed; an absent head is named before anything runs."""
    program = record(stacks, STACKS)
    first = {w.name: w.first for w in program.weights}
    with Rig(CPU, (program, STACKS), max_tokens=9) as rig:
        want = rig.run([0, 1])
        [bound] = rig.bounds
        route = next(i for i, op in enumerate(program.ops) if op.kernel == "route")
        chosen = rig.device.chosen(bound, route)
        for e in set(range(5)) - chosen:
            bound.table[first["e"] + e] = 0
        assert_same_bits(rig.run([0, 1]), want)
        address, bound.table[first["b"] + 3] = bound.table[first["b"] + 3], 0
        with pytest.raises(wasmrt.DeviceError, match="'b'"):
            rig.run([0, 1])
        bound.table[first["b"] + 3] = address
        assert_same_bits(rig.run([0, 1]), want)


# Attention


# Worst: 2e-14 of the values' size.
@settings(max_examples=120)
@given(
    other=others, rows=rows_of_x, pos=st.sampled_from([0, 1, 62, 63, 64, 65, 200]),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 1), (6, 3), (14, 2)]), d=st.sampled_from([1, 5, 64, 80]),
    dv=st.sampled_from([1, 7, 64, 80]), window=st.sampled_from([0, 1, 2, 5, 63, 64, 65, 128, 1000]), chunked=st.booleans(),
    softcap=st.sampled_from([0.0, 2.0, 50.0]), max_bias=st.sampled_from([0.0, 8.0]), sinking=st.booleans(), f16=st.booleans(),
    data=st.data(), seed=seeds,
)  # fmt: skip
def test_attention(other, rows, pos, heads, d, dv, window, chunked, softcap, max_bias, sinking, f16, data, seed):
    """The same bits when the rows come in two passes."""
    n_heads, n_kv_heads = heads
    q = normal(seed, (rows, n_heads * d))
    keys, values = normal(seed + 1, (pos + rows, n_kv_heads * d)), normal(seed + 2, (pos + rows, n_kv_heads * dv), 10.0)
    sinks = tensor(normal(seed + 3, (n_heads,), 3)) if sinking else None
    params = {
        "n_heads": n_heads, "n_kv_heads": n_kv_heads, "scale": d**-0.5, "window": window, "chunked": chunked,
        "softcap": softcap, "max_bias": max_bias,
    }  # fmt: skip
    cpu, other = (replace(kind, kv_type="f16" if f16 else None) for kind in (CPU, other))
    got = run_op(cpu, "attention", q, keys, values, sinks, pos=pos, rig=Guarded, **params)
    assert_same_bits(run_op(other, "attention", q, keys, values, sinks, pos=pos, rig=Guarded, **params), got)
    for begin, end in itertools.pairwise([0, *data.draw(cuts_of(rows)), rows]):
        seen = keys[: pos + end], values[: pos + end]
        assert_same_bits(run_op(other, "attention", q[begin:end], *seen, sinks, pos=pos + begin, **params), got[begin:end])
    if f16:
        keys, values = (a.astype(np.float16).astype(np.float32) for a in (keys, values))
    assert nmse(got, reference("attention", q, keys, values, sinks, pos=pos, **params), 10.0 + 0 * got) < 2e-13


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", [CPU, PLAIN], ids=lambda kind: kind.name)
def test_what_a_window_hides_is_not_looked_at(kind, chunked):
    """Keys and values outside of it may be NaN, in the same tile too."""
    window, pos, rows = 40, 120, 3
    q, keys, values = normal(1, (rows, 4 * 16)), normal(2, (pos + rows, 32)), normal(3, (pos + rows, 32))
    params = {"n_heads": 4, "n_kv_heads": 2, "scale": 0.25, "window": window, "chunked": chunked}
    want = run_op(kind, "attention", q, keys, values, pos=pos, **params)
    first = pos // window * window if chunked else pos + 1 - window
    keys[:first] = values[:first] = math.nan
    assert_same_bits(run_op(kind, "attention", q, keys, values, pos=pos, **params), want)
    keys[first] = values[first] = math.nan
    with pytest.raises(wasmrt.DeviceError, match="NaN"):
        run_op(kind, "attention", q, keys, values, pos=pos, **params)


@pytest.mark.parametrize("sink", [-math.inf, -1e30, 1e30])
def test_sinks_far_out(sink):
    """One that is nothing changes nothing, one that is all leaves 0."""
    q, keys, values = normal(1, (3, 4 * 16)), normal(2, (70, 32)), normal(3, (70, 32))
    params = {"n_heads": 4, "n_kv_heads": 2, "scale": 0.25, "pos": 67}
    got = run_op(CPU, "attention", q, keys, values, tensor(np.full(4, sink)), rig=Guarded, **params)
    assert_same_bits(got, 0 * got if sink > 0 else run_op(CPU, "attention", q, keys, values, **params))


# Experts


# Worst: 3e-14.
@settings(max_examples=100)
@given(other=others, case=routes(), bias_is=small_formats)
def test_route(other, case, bias_is):
    logits, bias, params = case
    bias = None if bias is None else tensor(bias)
    if bias and BY_NAME[bias_is].block == 1:
        bias = random_tensor(1, bias_is, logits.shape[1])
    found = [run_route(kind, logits, bias=bias, rig=Guarded, **params) for kind in (CPU, other)]
    want_experts, want_weights = run_route(REFERENCE, logits, bias=bias, **params)
    for experts, weights in found:
        np.testing.assert_array_equal(experts, want_experts)
        assert nmse(weights, want_weights) < 3e-13
        assert_same_bits(weights, found[0][1])


@pytest.mark.parametrize("kind", [CPU, PLAIN], ids=lambda kind: kind.name)
def test_weights_that_are_almost_nothing_are_not_blown_up(kind):
    _, weights = run_route(kind, np.full((1, 4), -20, np.float32), 2, score="sigmoid")
    np.testing.assert_allclose(weights, math.exp(-20) * 2**14, rtol=1e-6)


@settings(max_examples=40)
@given(
    kind=st.sampled_from((CPU, PLAIN)), n_groups=st.sampled_from([2, 4, 5]), score=st.sampled_from(SCORES), data=st.data(),
    seed=seeds,
)  # fmt: skip
def test_a_router_by_groups_that_is_damaged_names_experts_that_are_there(kind, n_groups, score, data, seed):
    per_group, used = data.draw(st.integers(1, 6)), data.draw(st.integers(1, n_groups))
    n, n_used = n_groups * per_group, data.draw(st.integers(1, used * per_group))
    logits = np.random.default_rng(seed).choice(np.float32([math.nan, math.inf, -math.inf, 0, 1, 3e38]), (7, n))
    tensors = {"logits": tensor(logits), "ones": tensor(np.ones((7, n_used))), "ids": tensor(np.arange(n))}

    def page(t, w):
        chosen, _ = t.route(t.embed(w.logits), n_used, score=score, n_groups=n_groups, n_groups_used=used)
        return t.last_rows(t.expert_mul(t.embed(w.ones), w.ids, chosen))

    for chosen in results(kind, page, tensors, 7):
        assert set(chosen) <= set(range(n))
        assert len(set(chosen)) == n_used


@settings(max_examples=40)
@given(
    other=others, rows=rows_of_x, n=widths, n_experts=st.integers(1, 9), name=small_formats, per_entry=st.integers(1, 9),
    data=st.data(), seed=seeds,
)  # fmt: skip
def test_expert_add_spread_and_plain_sum(other, rows, n, n_experts, name, per_entry, data, seed):
    n_used, n = data.draw(st.integers(1, n_experts)), -(-n // BY_NAME[name].block) * BY_NAME[name].block
    experts, w = draw_experts(seed, rows, n_experts, n_used), random_tensor(seed + 1, name, n, n_experts)
    x, chunk_bytes = normal(seed, (rows, n_used * n)), per_entry * w.type.row_bytes(n)
    got = run(other, "expert_add", x, w, experts, chunk_bytes=chunk_bytes)
    assert_same_bits(got, reference("expert_add", x, w, experts))
    one, weights = normal(seed + 2, (rows, n)), normal(seed + 3, (rows, n_used))
    assert_same_bits(run(other, "expert_spread", one, weights), reference("expert_spread", one, weights))
    got, want = run(other, "expert_sum", x, None, n_used=n_used), reference("expert_sum", x, None, n_used=n_used)
    # The same sums in the same order; a numpy may add in another one.
    assert nmse(got, want, np.linalg.norm(x.reshape(rows, n_used, n), axis=1)) < 1e-12


# Recurrences

lengths = st.sampled_from([1, 2, 7, 64, 65, 130])


def cuts_into(n):
    return st.sets(st.integers(1, n - 1), max_size=5) if n > 1 else st.just(set())


# Worst: 5e-14.
@settings(max_examples=60)
@given(
    other=others, rows=lengths, heads=st.sampled_from([(1, 1), (6, 1), (6, 2), (65, 1)]), p=st.sampled_from([1, 3, 64]),
    n=st.sampled_from([1, 4, 7, 16, 63, 128]), one_decay=st.booleans(), names=st.tuples(small_formats, small_formats),
    skip=st.booleans(), data=st.data(), seed=seeds,
)  # fmt: skip
def test_ssm_scan(other, rows, heads, p, n, one_decay, names, skip, data, seed):
    """A pass of all tokens, passes of some, and passes of one: the same bits. a and d may be packed."""
    n_heads, n_groups = heads
    rows = min(rows, 9) if n_heads * p * n > 5000 else rows
    ins = {
        "x": normal(seed, (rows, n_heads * p)), "dt": normal(seed + 1, (rows, n_heads), 3),
        "b": normal(seed + 2, (rows, n_groups * n)), "c": normal(seed + 3, (rows, n_groups * n)),
        "a": decays_of(seed + 4, names[0], 1 if one_decay else n, n_heads),
    }  # fmt: skip
    if skip:
        block = BY_NAME[names[1]].block
        ins["d"] = random_tensor(seed + 5, names[1] if n_heads % block == 0 else "F16", n_heads)
    want = in_passes(CPU, "ssm_scan", ins, n_groups=n_groups)
    for cuts in (data.draw(cuts_into(rows)), range(1, rows)):
        assert_same_bits(in_passes(other, "ssm_scan", ins, cuts, n_groups=n_groups), want)
    size = np.abs(want) + 0.1 * np.abs(want).mean()
    assert nmse(in_passes(REFERENCE, "ssm_scan", ins, n_groups=n_groups), want, size) < 5e-13


def decays_of(seed, name, n, n_heads):
    """Decays, which are below 0: in a format of single numbers, else F32."""
    values = -np.exp(normal(seed, (n_heads, n)))
    if name == "F16":
        return Tensor(BY_NAME["F16"], (n, n_heads), values.astype(np.float16).tobytes())
    return tensor(values)


# Worst: 2e-14.
@settings(max_examples=60)
@given(other=others, case=deltas(lengths), data=st.data())
def test_delta_net(other, case, data):
    check_delta_net(other, *case, data.draw(cuts_into(len(case[0][0]))))


@pytest.mark.parametrize("m", [16, 20, 33, 63, 64, 128])
@pytest.mark.parametrize("tiled", [False, True])
def test_delta_net_of_whole_pieces(m, tiled):
    """Columns of the state are taken 16 or 4 at once, or alone."""
    rows, n, n_heads = 65, 64, 4
    q, k = (normal(i, (rows, 2, n)) for i in (1, 2))
    q, k = ((x / np.linalg.norm(x, axis=-1, keepdims=True)).reshape(rows, -1) for x in (q, k))
    g, beta = -np.exp(normal(3, (rows, n_heads), 2)), np.random.default_rng(4).uniform(0, 1, (rows, n_heads)).astype(np.float32)
    params = {"n_k_heads": 2, "scale": n**-0.5, "tiled": tiled}
    check_delta_net(PLAIN, (q, k, normal(5, (rows, n_heads * m)), g, beta), params, {1, 33})


def check_delta_net(other, ins, params, cuts):
    ins = dict(zip(("q", "k", "v", "g", "beta"), ins, strict=True))
    want = in_passes(CPU, "delta_net", ins, **params)
    for some in (cuts, range(1, len(want))):
        assert_same_bits(in_passes(other, "delta_net", ins, some, **params), want)
    assert nmse(in_passes(REFERENCE, "delta_net", ins, **params), want, np.abs(want) + 0.1 * params["scale"]) < 2e-13


# What the two sides know of each other


@pytest.mark.parametrize(("first", "names"), [("SCALE", FUNCTIONS), ("SOFTMAX", SCORES)])
def test_names_are_numbered_alike(first, names):
    [listed] = re.findall(rf"enum \{{\s*({first}, .*?),?\s*\}}", SOURCES, re.DOTALL)
    assert [name.lower() for name in re.findall(r"\w+", listed)] == list(names)
