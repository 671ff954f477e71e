"""The GPU's small ops against the reference device; what they may not touch stays as it was.

Bounds on the normalised squared error stand beside the tests: the worst seen on a software adapter over 1000 random cases,
times ten. Other adapters may take another exp: WGSL lets it be off by 3 + 2|x| units in the last place.
"""

import asyncio
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from tests.programs import GPU, REFERENCE, Kind, Rig, Tensor, nmse, normal, random_tensor, record, run_op, run_route, tensor
from tests.test_quants import F16_FIELDS
from tests.test_reference_device import draw_experts, size_of_normed
from wasmrt.device import reference as meaning
from wasmrt.device.choice import Choice
from wasmrt.device.gpu_small import LOWER
from wasmrt.gguf.types import BY_NAME
from wasmrt.program.ops import FUNCTIONS, KERNELS, SCORES, Space

pytestmark = pytest.mark.usefixtures("gpu")

seeds = st.integers(0, 2**32 - 1)
rows_of_x = st.sampled_from([1, 2, 3, 4, 5, 9, 17, 64])
# A thread takes an element, or a few of a row; a workgroup has 64.
widths = st.one_of(st.sampled_from([1, 2, 63, 64, 65, 255, 256, 257, 1025]), st.integers(1, 700))
scales = st.sampled_from([1e-3, 1.0, 1e3])


@dataclass(frozen=True, slots=True)
class Folded(Kind):
    """A GPU that allows two workgroups a dimension, as far as the ops know: grids are folded, and go over rows in strides."""

    def choose(self) -> Choice:
        choice = Kind.choose(self)

        def make(*args: Any) -> Any:
            memory, device = choice.make(*args)
            host: Any = device.host  # type: ignore[attr-defined]
            host.limits = replace(host.limits, workgroups=2)
            return memory, device

        return replace(choice, make=make)


kinds = st.sampled_from([GPU, Folded("gpu")])


class Guarded(Rig):
    """A rig of the GPU device that is made for a few more tokens than the passes have, whose rows must stay as they are.

    All slots are NaN at first.
    """

    def __init__(self, kind: Kind, *parts: Any, max_tokens: int = 8, context: int = 8, spare: int = 0) -> None:
        super().__init__(kind, *parts, max_tokens=max_tokens + 3, context=context + 5, spare=spare)
        self.n_tokens = self.n_out = 0
        device: Any = self.device
        for buffer in device._slots:
            device.host.write(buffer, 0, b"\xff" * buffer.size)
        self._begin = device.begin
        device.begin = self._recorded

    def _recorded(self, ids: Any, pos: int, n_out: int, row: int = 0) -> None:
        self._begin(ids, pos, n_out, row)
        self.n_tokens, self.n_out = max(self.n_tokens, len(ids)), max(self.n_out, n_out)

    async def untouched(self) -> None:
        device: Any = self.device
        [bound] = self.bounds
        for buffer, slot in zip(device._slots, bound.program.slots, strict=True):
            there = np.frombuffer(await device.host.read(buffer, 0, buffer.size), np.uint8)
            rest = there[4 * slot.width * (self.n_tokens if slot.rows == "T" else self.n_out) :]
            assert len(rest)
            assert (rest == 0xFF).all()

    def __exit__(self, *raised: object) -> None:
        if raised[0] is None:
            asyncio.run(self.untouched())
        super().__exit__(*raised)


def run(kind: Kind, kernel: str, *ins: Any, **params: Any) -> Any:
    return run_op(kind, kernel, *ins, rig=Guarded, **params)


def reference(kernel: str, *ins: Any, **params: Any) -> Any:
    return run_op(REFERENCE, kernel, *ins, **params)


def assert_same_bits(got: Any, want: Any) -> None:
    np.testing.assert_array_equal(np.asarray(got, np.float32).view(np.uint32), np.asarray(want, np.float32).view(np.uint32))


# Rows


# Worst: 3e-14.
@settings(max_examples=25)
@given(kind=kinds, rows=rows_of_x, n=widths, scale=scales, seed=seeds)
def test_rms_norm(kind, rows, n, scale, seed):
    """At scale 1e-3 the eps is as large as the mean square."""
    ins = normal(seed, (rows, n), scale), normal(seed + 1, (n,))
    assert nmse(run(kind, "rms_norm", *ins, eps=1e-5), reference("rms_norm", *ins, eps=1e-5)) < 3e-13


