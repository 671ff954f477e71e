"""The CPU device: every op against the reference device, every build and number of threads against each other bit for bit.

Bounds on the normalised squared error stand beside the tests: the worst seen over 250 to 1000 random cases, times ten. Programs
run in a Guarded rig, which also finds what is written or read where it should not be.
"""

import contextlib
import itertools
import math
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wasmrt
from tests.programs import (
    CPU,
    PLAIN,
    REFERENCE,
    Kind,
    Rig,
    Tensor,
    nmse,
    normal,
    random_tensor,
    record,
    run_op,
    run_route,
    tensor,
)
from tests.test_quants import F16_FIELDS
from tests.test_reference_device import VOCAB, expert_layer, layer, recurrent_layer, segments, size_of_normed, size_of_product
from tools.make_test_model import SHAPES, write_model
from wasmrt.device import binary, cpu
from wasmrt.device.choice import Choice
from wasmrt.device.cpu import CURSOR_BYTES, STACK_BYTES, TEAM_BYTES, TILE
from wasmrt.device.device import Device
from wasmrt.gguf.types import BY_NAME
from wasmrt.program.ops import KERNELS, Space
from wasmrt.program.record import Recorder, Rope
from wasmrt.store.memory import Memory, aligned
from wasmrt.sync import call

pytestmark = pytest.mark.usefixtures("cpu")

# Each case runs on CPU, three threads with 32-bit addresses, and on one of these, which must give the same bits.
OTHERS = (PLAIN, Kind("cpu:wasm32", 1), Kind("cpu:wasm32", 2), Kind("cpu:wasm32", 4), Kind("cpu:wasm64", 2))

seeds = st.integers(0, 2**32 - 1)
others = st.sampled_from(OTHERS)
# Below and above six tokens the kernels of matmul differ, eight are a tile, sixteen a unit of attention.
rows_of_x = st.sampled_from([1, 2, 3, 5, 6, 7, 8, 9, 17, 64])
widths = st.integers(1, 700)
scales = st.sampled_from([1e-3, 1.0, 1e3])
formats = pytest.mark.parametrize("name", F16_FIELDS)


class Guarded(Rig):
    """A rig of the CPU device that holds all of its memory against what the passes may write.

    Its device is made for a few more tokens and positions than the passes have. All that no op should read before it was
    written, slots, caches and scratch, is NaN at first.
    """

    def __init__(self, kind: Kind, *parts: Any, max_tokens: int = 8, context: int = 8, spare: int = 0) -> None:
        super().__init__(kind, *parts, max_tokens=max_tokens + 3, context=context + 5, spare=spare)
        self.n_tokens = self.n_out = 0
        self.positions: set[int] = set()
        self._begin = self.device.begin
        self.device.begin = self._recorded  # type: ignore[method-assign]
        device: Any = self.device
        self.frames = device._frames
        for address, n_bytes in (
            (device._arena, self.frames.arena),
            (device._quantized, self.frames.quantized),
            (device._scratch, self.frames.scratch * device.n_threads),
            *((a, self._cache_bytes(width)) for b in self.bounds for a, width in zip(b.kv, b.program.kv, strict=True)),
        ):
            self.memory.write(address, b"\xff" * n_bytes)
        self.before = self._bytes().copy()

    def _recorded(self, ids: Any, pos: int, n_out: int, row: int = 0) -> None:
        self._begin(ids, pos, n_out, row)
        self.n_tokens, self.n_out = max(self.n_tokens, len(ids)), max(self.n_out, n_out)
        self.positions.update(range(pos, pos + len(ids)))

    def _cache_bytes(self, width: int) -> int:
        device: Any = self.device
        return int((2 if device._f16_cache else 4) * width * device._context)

    def _bytes(self) -> Any:
        memory: Any = self.memory
        return np.frombuffer(memory.view(memory.start, memory.used), np.uint8)

    def may_write(self) -> Any:
        """A mask over the memory: what passes with these numbers of tokens, at these positions, may have written."""
        memory: Any = self.memory
        device: Any = self.device
        f, mask = self.frames, np.zeros(memory.used, bool)

        def frame(address: int, n_bytes: int) -> Any:
            return mask[address - memory.start : address - memory.start + n_bytes]

        frame(device._team, TEAM_BYTES)[:] = True
        frame(device._ids, 4 * self.n_tokens)[:] = True
        frame(device._run_list, 8 * len(self.bounds))[:] = True
        frame(device._quantized, f.quantized)[:] = True
        frame(device._candidates, f.candidates)[:] = True
        for i in range(device.n_threads):
            at = device._scratch + i * f.scratch
            for n_bytes in (f.row, f.acc, f.attention, f.order):
                frame(at, n_bytes)[:] = True
                at += aligned(n_bytes)
            # A stack counts down. Half of each must be enough.
            frame(device._stacks + i * STACK_BYTES + STACK_BYTES // 2, STACK_BYTES // 2)[:] = True
            frame(device._cursors + i * CURSOR_BYTES, 4)[:] = True
        positions = np.array(sorted(self.positions))
        for bound in self.bounds:
            for address, slot in zip(bound.slots, bound.program.slots, strict=False):
                frame(address, 4 * slot.width * (self.n_tokens if slot.rows == "T" else self.n_out))[:] = True
            for address, n in zip(bound.state, bound.program.state, strict=True):
                frame(address, 4 * n)[:] = True
            if bound.kv:
                keys, values = (frame(a, self._cache_bytes(w)) for a, w in zip(bound.kv, bound.program.kv, strict=True))
                keys.reshape(-1, bound.program.kv[0], TILE, keys.size // (bound.program.kv[0] * device._context))[
                    positions // TILE, :, positions % TILE
                ] = True
                values.reshape(device._context, -1)[positions] = True
        return mask

    def __exit__(self, *raised: object) -> None:
        if raised[0] is None:
            wrong = np.flatnonzero((self._bytes() != self.before) & ~self.may_write())
            assert not len(wrong), f"{len(wrong)} bytes from {wrong[0]} to {wrong[-1]} were written by no right"
        super().__exit__(*raised)


def assert_same_bits(got: Any, want: Any) -> None:
    np.testing.assert_array_equal(np.asarray(got, np.float32).view(np.uint32), np.asarray(want, np.float32).view(np.uint32))


def run(other: Kind, kernel: str, *ins: Any, **params: Any) -> Any:
    """The op on the CPU device, after another build or number of threads has given the same bits."""
    got = run_op(CPU, kernel, *ins, rig=Guarded, **params)
    assert_same_bits(run_op(other, kernel, *ins, rig=Guarded, **params), got)
    return got


def reference(kernel: str, *ins: Any, **params: Any) -> Any:
    return run_op(REFERENCE, kernel, *ins, **params)


# Ops


# Worst: 2e-14.
@settings(max_examples=40)
@given(other=others, rows=rows_of_x, n=widths, scale=scales, seed=seeds)
def test_rms_norm(other, rows, n, scale, seed):
    ins = normal(seed, (rows, n), scale), normal(seed + 1, (n,))
    assert nmse(run(other, "rms_norm", *ins, eps=1e-5), reference("rms_norm", *ins, eps=1e-5)) < 2e-13


# Worst: 7e-14.
@settings(max_examples=40)
@given(
    other=others, rows=rows_of_x, n=widths, scale=scales, mean=st.sampled_from([0.0, 1.0, 10.0]),
    b_is=st.sampled_from(["nothing", *F16_FIELDS]), seed=seeds,
)  # fmt: skip
def test_layer_norm(other, rows, n, scale, mean, b_is, seed):
    """Two weights, of which each may be packed; mean: of a row, in units of its deviation."""
    n = n if b_is == "nothing" else BY_NAME[b_is].block * 2
    x, w = normal(seed, (rows, n), scale) + np.float32(mean * scale), normal(seed + 1, (n,))
    b = None if b_is == "nothing" else random_tensor(seed + 2, b_is, n)
    w = tensor(w) if b is None or seed % 2 else random_tensor(seed + 1, b_is, n)
    got, want = run(other, "layer_norm", x, w, b, eps=1e-5), reference("layer_norm", x, w, b, eps=1e-5)
    assert nmse(got, want, size_of_normed(x.astype(np.float64), w.values(), 1e-5)) < 7e-13


# Worst: 9e-14.
@settings(max_examples=40)
@given(other=others, rows=rows_of_x, n=widths, scale=scales, seed=seeds)
def test_softmax(other, rows, n, scale, seed):
    x = normal(seed, (rows, n), scale)
    assert nmse(run(other, "softmax", x), reference("softmax", x)) < 9e-13


@settings(max_examples=40)
@given(
    other=others,
    op=st.sampled_from(["add", "mul"]),
    y_is=st.sampled_from(["value", "number", "row", *F16_FIELDS]),
    rows=rows_of_x,
    n=widths,
    seed=seeds,
)
def test_add_and_mul(other, op, y_is, rows, n, seed):
    """One rounding, so the bits are those of the reference; a weight may be packed."""
    if y_is in F16_FIELDS:
        n = BY_NAME[y_is].block * 2
        y = random_tensor(seed + 1, y_is, n)
    else:
        y = normal(seed + 1, {"value": (rows, n), "row": (n,), "number": (1,)}[y_is])
        y = y if y_is == "value" else tensor(y)
    x = normal(seed, (rows, n), 100)
    assert_same_bits(run(other, op, x, y), reference(op, x, y))


# Worst: 2e-14.
@settings(max_examples=40)
@given(other=others, rows=rows_of_x, n=widths, scale=st.sampled_from([1e-3, 1.0, 30.0, 1e3]), seed=seeds)
def test_swiglu(other, rows, n, scale, seed):
    gate, up = normal(seed, (rows, n), scale), normal(seed + 1, (rows, n))
    got, want = run(other, "swiglu", gate, up), reference("swiglu", gate, up)
    assert nmse(got, want) < 2e-13
    tame = np.abs(gate) < 80                                     # small ones count as much as large ones; worst: 3e-7
    np.testing.assert_allclose(got[tame], want[tame], rtol=1e-6)


# Worst: 0, since the angles are double here too.
@settings(max_examples=60)
@given(
    other=others,
    rows=rows_of_x,
    heads=st.integers(1, 5),
    half=st.integers(1, 64),
    rest=st.integers(0, 9),
    pos=st.sampled_from([0, 1, 255, 5000, 100000]),
    rope=st.builds(
        Rope,
        n_dims=st.just(0),
        head_dim=st.just(0),
        base=st.sampled_from([1e4, 5e5]),
        style=st.sampled_from(["pairs", "halves"]),
        scale=st.sampled_from([1.0, 0.25]),
        magnitude=st.sampled_from([1.0, 1.13]),
        extrapolation=st.sampled_from([0.0, 1.0, 0.7]),
        ramp_low=st.sampled_from([0.0, 3.0]),
        ramp_high=st.sampled_from([0.0, 9.0, 40.0]),
    ),
    with_factors=st.booleans(),
    seed=seeds,
)
def test_rope(other, rows, heads, half, rest, pos, rope, with_factors, seed):
    rope = replace(rope, n_dims=2 * half, head_dim=2 * half + rest)
    x = normal(seed, (rows, heads * rope.head_dim))
    factors = np.random.default_rng(seed).uniform(1, 9, half).astype(np.float32) if with_factors else None
    got, want = (r("rope", x, factors, pos=pos, rope=rope) for r in (partial(run, other), reference))
    assert nmse(got, want) < 1e-14


# Worst: 6e-12.
@settings(max_examples=60)
@given(
    other=others,
    rows=rows_of_x,
    pos=st.integers(0, 300),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 4, 7, 8, 71]),
    d=st.integers(1, 128),
    dv=st.integers(1, 128),
    sharpness=st.sampled_from([1e-3, 1.0, 20.0]),
    f16=st.booleans(),
    data=st.data(),
    seed=seeds,
)
def test_attention(other, rows, pos, kv_heads, group, d, dv, sharpness, f16, data, seed):
    """The same bits when the rows come in two passes. With a cache of f16, keys and values are those rounded to nearest."""
    if group > 8:
        rows, pos, kv_heads = min(rows, 9), min(pos, 70), 1
    q = normal(seed, (rows, kv_heads * group * d))
    keys, values = normal(seed + 1, (pos + rows, kv_heads * d), 0.1), normal(seed + 2, (pos + rows, kv_heads * dv), 10.0)
    params = {"n_heads": kv_heads * group, "n_kv_heads": kv_heads, "scale": sharpness / math.sqrt(d)}
    cpu, other = (replace(kind, kv_type="f16" if f16 else None) for kind in (CPU, other))
    got = run_op(cpu, "attention", q, keys, values, pos=pos, rig=Guarded, **params)
    assert_same_bits(run_op(other, "attention", q, keys, values, pos=pos, rig=Guarded, **params), got)
    for begin, end in itertools.pairwise([0, *data.draw(cuts_of(rows)), rows]):
        part = run_op(other, "attention", q[begin:end], keys[: pos + end], values[: pos + end], pos=pos + begin, **params)
        assert_same_bits(part, got[begin:end])
    if f16:
        keys, values = (a.astype(np.float16).astype(np.float32) for a in (keys, values))
    assert nmse(got, reference("attention", q, keys, values, pos=pos, **params)) < 6e-11