@pytest.mark.parametrize("n", [5000, 16384])
def test_rms_norm_of_long_rows(n):
    ins = normal(1, (2, n)), normal(2, (n,))
    assert nmse(run(GPU, "rms_norm", *ins, eps=1e-5), reference("rms_norm", *ins, eps=1e-5)) < 3e-13


# Worst: 4e-14.
@settings(max_examples=25)
@given(
    kind=kinds, rows=rows_of_x, n=widths, scale=scales, mean=st.sampled_from([0.0, 1.0, 10.0]), with_b=st.booleans(),
    seed=seeds,
)  # fmt: skip
def test_layer_norm(kind, rows, n, scale, mean, with_b, seed):
    """mean: of a row, in units of its deviation."""
    x, w, b = normal(seed, (rows, n), scale) + np.float32(mean * scale), normal(seed + 1, (n,)), normal(seed + 2, (n,))
    ins = x, w, tensor(b) if with_b else None
    got, want = run(kind, "layer_norm", *ins, eps=1e-5), reference("layer_norm", *ins, eps=1e-5)
    assert nmse(got, want, size_of_normed(x.astype(np.float64), w, 1e-5)) < 4e-13


# Worst over 200: 2.4e-15.
@settings(max_examples=25)
@given(
    kind=kinds, rows=rows_of_x, n=st.one_of(st.sampled_from([1, 63, 64, 65, 128, 257]), st.integers(1, 300)),
    n_groups=st.integers(1, 5), kernel=st.sampled_from(["rms_norm", "layer_norm"]), scale=scales,
    shape=st.sampled_from([None, "group", "row", "rows"]), with_b=st.booleans(), seed=seeds,
)  # fmt: skip
def test_norms_of_groups(kind, rows, n, n_groups, kernel, scale, shape, with_b, seed):
    """shape: of the weights. One for all groups, or each its own, in one row or each in a row; or none."""
    shapes = {"group": (n,), "row": (n * n_groups,), "rows": (n_groups, n)}
    x = normal(seed, (rows, n * n_groups), scale)
    ins = [x, None if shape is None else tensor(normal(seed + 1, shapes[shape]))]
    if kernel == "layer_norm":
        ins.append(tensor(normal(seed + 2, shapes[shape])) if with_b and shape else None)
    params = {"eps": 1e-5, "group": n}
    got, want = run(kind, kernel, *ins, **params), reference(kernel, *ins, **params)
    assert nmse(got, want, size_of_groups(x, n, want)) < 2.4e-14


def size_of_groups(x: Any, n: int, want: Any) -> Any:
    """What a layer norm of almost equal numbers may be off by, too: what is left of them when the mean is taken away."""
    y = x.reshape(-1, n).astype(np.float64)
    lost = np.abs(y).max(axis=1, keepdims=True) / np.sqrt(np.var(y, axis=1, keepdims=True) + 1e-5)
    return np.abs(want) + np.broadcast_to(lost, y.shape).reshape(x.shape)


# Worst: 4e-14.
@settings(max_examples=25)
@given(kind=kinds, rows=rows_of_x, n=widths, scale=scales, seed=seeds)
def test_softmax(kind, rows, n, scale, seed):
    x = normal(seed, (rows, n), scale)
    assert nmse(run(kind, "softmax", x), reference("softmax", x)) < 4e-13


@pytest.mark.parametrize(("kernel", "params"), [("rms_norm", {"eps": 1e-5}), ("layer_norm", {"eps": 1e-5}), ("softmax", {})])
def test_ops_of_rows_take_those_that_are_wanted_alone(kernel, params):
    """After last_rows: n_out rows of a pass with more tokens."""
    tensors = {"table": tensor(normal(1, (7, 33))), "w": tensor(normal(2, (33,)))}

    def page(t, w):
        x = t.last_rows(t.embed(w.table))
        made = getattr(t, kernel)(*((x,) if kernel == "softmax" else (x, w.w)), **params)
        made = t.unary(t.geglu(t.swiglu(t.add(made, x), made), x), "gelu_erf")
        made = t.columns(t.concat(made, x, 3), 3, 11, 22)
        return t.last_rows(t.mul(made, w.w))

    got, want = [], []
    for kind, found in ((GPU, got), (REFERENCE, want)):
        with (Guarded if kind is GPU else Rig)(kind, (record(page, tensors), tensors)) as rig:
            found += [rig.run(range(7), n_out=3), rig.run(range(5), n_out=1)]
    for a, b in zip(got, want, strict=True):
        assert nmse(a, b) < 1e-11