def cuts_of(n):
    """At most one place to cut n rows at."""
    return st.lists(st.integers(1, n - 1), max_size=1) if n > 1 else st.just([])


@pytest.mark.parametrize("kind", [CPU, *OTHERS], ids=lambda kind: kind.name)
def test_every_f16_of_the_cache_is_the_nearest(kind):
    """Attention over one position gives its value: what f32 becomes in the cache, at every kind of rounding."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = np.sort(halves[np.isfinite(halves)])
    between = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)  # ties
    x = np.concatenate([halves, between, np.nextafter(between, np.float32(1e9)), np.nextafter(between, np.float32(-1e9))])
    x = np.concatenate([x, np.float32([65519.99, -65519.99, 1e-8, 2.0**-25, 2.0**-25 * 1.0001])])
    x = x[: len(x) // 4 * 4].reshape(1, -1)
    q = np.ones((1, 4), np.float32)
    got = run_op(replace(kind, kv_type="f16"), "attention", q, q, x, rig=Guarded, n_heads=1, n_kv_heads=1, scale=1.0)
    np.testing.assert_array_equal(got, x.astype(np.float16).astype(np.float32))


@settings(max_examples=30)
@given(other=others, rows=rows_of_x, n=widths, data=st.data(), seed=seeds)
def test_last_rows(other, rows, n, data, seed):
    x, n_out = normal(seed, (rows, n)), data.draw(st.integers(1, rows))
    assert_same_bits(run(other, "last_rows", x, n_out), x[rows - n_out :])


# Experts


# Worst: 6e-13.
@settings(max_examples=60)
@given(other=others, rows=rows_of_x, n_experts=st.integers(1, 60), data=st.data(), seed=seeds)
def test_route(other, rows, n_experts, data, seed):
    """Logits in whole steps: most cases have ties."""
    n_used = data.draw(st.integers(1, n_experts))
    logits = np.random.default_rng(seed).integers(-3, 4, (rows, n_experts)).astype(np.float32)
    (experts, weights), (same_experts, same_weights) = (run_route(kind, logits, n_used, rig=Guarded) for kind in (CPU, other))
    want_experts, want_weights = run_route(REFERENCE, logits, n_used)
    np.testing.assert_array_equal(experts, want_experts)
    np.testing.assert_array_equal(same_experts, want_experts)
    assert_same_bits(same_weights, weights)
    assert nmse(weights, want_weights) < 6e-12


@settings(max_examples=30)
@given(kind=st.sampled_from((CPU, PLAIN)), rows=rows_of_x, n=st.integers(1, 20), data=st.data(), seed=seeds)
def test_a_router_that_is_damaged_names_experts_that_are_there(kind, rows, n, data, seed):
    """Whatever it is fed: an id past the last would be looked up past the end of the address table."""
    n_used = data.draw(st.integers(1, n))
    logits = np.random.default_rng(seed).choice(np.float32([math.nan, math.inf, -math.inf, 0, 1, 3e38]), (rows, n))
    tensors = {"logits": tensor(logits), "ones": tensor(np.ones((rows, n_used))), "ids": tensor(np.arange(n))}

    def experts(t, w):
        return t.last_rows(t.expert_mul(t.embed(w.ones), w.ids, t.route(t.embed(w.logits), n_used)[0]))

    with Guarded(kind, (record(experts, tensors), tensors), max_tokens=rows) as rig:
        for chosen in rig.run(range(rows)):
            assert set(chosen) <= set(range(n))
            assert len(set(chosen)) == n_used


def draw_experts(seed, rows, n_experts, n_used):
    """Different experts for each token, in any order."""
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(n_experts)[:n_used] for _ in range(rows)], np.int32)


# Worst: 2e-14.
@settings(max_examples=30)
@given(other=others, rows=rows_of_x, n=st.integers(1, 100), n_experts=st.integers(1, 9), data=st.data(), seed=seeds)
def test_expert_mul_and_sum(other, rows, n, n_experts, data, seed):
    n_used = data.draw(st.integers(1, n_experts))
    experts = draw_experts(seed, rows, n_experts, n_used)
    x, w = normal(seed, (rows, n_used * n)), normal(seed + 1, (n_experts,))
    assert_same_bits(run(other, "expert_mul", x, w, experts), reference("expert_mul", x, w, experts))
    weights = np.random.default_rng(seed + 1).dirichlet(np.ones(n_used), rows).astype(np.float32)
    assert nmse(run(other, "expert_sum", x, weights), reference("expert_sum", x, weights)) < 2e-13


@settings(max_examples=40)
@given(
    other=others, rows=rows_of_x, n=widths, taps=st.integers(2, 10), name=st.sampled_from(["F32", "F16", "BF16"]), seed=seeds
)
def test_causal_conv(other, rows, n, taps, name, seed):
    x, w = normal(seed, (rows, n)), random_tensor(seed + 1, name, taps, n)
    # The same products in the same order; a numpy may add in another one.
    assert nmse(run(other, "causal_conv", x, w), reference("causal_conv", x, w)) < 1e-12


# The order is exact; sums take exp of float32, worst 8e-9.
@settings(max_examples=60)
@given(
    other=others,
    n=st.integers(1, 5000),
    k=st.sampled_from([1, 2, 40, 41, 1000, 5000]),
    steps=st.sampled_from([3, 1 << 20]),
    scale=scales,
    n_recent=st.sampled_from([0, 1, 64, 5000]),
    penalty=st.sampled_from([1.0, 1.1, 5.0]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    seed=seeds,
)
def test_candidates_of_many(other, n, k, steps, scale, n_recent, penalty, temperature, seed):
    """With many that are equal, too; the logits are as before afterwards, and nothing beside them was touched."""
    rng = np.random.default_rng(seed)
    logits = np.round(rng.standard_normal((2, n)) * steps).astype(np.float32) * np.float32(scale / steps)
    recent = rng.integers(0, n, n_recent).tolist()
    tensors = {"rows": tensor(logits)}
    program = record(lambda t, w: t.last_rows(t.embed(w.rows)), tensors)
    found = []
    for kind in (REFERENCE, CPU, other):
        with (Rig if kind is REFERENCE else Guarded)(kind, (program, tensors), max_tokens=2) as rig:
            rig.run([0, 1])
            found.append(rig.candidates(k, recent, penalty, temperature))
            assert rig.candidates(k, recent, penalty, temperature) == found[-1]
            assert_same_bits(rig.result(), logits)
    want, got, same = found
    assert got == same
    assert list(got.ids) == list(want.ids)
    assert_same_bits(got.logits, want.logits)
    assert got.rest == pytest.approx(want.rest, rel=1e-7, abs=1e-7)
    if temperature:
        assert got.rest_at == pytest.approx(want.rest_at, rel=1e-7, abs=1e-7)


# Packed weights


@formats
@settings(max_examples=10)
@given(
    other=others, n_blocks=st.integers(1, 9), ids=st.lists(st.integers(0, 8), min_size=1, max_size=9), chunk=st.integers(1, 9),
    seed=seeds,
)  # fmt: skip
def test_embed_reads_rows_of_every_format(name, other, n_blocks, ids, chunk, seed):
    """Bit for bit what the format's definition says, wherever the row lies."""
    quant = BY_NAME[name]
    w = random_tensor(seed, name, n_blocks * quant.block, 9)
    assert_same_bits(run(other, "embed", w, ids, chunk_bytes=chunk * quant.row_bytes(w.shape[0])), w.values()[ids])


@pytest.mark.parametrize("kind", [CPU, PLAIN], ids=lambda kind: kind.name)
def test_every_exponent_of_mxfp4(kind):
    """The two smallest are subnormal numbers of f32."""
    blocks = np.frombuffer(random_tensor(1, "MXFP4", 32, 251).data, np.uint8).reshape(-1, 17).copy()
    blocks[:, 0] = np.arange(251)
    w = Tensor(BY_NAME["MXFP4"], (32, 251), blocks.tobytes())
    assert_same_bits(run_op(kind, "embed", w, range(251), rig=Guarded), w.values())


def block_of(name):
    """How many elements of x are quantized together for weights of this format; None where x stays f32."""
    return None if BY_NAME[name].block == 1 else BY_NAME[name].block


def quantized(name, x):
    """What the kernels compute with instead of x, float64, and the steps in which it is rounded: 8 bits and a scale a block."""
    block = block_of(name)
    if block is None:
        return x.astype(np.float64), np.zeros(x.shape)
    blocks = x.reshape(*x.shape[:-1], -1, block)
    most = np.abs(blocks).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", over="ignore"):
        scale = np.where(most > 2.0**-120, np.float32(127) / most, np.float32(0))
    step = np.broadcast_to((most / np.float32(127)).astype(np.float64), blocks.shape)
    return (np.rint(blocks * scale) * step).reshape(x.shape), step.reshape(x.shape)