# Element by element


@settings(max_examples=25)
@given(
    kind=kinds,
    op=st.sampled_from(["add", "mul", "div"]),
    y_is=st.sampled_from(["value", "number", "row", "F16", "Q8_0", "Q6_K"]),
    rows=rows_of_x,
    n=widths,
    seed=seeds,
)
def test_add_mul_and_div(kind, op, y_is, rows, n, seed):
    """Of sums and products one rounding, so the bits are those of the reference; a weight may be packed."""
    if y_is in F16_FIELDS:
        n = BY_NAME[y_is].block * 2 if y_is != "F16" else n
        y = random_tensor(seed + 1, y_is, n)
    else:
        y = normal(seed + 1, {"value": (rows, n), "row": (n,), "number": (1,)}[y_is])
        y = y if y_is == "value" else tensor(y)
    x = normal(seed, (rows, n), 100)
    if op == "div":
        y = tensor(y.values() + 9) if isinstance(y, Tensor) else y + 9
        np.testing.assert_allclose(run(kind, op, x, y), reference(op, x, y), rtol=6e-7)  # WGSL may be off by 2.5 units
    else:
        assert_same_bits(run(kind, op, x, y), reference(op, x, y))


# Worst: 2e-11, of single elements far below 0; else 6e-14.
@settings(max_examples=25)
@given(kind=kinds, rows=rows_of_x, n=widths, scale=st.sampled_from([1e-3, 1.0, 30.0, 1e3]), seed=seeds)
def test_swiglu(kind, rows, n, scale, seed):
    gate, up = normal(seed, (rows, n), scale), normal(seed + 1, (rows, n))
    got, want = run(kind, "swiglu", gate, up), reference("swiglu", gate, up)
    assert nmse(got, want, np.maximum(np.abs(want), 1e-30)) < 2e-10
    tame = np.abs(gate) < 80                                     # small ones count as much as large ones; worst: 4e-6
    np.testing.assert_allclose(got[tame], want[tame], rtol=4e-5)


def test_swiglu_far_out():
    """exp(-gate) overflows float32 below -88: what is meant is 0."""
    gate = np.array([[-1e4, -200, -89, 0, 89, 1e4]], np.float32)
    np.testing.assert_array_equal(run(GPU, "swiglu", gate, np.ones_like(gate)), [[0, 0, 0, 0, 89, 1e4]])


# What functions take besides x. Worst error of an element over its size, of 72,000 by each: 4.8e-6.
NUMBERS = {"scale": (1.7,), "softcap": (30.0,), "clamp": (-0.5, 2.0), "xielu": (0.8, 0.7, 0.5, -1e-6)}


@pytest.mark.parametrize("function", FUNCTIONS)
@settings(max_examples=8)
@given(kind=kinds, rows=rows_of_x, n=widths, scale=st.sampled_from([1e-3, 0.3, 1.0, 8.0]), seed=seeds)
def test_unary(function, kind, rows, n, scale, seed):
    """Element by element, small ones as much as large ones."""
    x, params = normal(seed, (rows, n), scale), dict(zip("abcd", NUMBERS.get(function, ()), strict=False))
    got, want = run(kind, "unary", x, function=function, **params), reference("unary", x, function=function, **params)
    # The reference loses what is left of 1 - 1 where a gate is far below 0, of expm1(x) - x near 0.
    lost = np.abs(x) if function in ("gelu", "gelu_erf", "xielu") else 0.0
    assert close(got, want, np.abs(want) + np.float32(0.01) * lost) < 5e-5