def sizes_of_rows(name):
    block = BY_NAME[name].block
    return st.sampled_from([1, 5, 32, 100, 257, 2304] if block == 1 else [block, 2 * block, 3 * block, 256, 2304])


def uneven(seed, shape, scale):
    """Rows whose blocks are of different size: some far larger than the rest, some 0."""
    x, rng = normal(seed, shape, scale), np.random.default_rng(seed + 9)
    x[..., rng.random(shape[-1]) < 0.02] *= 50
    x[..., : shape[-1] // 3] *= rng.choice([0, 1, 1, 1])
    return x


# Against exact sums over x as it was quantized (worst: 3e-13), and against the reference, in units of the error that is to be
# expected of rounding to 8 bits (worst: 5.6).
EXACT, EIGHT_BIT = 2.7e-12, 30


@formats
@settings(max_examples=20)
@given(
    other=others, rows=rows_of_x, m=st.integers(1, 41), per_entry=st.sampled_from([1, 3, 4, 10, 99]), scale=scales,
    data=st.data(), seed=seeds,
)  # fmt: skip
def test_matmul(name, other, rows, m, per_entry, scale, data, seed):
    """Against exact sums over x as it was quantized, and against the reference. A pass in two parts gives the same bits."""
    n = data.draw(sizes_of_rows(name))
    w, x = random_tensor(seed, name, n, m), uneven(seed + 1, (rows, n), scale)
    chunk_bytes = per_entry * w.type.row_bytes(n)
    got = run(other, "matmul", w, x, chunk_bytes=chunk_bytes)
    for begin, end in itertools.pairwise([0, *data.draw(cuts_of(rows)), rows]):
        assert_same_bits(run_op(other, "matmul", w, x[begin:end], chunk_bytes=chunk_bytes, rig=Guarded), got[begin:end])
    size = size_of_product(w.values(), x)
    rounded, steps = quantized(name, x)
    assert nmse(got, rounded @ w.values().T, size) < EXACT
    # What rounding to even steps does on average: a step's square / 12.
    expected = 0 if block_of(name) is None else size_of_product(w.values(), steps) / math.sqrt(12)
    assert nmse(got, reference("matmul", w, x), np.hypot(expected, math.sqrt(EXACT) * size)) < EIGHT_BIT


@formats
@settings(max_examples=15)
@given(
    other=others, rows=rows_of_x, m=st.integers(1, 41), n_experts=st.integers(1, 9), own_rows=st.booleans(), scale=scales,
    data=st.data(), seed=seeds,
)  # fmt: skip
def test_expert_matmul(name, other, rows, m, n_experts, own_rows, scale, data, seed):
    n_used, n = data.draw(st.integers(1, n_experts)), data.draw(sizes_of_rows(name))
    w, experts = random_tensor(seed, name, n, m, n_experts), draw_experts(seed, rows, n_experts, n_used)
    x = uneven(seed + 1, (rows, n_used if own_rows else 1, n), scale)
    got = run(other, "expert_matmul", w, x.reshape(rows, -1), experts)
    wide, values = np.broadcast_to(x, (rows, n_used, n)), w.values()
    size = np.sqrt(np.einsum("tun,tumn->tum", wide.astype(np.float64) ** 2, values[experts] ** 2)).reshape(rows, -1)
    want = np.einsum("tun,tumn->tum", np.broadcast_to(quantized(name, x)[0], wide.shape), values[experts]).reshape(rows, -1)
    assert nmse(got, want, size) < EXACT
    if block_of(name) is None:
        assert nmse(got, reference("expert_matmul", w, x.reshape(rows, -1), experts), size) < EXACT


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("rows", [2, 8])
def test_halves_are_rounded_to_even(name, rows):
    """x as it is quantized, all between two steps."""
    w, x = random_tensor(1, name, 512, 9), np.random.default_rng(2).integers(-126, 126, (rows, 512)).astype(np.float32) + 0.5
    x[:, ::32] = 127
    assert nmse(run_op(CPU, "matmul", w, x), quantized(name, x)[0] @ w.values().T, size_of_product(w.values(), x)) < EXACT


# Zeros, subnormals, the smallest normal, a negative one, the largest.
@pytest.mark.parametrize("bits", [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0xBC00, 0x7BFF])
@pytest.mark.parametrize("name", [name for name in F16_FIELDS if BY_NAME[name].block > 1])
def test_scales_of_every_size(name, bits):
    quant = BY_NAME[name]
    blocks = np.frombuffer(random_tensor(1, name, 512, 9).data, np.uint8).reshape(-1, quant.block_bytes).copy()
    for at in F16_FIELDS[name]:
        blocks[:, at : at + 2] = np.array([bits], "<u2").view(np.uint8)
    if name == "IQ1_M":
        for i in range(4):
            blocks[:, 49 + 2 * i] = blocks[:, 49 + 2 * i] & 15 | (bits >> (4 * i) & 15) << 4
    if name == "MXFP4":
        blocks[:, 0] = 16 + bits % 223  # products that f32 has as normal numbers
    w, x = Tensor(quant, (512, 9), blocks.tobytes()), normal(2, (8, 512))
    rounded, _ = quantized(name, x)
    for rows in (2, 8):
        got = run_op(CPU, "matmul", w, x[:rows])
        assert nmse(got, rounded[:rows] @ w.values().T, size_of_product(w.values(), x[:rows])) < EXACT


@formats
@pytest.mark.parametrize("kind", [CPU, PLAIN], ids=lambda kind: kind.name)
def test_blocks_of_any_bytes_are_taken(name, kind):
    """Scales that are no numbers or too large give results that are not, and nothing traps: the device goes on."""
    quant, rng = BY_NAME[name], np.random.default_rng(1)
    n = max(quant.block, 32) * 2
    w = Tensor(quant, (n, 40), rng.integers(0, 256, 40 * quant.row_bytes(n), dtype=np.uint8).tobytes())
    tensors = {"w": w, "x": tensor(normal(2, (9, n)))}
    product = record(lambda t, w: t.last_rows(t.matmul(w.w, t.embed(w.x))), tensors)
    rows = record(lambda t, w: t.last_rows(t.embed(w.w)), {"w": w})
    np.testing.assert_array_equal(run_anyway(kind, rows, {"w": w}, 9), w.values()[:9])
    with np.errstate(all="ignore"):
        size = np.abs(normal(2, (9, n))) @ np.abs(w.values()).T
    # What is as large as f32 goes may be either.
    wrong, right = ~np.isfinite(size), size < 1e36
    for n_tokens in (2, 9):
        finite = np.isfinite(run_anyway(kind, product, tensors, n_tokens))
        # 12 * 2^127 is no f32, but times an x it may be.
        assert name == "MXFP4" or not finite[wrong[:n_tokens]].any()
        assert finite[right[:n_tokens]].all()


def run_anyway(kind, program, tensors, n_tokens):
    """What a program gives, f32 (n_tokens, width), also where some are no numbers."""
    with Rig(kind, (program, tensors), max_tokens=n_tokens) as rig:
        with contextlib.suppress(wasmrt.DeviceError):
            rig.run(range(n_tokens))
        slot, width = rig.bounds[0].slots[program.result.index], program.result.width
        return np.frombuffer(bytes(rig.memory.view(slot, 4 * n_tokens * width)), np.float32).reshape(n_tokens, width)


@formats
@pytest.mark.parametrize("rows", [3, 9])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_wrong_number_stays_in_its_row_and_is_not_lost(name, rows, wrong):
    """Other tokens have their bits; the token's own results are no numbers, whatever kernel takes it."""
    n = max(BY_NAME[name].block, 32) * 2
    w, x = random_tensor(1, name, n, 7), normal(2, (rows, n))
    good = run_op(CPU, "matmul", w, x)
    x[1, n // 3] = wrong
    tensors = {"w": w, "x": tensor(x)}
    program = record(lambda t, w: t.last_rows(t.matmul(w.w, t.embed(w.x))), tensors)
    with Rig(CPU, (program, tensors), max_tokens=rows) as rig:
        with pytest.raises(wasmrt.DeviceError, match="NaN or infinity"):
            rig.run(range(rows))
        slot = rig.bounds[0].slots[program.result.index]
        got = np.frombuffer(bytes(rig.memory.view(slot, 4 * rows * 7)), np.float32).reshape(rows, 7)
    assert not np.isfinite(got[1]).any()
    assert_same_bits(np.delete(got, 1, axis=0), np.delete(good, 1, axis=0))


@formats
@pytest.mark.parametrize("rows", [2, 8])
def test_a_row_of_zeros_gives_zeros(name, rows):
    n = BY_NAME[name].block * 2
    got = run_op(CPU, "matmul", random_tensor(1, name, n, 9), np.zeros((rows, n), np.float32))
    np.testing.assert_array_equal(got, np.zeros((rows, 9)))


# What the two sides know of each other

DEVICE = Path(cpu.__file__).parent
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DEVICE.glob("c/*.[ch]")))


def test_the_sizes_are_those_of_the_kernels():
    """C holds its structs to these numbers when it is compiled."""
    sizes = {(factor, name): int(n) for factor, name, n in re.findall(r"(8 \* )?sizeof\((\w+)\) == (\d+)", SOURCES)}
    structs = {"Operand": binary.OPERAND, "Op": binary.OP, "Weight": binary.WEIGHT, "Program": binary.HEADER}
    structs |= {"Binding": cpu.BINDING, "Slot": cpu.SLOT, "Ask": cpu.ASK}
    want = {("", name): struct.size for name, struct in structs.items()}
    want |= {("", "Team"): TEAM_BYTES, ("", "Block256"): binary.OF_256[0], ("", "Tile256"): binary.OF_256[1]}
    want |= {("", "Tile256Wide"): binary.OF_256_WIDE[1]}
    for name, (row, tile) in {"32": binary.OF_32, "32Wide": binary.OF_32_WIDE}.items():
        want |= {("8 * ", f"Block{name}"): row, ("8 * ", f"Tile{name}"): tile}
    assert sizes == want
    assert f"offsetof(Team, n_threads) == {cpu.TEAM_TAIL_AT}," in SOURCES
    assert cpu.TEAM_TAIL_AT + cpu.TEAM_TAIL.size == TEAM_BYTES


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (binary, {"VERSION", "TILE_TOKENS", "QUANTIZED"}),
        (cpu, {"TILE", "UNIT_TOKENS", "UNIT_ROWS", "FLOAT_ROWS", "GROUP_ROWS"}),
    ],
    ids=["binary", "cpu"],
)
def test_the_constants_are_those_of_the_kernels(module, expected):
    constants = re.findall(r"^#define (\w+) (\d+)u?\b", SOURCES, re.MULTILINE) + re.findall(r"\b([A-Z_]+) = (\d+)", SOURCES)
    shared = {name: int(n) for name, n in constants if hasattr(module, name)}
    assert shared == {name: getattr(module, name) for name in shared}
    assert set(shared) >= expected