def close(got: Any, want: Any, size: Any) -> float:
    """The greatest error of an element over its size."""
    return float(np.max(np.abs(got.astype(np.float64) - want) / np.maximum(size, 1e-30)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_unary_far_out(function):
    """Where exp and cubes leave the range of f32, and at 0; nothing becomes NaN or infinite that is not."""
    x = np.float32([[-1e30, -1e15, -1e4, -200, -100, -89, -88, -30, -15, -0.0, 0, 1e-20, 15, 20, 21, 30, 88]])
    if function not in ("exp", "relu2", "xielu"):
        x = np.concatenate([x, np.float32([[89, 100, 200, 1e4, 1e15, 1e30]])], axis=1)
    params = dict(zip("abcd", NUMBERS.get(function, ()), strict=False))
    with np.errstate(all="ignore"):
        got, want = run(GPU, "unary", x, function=function, **params), reference("unary", x, function=function, **params)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


# Worst over 200: 4.9e-14.
@settings(max_examples=25)
@given(kind=kinds, rows=rows_of_x, n=widths, scale=st.sampled_from([1e-3, 1.0, 30.0, 1e3]), seed=seeds)
def test_geglu_and_swiglu_oai(kind, rows, n, scale, seed):
    gate, up = normal(seed, (rows, n), scale), normal(seed + 1, (rows, n), 5.0)
    for kernel, params in (("geglu", {}), ("swiglu_oai", {"alpha": 1.702, "limit": 7.0})):
        got, want = run(kind, kernel, gate, up, **params), reference(kernel, gate, up, **params)
        lost = 0.01 * np.abs(gate * up)                          # of the reference, where 1 + tanh is almost 0
        assert nmse(got, want, np.abs(want) + lost) < 4.9e-13


def test_gates_far_out():
    gate = np.float32([[-1e30, -1e15, -1e4, -200, -89, 0, 89, 1e4, 1e15, 1e30]])
    ones = np.ones_like(gate)
    np.testing.assert_allclose(run(GPU, "geglu", gate, ones), np.maximum(gate, 0), atol=1e-5)
    got = run(GPU, "swiglu_oai", gate, ones, alpha=1.702, limit=7.0)
    np.testing.assert_allclose(got, [[0, 0, 0, 0, 0, 0, 14, 14, 14, 14]], rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(kind=kinds, rows=rows_of_x, n_groups=st.integers(1, 5), of_x=widths, of_y=widths, data=st.data(), seed=seeds)
def test_columns_and_concat(kind, rows, n_groups, of_x, of_y, data, seed):
    x, y = normal(seed, (rows, n_groups * of_x)), normal(seed + 1, (rows, n_groups * of_y))
    start = data.draw(st.integers(0, of_x - 1))
    taken = {"start": start, "n": data.draw(st.integers(1, of_x - start)), "group": of_x}
    assert_same_bits(run(kind, "columns", x, **taken), reference("columns", x, **taken))
    assert_same_bits(run(kind, "concat", x, y, n_groups=n_groups), reference("concat", x, y, n_groups=n_groups))


@settings(max_examples=25)
@given(
    kind=kinds, rows=rows_of_x, n=widths, pos=st.sampled_from([0, 1, 5, 300]), name=st.sampled_from(["F32", "F16"]), seed=seeds,
)  # fmt: skip
def test_add_position(kind, rows, n, pos, name, seed):
    x, w = normal(seed, (rows, n)), random_tensor(seed + 1, name, n, pos + rows + 8)
    assert_same_bits(run_at(kind, x, pos, lambda t, x, w: t.add_position(x, w.w), w=w), x + w.values()[pos : pos + rows])


@settings(max_examples=25)
@given(
    kind=kinds, rows=rows_of_x, n=st.integers(1, 70), pos=st.sampled_from([0, 7, 8190, 8191, 8192, 30000, 99990]),
    length=st.sampled_from([8192.0, 100.0, 3.0, 77.0]), offset=st.sampled_from([0.0, 1.0]), seed=seeds,
)  # fmt: skip
def test_temper(kind, rows, n, pos, length, offset, seed):
    """At multiples of the length the factor takes a step. Worst error of an element over its size: 4.6e-7."""
    x = normal(seed, (rows, n))
    got = run_at(kind, x, pos, lambda t, x, w: t.temper(x, length, 0.1, offset))
    assert close(got, meaning.temper(x, pos, length, 0.1, offset), np.abs(x)) < 5e-6


def run_at(kind: Kind, x: Any, pos: int, page: Any, **tensors: Any) -> Any:
    """What page(t, x, w) gives in a pass at this position."""
    given_tensors = {"x": tensor(x), **tensors}
    program = record(lambda t, w: t.last_rows(page(t, t.embed(w.x), w)), given_tensors)
    with Guarded(kind, (program, given_tensors), max_tokens=len(x), context=pos + len(x)) as rig:
        return rig.run(range(len(x)), pos)


def test_unary_in_place():
    """And beside what is read again."""
    tensors = {"x": tensor(normal(1, (9, 65)))}

    def page(t, w):
        x = t.embed(w.x)
        y = t.unary(x, "silu")
        return t.last_rows(t.add(t.unary(t.unary(y, "tanh"), "scale", 3.0), x))

    program = record(page, tensors)
    unary = [op for op in program.ops if op.kernel == "unary"]
    assert [op.ins[0].index == op.out[0].index for op in unary] == [False, True, True]
    with Guarded(GPU, (program, tensors), max_tokens=9) as rig:
        got = rig.run(range(9))
    with Rig(REFERENCE, (program, tensors), max_tokens=9) as rig:
        want = rig.run(range(9))
    assert nmse(got, want) < 4e-14                               # worst: 3.7e-15


def places(program):
    """Of ops of two inputs, which of them the output overwrites: 1 the first, 2 the second, 3 both."""
    for op in program.ops:
        if op.kernel in ("add", "mul", "div", "swiglu", "geglu", "swiglu_oai"):
            out = op.out[0].index
            yield op.kernel, sum(1 << i for i, o in enumerate(op.ins) if o.space is Space.ACTIVATION and o.index == out)


@pytest.mark.parametrize("kind", [GPU, Folded("gpu")], ids=["gpu", "folded"])
@pytest.mark.parametrize("n", [1, 65, 300])
@pytest.mark.parametrize("kernel", ["add", "mul", "div", "swiglu", "geglu", "swiglu_oai"])
def test_in_place(kernel, n, kind):
    """The output lies on the first input, on the second, on both, on neither."""
    numbers = (1.702, 7.0) if kernel == "swiglu_oai" else ()
    tensors = {name: tensor(normal(i, (9, n))) for i, name in enumerate("abc")} | {"w": tensor(normal(5, (n,)))}

    def page(t, w):
        def op(x, y):
            return getattr(t, kernel)(x, y, *numbers)

        a, b, c = (t.embed(getattr(w, name)) for name in "abc")
        x = op(a, b)                                             # all live on
        y = op(a, c)                                             # c does not
        z = op(y, b)                                             # nor do these
        both = op(z, z)
        last = op(t.add(a, w.w), both)
        return t.last_rows(op(t.mul(last, w.w), x))

    program = record(page, tensors)
    assert {at for op, at in places(program) if op == kernel} >= {0, 1, 2, 3}
    with Guarded(kind, (program, tensors), max_tokens=9) as rig:
        got = rig.run(range(9))
    with Rig(REFERENCE, (program, tensors), max_tokens=9) as rig:
        want = rig.run(range(9))
    assert nmse(got, want) < 1e-11


@settings(max_examples=25)
@given(kind=kinds, rows=rows_of_x, n=widths, data=st.data(), seed=seeds)
def test_last_rows(kind, rows, n, data, seed):
    x, n_out = normal(seed, (rows, n)), data.draw(st.integers(1, rows))
    assert_same_bits(run(kind, "last_rows", x, n_out), x[rows - n_out :])


# Experts


# Worst: 4e-12.
@settings(max_examples=25)
@given(kind=kinds, rows=rows_of_x, n_experts=st.one_of(st.integers(1, 60), st.integers(61, 600)), data=st.data(), seed=seeds)
def test_route(kind, rows, n_experts, data, seed):
    """Logits in whole steps: most cases have ties. Of 0 and -0 neither is larger."""
    n_used = data.draw(st.integers(1, min(n_experts, 80)))
    logits = np.random.default_rng(seed).integers(-3, 4, (rows, n_experts)).astype(np.float32)
    logits[:, ::3] *= -1
    experts, weights = run_route(kind, logits, n_used, rig=Guarded)
    want_experts, want_weights = run_route(REFERENCE, logits, n_used)
    np.testing.assert_array_equal(experts, want_experts)
    assert nmse(weights, want_weights) < 4e-11


# Worst over 200: 4.1e-14.
@settings(max_examples=40)
@given(
    kind=kinds, rows=rows_of_x, n_groups=st.sampled_from([1, 1, 2, 3, 8, 70]), per_group=st.integers(1, 40),
    score=st.sampled_from(SCORES), bias=st.sampled_from([None, 0.1, 3.0]), normalize=st.booleans(),
    scale=st.sampled_from([1.0, 2.5]), wide=st.sampled_from([1.0, 6.0]), data=st.data(), seed=seeds,
)  # fmt: skip
def test_routes(kind, rows, n_groups, per_group, score, bias, normalize, scale, wide, data, seed):
    """What is wanted comes from numbers that are far from each other, so that rounding changes no order."""
    n = n_groups * per_group
    n_groups_used = data.draw(st.integers(1, n_groups))
    n_used = data.draw(st.integers(1, min(n_groups_used * per_group, 70)))
    rng = np.random.default_rng(seed)
    steps = np.stack([rng.permutation(n) for _ in range(rows)]).astype(np.float32)
    logits = (steps / n - 0.5) * np.float32(wide)
    params = {
        "n_used": n_used, "score": score, "normalize": normalize, "scale": scale, "n_groups": n_groups,
        "n_groups_used": n_groups_used,
    }  # fmt: skip
    added = None if bias is None else tensor(rng.permutation(n) / n * bias)
    if near_ties(logits, None if added is None else added.values(), params):
        reject()
    experts, weights = run_route(kind, logits, rig=Guarded, bias=added, **params)
    want_experts, want_weights = run_route(REFERENCE, logits, bias=added, **params)
    np.testing.assert_array_equal(experts, want_experts)
    assert nmse(weights, want_weights) < 4.1e-13


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("score", SCORES)
def test_a_bias_chooses_and_does_not_weigh(score, normalize):
    """The best of those that are chosen is then not the first."""
    rng = np.random.default_rng(1)
    logits = np.stack([rng.permutation(65) for _ in range(9)]).astype(np.float32) / 10
    params = {"n_used": 8, "score": score, "normalize": normalize, "bias": tensor(rng.permutation(65) * np.float32(0.31))}
    (experts, weights), (want_experts, want_weights) = (run_route(kind, logits, **params) for kind in (GPU, REFERENCE))
    np.testing.assert_array_equal(experts, want_experts)
    assert (want_weights.argmax(axis=1) > 0).any()
    assert nmse(weights, want_weights) < 4.1e-13


def near_ties(logits: Any, bias: Any, params: Any) -> bool:
    """Whether two experts, or two groups, are wanted so much alike that another rounding may turn their order."""
    n_groups = params["n_groups"]
    x = logits.astype(np.float64)
    given_score = {"softmax": meaning.softmax, "sigmoid": meaning.sigmoid, "chosen": lambda x: x}[params["score"]](x)
    wanted = given_score if bias is None else given_score + bias
    best = np.sort(wanted.reshape(len(x), n_groups, -1), axis=-1)[..., -2:].sum(axis=-1)
    gaps = [np.diff(np.sort(of, axis=-1), axis=-1) / np.abs(of).max() for of in (wanted, best)]
    return any(bool((gap < 1e-6).any()) for gap in gaps)


@settings(max_examples=25)
@given(kind=kinds, rows=rows_of_x, n=st.integers(1, 100), data=st.data(), seed=seeds)
def test_a_router_that_is_damaged_names_experts_that_are_there(kind, rows, n, data, seed):
    """Whatever it is fed, and each once: an id past the last would be looked up past the end of a table."""
    n_used, score, with_bias = data.draw(st.integers(1, n)), data.draw(st.sampled_from(SCORES)), data.draw(st.booleans())
    n_groups = data.draw(st.sampled_from([g for g in (1, 2, 3) if n % g == 0]))
    logits = np.random.default_rng(seed).choice(np.float32([math.nan, -math.nan, math.inf, -math.inf, 0, 1, 3e38]), (rows, n))
    tensors = {"logits": tensor(logits), "ones": tensor(np.ones((rows, n_used))), "ids": tensor(np.arange(n))}

    def experts(t, w):
        groups = {"n_groups": n_groups, "n_groups_used": n_groups}
        chosen, _ = t.route(t.embed(w.logits), n_used, w.ids if with_bias else None, score, **groups)
        return t.last_rows(t.expert_mul(t.embed(w.ones), w.ids, chosen))

    with Guarded(kind, (record(experts, tensors), tensors), max_tokens=rows) as rig:
        for chosen in rig.run(range(rows)):
            assert set(chosen) <= set(range(n))
            assert len(set(chosen)) == n_used


# Worst: 3e-14.
@settings(max_examples=25)
@given(
    kind=kinds, rows=rows_of_x, n=st.one_of(st.integers(1, 100), st.just(300)), n_experts=st.integers(1, 9),
    name=st.sampled_from(["F32", "F16"]), data=st.data(), seed=seeds,
)  # fmt: skip
def test_expert_mul_and_sum(kind, rows, n, n_experts, name, data, seed):
    n_used = data.draw(st.integers(1, n_experts))
    rng = np.random.default_rng(seed)
    experts = np.array([rng.permutation(n_experts)[:n_used] for _ in range(rows)], np.int32)
    x, w = normal(seed, (rows, n_used * n)), random_tensor(seed + 1, name, n_experts)
    assert_same_bits(run(kind, "expert_mul", x, w, experts), reference("expert_mul", x, w, experts))
    weights = rng.dirichlet(np.ones(n_used), rows).astype(np.float32)
    terms = x.reshape(rows, n_used, n)
    size = np.linalg.norm(terms * weights[..., None], axis=1)
    assert nmse(run(kind, "expert_sum", x, weights), reference("expert_sum", x, weights), size) < 3e-13
    got, want = run(kind, "expert_sum", x, None, n_used=n_used), reference("expert_sum", x, None, n_used=n_used)
    assert nmse(got, want, np.linalg.norm(terms, axis=1)) < 3e-13


@settings(max_examples=25)
@given(
    kind=kinds, rows=rows_of_x, n=st.one_of(st.integers(1, 100), st.just(300)), n_experts=st.integers(1, 9),
    name=st.sampled_from(["F32", "F16"]), data=st.data(), seed=seeds,
)  # fmt: skip
def test_expert_add_and_spread(kind, rows, n, n_experts, name, data, seed):
    n_used = data.draw(st.integers(1, n_experts))
    experts = draw_experts(seed, rows, n_experts, n_used)
    x, w = normal(seed, (rows, n_used * n)), random_tensor(seed + 1, name, n, n_experts)
    assert_same_bits(run(kind, "expert_add", x, w, experts), reference("expert_add", x, w, experts))
    x, weights = normal(seed, (rows, n)), normal(seed + 1, (rows, n_used))
    assert_same_bits(run(kind, "expert_spread", x, weights), reference("expert_spread", x, weights))


# Worst: 2e-14.
@settings(max_examples=25)
@given(
    kind=kinds, cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5), n=widths,
    taps=st.one_of(st.integers(2, 10), st.just(40)), name=st.sampled_from(["F32", "F16", "BF16"]), seed=seeds,
)  # fmt: skip
def test_causal_conv(kind, cuts, n, taps, name, seed):
    """Passes of fewer tokens than the window has rows, and of more: each finds what those before it left there."""
    total = sum(cuts)
    x, w = normal(seed, (total, n)), random_tensor(seed + 1, name, taps, n)
    tensors = {"x": tensor(x), "w": w}
    program = record(lambda t, w: t.last_rows(t.causal_conv(t.embed(w.x), w.w)), tensors)
    ends = list(itertools.accumulate(cuts, initial=0))
    with Guarded(kind, (program, tensors), max_tokens=max(cuts), context=total) as rig:
        got = np.concatenate([rig.run(range(begin, end), begin) for begin, end in itertools.pairwise(ends)])
    past = np.concatenate([np.zeros((taps - 1, n)), x.astype(np.float64)])
    terms = np.stack([past[j : j + total] * w.values().reshape(n, taps)[:, j] for j in range(taps)])
    assert nmse(got, terms.sum(axis=0), np.linalg.norm(terms, axis=0)) < 2e-13


def test_every_op_is_a_kernel_that_exists():
    assert set(LOWER) <= set(KERNELS)