def test_kernels_and_statuses_are_numbered_alike():
    [kernels] = re.findall(r"KERNELS\[\] = \{(.*?)\}", SOURCES, re.DOTALL)
    assert re.findall(r"\w+", kernels) == [name for name, row in KERNELS.items() if not row.fused]
    [statuses] = re.findall(r"enum \{ (DONE, .*?) \}", SOURCES)
    assert [getattr(cpu, name) for name in statuses.split(", ")] == list(range(6))
    [spaces] = re.findall(r"enum \{ (WEIGHT, .*?), ABSENT \}", SOURCES)
    assert spaces.split(", ") == [space.name for space in Space]


def test_a_row_of_4_gib_is_refused():
    """A file with a hole in it may have one; its size is a number of 32 bits in the kernels."""
    t = Recorder("wide")
    w = t.weight("w", BY_NAME["F32"], (1 << 30, 1))
    with pytest.raises(wasmrt.UnsupportedError, match="tensor 'w' has rows of 4294967296 bytes"):
        binary.serialize(t.finish(t.last_rows(t.matmul(w, t.residual(1 << 30)))))


# Programs


N = 256
MIXED = {
    "table": random_tensor(1, "F32", N, 64), "gain": random_tensor(2, "F32", N), "router": random_tensor(3, "F32", N, 5),
    "k4": random_tensor(4, "Q4_K", N, N), "k6": random_tensor(5, "Q6_K", N, N), "q4": random_tensor(6, "Q4_0", N, N),
    "q5": random_tensor(7, "Q5_1", N, N), "q8": random_tensor(8, "Q8_0", N, N), "f": random_tensor(9, "F16", N, N),
    "e4": random_tensor(10, "Q4_K", N, N, 5), "e8": random_tensor(11, "Q8_0", N, N, 5),
    "d4": random_tensor(12, "Q4_K", N, N, 5),
}  # fmt: skip


def mixed(t, w):
    """Products of the same x, one after another: of one kind, of another, of the first again; then of an x in the same slot."""
    x = t.rms_norm(t.embed(w.table), w.gain, 1e-5)
    for group in (("k4", "k6"), ("q4", "q5", "f", "q5"), ("k6", "q8", "k4")):
        parts = [t.matmul(getattr(w, name), x) for name in group]
        for part in parts:
            x = t.add(x, t.rms_norm(part, w.gain, 1e-5))
    chosen, weights = t.route(t.matmul(w.router, x), 2)
    a, b, c = (t.expert_matmul(e, x, chosen) for e in (w.e4, w.d4, w.e8))
    y = t.expert_sum(t.expert_matmul(w.d4, t.add(t.add(a, b), c), chosen), weights)
    return t.matmul(w.k4, t.last_rows(t.add(t.rms_norm(y, w.gain, 1e-5), t.matmul(w.k4, x))))


@pytest.mark.parametrize("rows", [1, 5, 6, 13])
def test_what_is_quantized_once_is_the_same_as_each_time(rows):
    """Ops are told where the x of the op before is theirs too; without that every op quantizes its own."""
    program = record(mixed, MIXED)
    with Guarded(CPU, (program, MIXED), max_tokens=13) as rig:
        want = rig.run(range(rows))
    with Rig(CPU, (program, MIXED), max_tokens=13) as rig:
        device = rig.device
        view = rig.memory.view(device._programs[program], len(binary.serialize(program)))
        n_told = 0
        for i in range(len(program.ops)):
            at = binary.HEADER.size + i * binary.OP.size + 4
            n_told += view[at] == binary.QUANTIZED
            view[at] = 0
        assert n_told == 4
        assert_same_bits(rig.run(range(rows)), want)


@settings(max_examples=40)
@given(other=others, ids=st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=20), data=st.data())
def test_any_split_gives_the_same_bits(other, ids, data):
    """Passes of one token and of many, layers of every kind, on other threads: bit for bit one pass."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(ids) - 1))))
    parts = segments(layer, expert_layer, recurrent_layer, layer)
    with Guarded(CPU, *parts, max_tokens=20, context=20) as rig:
        want = rig.run(ids)
    with Guarded(other, *parts, max_tokens=20, context=20) as rig:
        got = [rig.run(ids[a:b], a) for a, b in itertools.pairwise([0, *cuts, len(ids)])]
    assert_same_bits(np.concatenate(got), want)


@dataclass(frozen=True, slots=True)
class Far(Kind):
    """A device of whose memory `gap` bytes are taken before anything of it is used."""

    gap: int = 0

    def choose(self) -> Choice:
        choice = Kind.choose(self)

        def make(programs, n_bytes: int) -> tuple[Memory, Device]:
            memory, device = choice.make(programs, n_bytes + self.gap)
            memory.allocate(self.gap)
            return memory, device

        return replace(choice, make=make)


# Beyond 2 GiB an address of 32 bits is negative where somebody takes it for a signed number.
@pytest.mark.parametrize(
    "far",
    [Far("cpu:wasm64", 2, gap=5 << 30), Far("cpu:wasm32", 2, gap=5 << 29), Far("cpu:plain", gap=5 << 29)],
    ids=lambda far: far.name,
)
def test_addresses_far_up(far):
    """Slots, cache, weights and programs past 4 or 2 GiB: an address that is cut anywhere would find zeros, or nothing."""
    try:
        far.choose().make([], 1 << 20)[1].close()
    except wasmrt.DeviceError as error:
        pytest.skip(str(error))
    parts = segments(layer, expert_layer, recurrent_layer, layer)
    for kv_type in (None, "f16"):
        want = []
        for kind in (far, CPU):
            with Rig(replace(kind, kv_type=kv_type), *parts, max_tokens=9, context=80) as rig:
                want.append([rig.run(ids, pos) for ids, pos in (([1, 2, 3], 0), ([4], 3), (range(9), 4))])
                if kind is far:
                    assert min(rig.bounds[1].table) > far.gap
        for got, wanted in zip(*want, strict=True):
            assert_same_bits(got, wanted)
    with Rig(far, (record(mixed, MIXED), MIXED), max_tokens=9) as rig, Rig(CPU, (record(mixed, MIXED), MIXED)) as near:
        assert_same_bits(rig.run(range(8)), near.run(range(8)))


# Models

TINY = SHAPES["tiny"]
MODELS = {
    **{quant: (TINY, quant) for quant in ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q4_0", "Q4_1", "Q5_1", "Q8_0", "F16", "BF16")},
    "experts-Q4_K_M": (replace(TINY, n_experts=8, n_experts_used=2), "Q4_K_M"),
    "odd-Q4_K_M": (replace(TINY, n_embd=192, n_heads=6, head_dim=32, n_ff=416, qkv_bias=True, architecture="llama"), "Q4_K_M"),
}
IDS = np.random.default_rng(5).integers(3, TINY.n_vocab, 90).tolist()  # past the end of a tile of keys


@pytest.fixture(scope="module", params=MODELS)
def path(request, tmp_path_factory):
    shape, quant = MODELS[request.param]
    path = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    write_model(path, "tiny", quant, shape=shape)
    return path


def load(path, kind, **options):
    return wasmrt.load(path, device=kind.device, threads=kind.threads, kv_type=kind.kv_type, context=128, **options)


@pytest.mark.parametrize("kv_type", [None, "f16"])
def test_models_give_the_same_bits_for_any_build_threads_and_split(path, kv_type):
    with load(path, replace(CPU, kv_type=kv_type)) as model:
        want = np.asarray(model.logits(IDS))
    for other in OTHERS:
        with load(path, replace(other, kv_type=kv_type)) as model:
            assert_same_bits(model.logits(IDS), want)
            assert_splits_do_not_matter(model, want)
        assert model.plan.total_bytes < 40 << 20


def assert_splits_do_not_matter(model, want):
    async def in_parts(cuts):
        engine = model.engine
        async with engine.turn:
            await engine.step([0])                               # so that nothing of IDS is in the cache
            for begin, end in itertools.pairwise([0, *sorted(cuts), len(IDS)]):
                await engine.step(IDS[:end], end - begin)
                assert_same_bits(await engine.device.logits(engine._bounds[-1]), want[begin:end])

    @settings(max_examples=4)
    @given(cuts=st.sets(st.integers(1, len(IDS) - 1), max_size=30))
    def any_cuts(cuts):
        call(in_parts(cuts))

    any_cuts()
    call(in_parts(range(1, len(IDS))))
