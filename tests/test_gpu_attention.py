"""The GPU's attention, its rotation of queries and keys, and its cache, against the reference device.

Bounds on the normalised squared error stand beside the tests: the worst seen on a software adapter over the cases that are
named there, times ten. A pass of up to NARROW tokens and a longer one take different shaders.
"""

import asyncio
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.programs import GPU, Kind, Rig, nmse, normal, record, run_op, tensor
from tests.test_gpu_small import Guarded, reference, run
from wasmrt.device import reference as meaning
from wasmrt.device.gpu_attention import capacity, kv_bytes, n_split, padded, rope_table
from wasmrt.device.gpu_steps import NARROW
from wasmrt.errors import UnsupportedError
from wasmrt.program.fuse import fuse
from wasmrt.program.record import Rope

pytestmark = pytest.mark.usefixtures("gpu")

GPU_F16 = Kind("gpu", kv_type="f16")

seeds = st.integers(0, 2**32 - 1)
rows_of_x = st.sampled_from([1, 2, NARROW, NARROW + 1, 9, 17, 33, 64])
positions = st.sampled_from([0, 1, 254, 255, 256, 5000, 100000])
dims = st.one_of(st.sampled_from([1, 8, 63, 64, 65, 128, 256]), st.integers(1, 128))
ropes = st.builds(
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
)


def rounded(x: Any, f16: bool) -> Any:
    """As a cache keeps it."""
    return x.astype(np.float16).astype(np.float32) if f16 else x


# Worst over 600: 1.1e-14.
@settings(max_examples=15)
@given(
    rows=rows_of_x, heads=st.integers(1, 5), half=st.integers(1, 64), rest=st.integers(0, 9), pos=positions, rope=ropes,
    with_factors=st.booleans(), seed=seeds,
)  # fmt: skip
def test_rope(rows, heads, half, rest, pos, rope, with_factors, seed):
    rope = replace(rope, n_dims=2 * half, head_dim=2 * half + rest)
    x = normal(seed, (rows, heads * rope.head_dim))
    factors = np.random.default_rng(seed).uniform(1, 9, half).astype(np.float32) if with_factors else None
    got, want = run(GPU, "rope", x, factors, pos=pos, rope=rope), reference("rope", x, factors, pos=pos, rope=rope)
    assert nmse(got, want) < 1e-13


def test_every_quarter_of_a_revolution():
    """Angles from small to many revolutions, each element by itself: the error goes with the size of the pair."""
    rope = Rope(2, 2, base=1.0)
    x = np.repeat(np.float32([[1.0, 0.0]]), 3000, axis=0)
    got, want = run(GPU, "rope", x, None, pos=0, rope=rope), reference("rope", x, None, pos=0, rope=rope)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-7)     # worst: 1e-7


def test_factors_that_are_no_numbers():
    """Of a damaged file: something is computed, and nothing fails before it is."""
    params = 8, 8, "pairs", 1e4, 1.0, 1.0, 0.0, 0.0, 0.0
    assert np.frombuffer(rope_table(params, [0.0, math.nan, math.inf, 1.0]), "<u8")[:3].tolist() == [0, 0, 0]


def test_parts():
    of = {1: 1, 256: 1, 257: 2, 512: 2, 513: 4, 2000: 8, 2049: 16, 16384: 64, 16385: 64, 1 << 20: 64}
    assert {n: n_split(n) for n in of} == of


def layout(x: Any, heads: int, pos: int, context: int, f16: bool) -> Any:
    """Rows from `pos` on as they lie in a cache that was empty."""
    dim = x.shape[1] // heads
    lies = np.zeros((heads, capacity(context), padded(dim)), np.float16 if f16 else np.float32)
    lies[:, pos : pos + len(x), :dim] = x.reshape(len(x), heads, dim).transpose(1, 0, 2)
    return lies


async def read_cache(rig: Rig, like: Any, index: int) -> Any:
    device: Any = rig.device
    buffer, offset, n_bytes = rig.bounds[0].kv[index]
    return np.frombuffer(await device.host.read(buffer, offset, n_bytes), like.dtype).reshape(like.shape)


@settings(max_examples=15)
@given(
    rows=rows_of_x, pos=st.sampled_from([0, 1, 255, 256, 300]), heads=st.integers(1, 4), d=dims, dv=dims, f16=st.booleans(),
    seed=seeds,
)  # fmt: skip
def test_store_kv(rows, pos, heads, d, dv, f16, seed):
    """The bits that are meant where they are meant, and zeros elsewhere."""
    stored_is_meant(normal(seed, (rows, heads * d)), normal(seed + 1, (rows, heads * dv), 100.0), pos, heads, f16)


def stored_is_meant(k: Any, v: Any, pos: int, heads: int, f16: bool) -> None:
    tensors, rows = {"k": tensor(k), "v": tensor(v)}, len(k)

    def page(t: Any, w: Any) -> Any:
        keys = t.embed(w.k)
        t.store_kv(keys, t.embed(w.v))
        t.attention(keys, heads, heads, 1.0)                     # says how many heads there are
        return t.last_rows(keys)

    with Guarded(GPU_F16 if f16 else GPU, (record(page, tensors), tensors), max_tokens=rows, context=pos + rows) as rig:
        rig.run(range(rows), pos)
        for i, x in enumerate((k, v)):
            want = layout(x, heads, pos, pos + rows + 5, f16)
            assert want.nbytes == kv_bytes(x.shape[1], heads, pos + rows + 5, f16)
            np.testing.assert_array_equal(asyncio.run(read_cache(rig, want, i)).view(np.uint8), want.view(np.uint8))


def test_every_f16_of_the_cache_is_the_nearest():
    """At every kind of rounding: ties, their neighbours, what is subnormal or infinite as f16."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = np.sort(halves[np.isfinite(halves)])
    between = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)  # ties
    x = np.concatenate([halves, between, np.nextafter(between, np.float32(1e9)), np.nextafter(between, np.float32(-1e9))])
    x = np.concatenate([x, np.float32([65519.99, 65520.0, -1e9, 1e-8, 2.0**-25, 2.0**-25 * 1.0001, 1e-40, -0.0])])
    with np.errstate(over="ignore"):
        stored_is_meant(normal(1, (64, 17)), np.resize(x, (64, 17 * 256)), 0, 17, f16=True)


# Worst over 250: 1.7e-12.
@settings(max_examples=15)
@given(
    rows=rows_of_x,
    pos=st.one_of(st.sampled_from([0, 254, 255, 256]), st.integers(0, 300)),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 4, 7, 8, 12, 71]),
    d=dims,
    dv=dims,
    sharpness=st.sampled_from([1e-3, 1.0, 20.0]),
    f16=st.booleans(),
    seed=seeds,
)
def test_attention(rows, pos, kv_heads, group, d, dv, sharpness, f16, seed):
    """With a cache of f16, keys and values are those rounded to nearest."""
    if group > 8:
        rows, kv_heads = min(rows, 9), 1
    attention_is_meant(rows, pos, kv_heads, group, d, dv, sharpness, f16, seed, 2e-11)


# Worst over 60: 3.4e-12.
@settings(max_examples=8)
@given(
    rows=st.sampled_from([1, NARROW, NARROW + 1, 40]),
    keys=st.sampled_from([257, 512, 513, 1025, 2049, 2500]),  # with 1025 some parts have no keys
    group=st.sampled_from([1, 5, 9]),
    d=st.sampled_from([24, 64]),
    sharpness=st.sampled_from([1e-3, 1.0, 20.0]),
    f16=st.booleans(),
    seed=seeds,
)
def test_attention_over_many_keys(rows, keys, group, d, sharpness, f16, seed):
    attention_is_meant(rows, keys - rows, 2, group, d, d, sharpness, f16, seed, 3e-11)


def attention_is_meant(
    rows: int,
    pos: int,
    kv_heads: int,
    group: int,
    d: int,
    dv: int,
    sharpness: float,
    f16: bool,
    seed: int,
    bound: float,
    sinks: Any = None,
    **more: Any,
) -> None:
    q = normal(seed, (rows, kv_heads * group * d))
    keys, values = normal(seed + 1, (pos + rows, kv_heads * d), 0.1), normal(seed + 2, (pos + rows, kv_heads * dv), 10.0)
    n_heads, scale = kv_heads * group, sharpness / math.sqrt(d)
    params = {"n_heads": n_heads, "n_kv_heads": kv_heads, "scale": scale, **more}
    given_sinks = None if sinks is None else tensor(sinks)
    got = run(GPU_F16 if f16 else GPU, "attention", q, keys, values, given_sinks, pos=pos, **params)
    of_scores = {"window": 0, "chunked": False, "softcap": 0.0, "max_bias": 0.0, **more}
    cached = rounded(keys, f16), rounded(values, f16)
    want = meaning.attention(q, *cached, sinks, pos, n_heads, kv_heads, scale, **of_scores)
    assert nmse(got, want, np.maximum(np.abs(want), 1e-20)) < bound


# Worst over 140: 3e-13. The bound is that of all keys.
@settings(max_examples=25)
@given(
    rows=rows_of_x,
    pos=st.one_of(st.sampled_from([0, 63, 64, 254, 255, 256]), st.integers(0, 300)),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 7, 8, 12]),
    d=st.sampled_from([8, 24, 64, 80]),
    sharpness=st.sampled_from([1e-3, 1.0, 20.0]),
    window=st.sampled_from([0, 0, 1, 31, 32, 64, 100, 257, 1000]),
    chunked=st.booleans(),
    softcap=st.sampled_from([0.0, 0.5, 50.0]),
    max_bias=st.sampled_from([0.0, 8.0]),
    sink=st.sampled_from([None, -200.0, 0.0, 5.0, 200.0]),
    f16=st.booleans(),
    seed=seeds,
)
def test_attention_of_some_keys(
    rows, pos, kv_heads, group, d, sharpness, window, chunked, softcap, max_bias, sink, f16, seed
):  # fmt: skip
    """Windows, chunks, scores that are capped or fall with distance, and sinks: far below all scores, among them, far above."""
    sinks = None if sink is None else normal(seed + 3, (kv_heads * group,)) + np.float32(sink)
    more = {"window": window, "chunked": chunked, "softcap": softcap, "max_bias": max_bias}
    attention_is_meant(rows, pos, kv_heads, group, d, d, sharpness, f16, seed, 2e-11, sinks, **more)


# Worst over 10: 5.5e-13.
@settings(max_examples=6)
@given(
    rows=st.sampled_from([1, NARROW, NARROW + 1, 40]),
    keys=st.sampled_from([513, 1025, 2049, 2500]),
    window=st.sampled_from([0, 128, 700, 1024]),
    chunked=st.booleans(),
    group=st.sampled_from([1, 5, 9]),
    with_sinks=st.booleans(),
    max_bias=st.sampled_from([0.0, 8.0]),
    seed=seeds,
)
def test_attention_over_some_of_many_keys(rows, keys, window, chunked, group, with_sinks, max_bias, seed):
    """Parts of the keys that a window leaves, some of them empty, and what is added up of them with a sink."""
    sinks = normal(seed + 3, (2 * group,)) if with_sinks else None
    more = {"window": window, "chunked": chunked, "max_bias": max_bias}
    attention_is_meant(rows, keys - rows, 2, group, 24, 24, 1.0, False, seed, 5.5e-12, sinks, **more)


# Worst: 2.8e-13.
@pytest.mark.parametrize("rows", [1, NARROW, NARROW + 1, 37])
@pytest.mark.parametrize(
    ("group", "d", "dv", "pos"), [(16, 576, 512, 70), (7, 576, 512, 300), (3, 257, 65, 5), (2, 40, 260, 65), (3, 1024, 1024, 5)]
)
@pytest.mark.parametrize("f16", [False, True])
def test_attention_of_large_heads(rows, group, d, dv, pos, f16):
    """Latent attention has one key head for all queries, with keys of 576 and values of 512 elements."""
    attention_is_meant(rows, pos, 1, group, d, dv, 1.0, f16, d + rows, 2.8e-12)


@pytest.mark.parametrize("d", [4, 12, 100])
def test_heads_of_whole_fours_but_not_eights(d):
    """Queries are read in fours, keys in eights: what lies behind the last query, which is NaN here, does not count."""
    attention_is_meant(NARROW + 1, 3, 1, 2, d, d, 1.0, False, d, 2e-11)


def test_heads_that_are_too_large():
    x = normal(1, (1, 1032))
    with pytest.raises(UnsupportedError, match="at most 1024"):
        run_op(GPU, "attention", x, x, x, n_heads=1, n_kv_heads=1, scale=1.0)


# Worst over 120: 8.3e-12, and of the cache 4e-15; of an f16 cache 1e-9, where the other neighbour is the nearest now and then.
@settings(max_examples=15)
@given(
    rows=rows_of_x, pos=st.sampled_from([0, 1, 255, 300]), heads=st.integers(1, 3), group=st.integers(1, 3),
    half=st.integers(1, 40), rest=st.integers(0, 9), dv=dims, rope=ropes, with_factors=st.booleans(), f16=st.booleans(),
    seed=seeds,
)  # fmt: skip
def test_rope_kv(rows, pos, heads, group, half, rest, dv, rope, with_factors, f16, seed):
    """Fused, against the ops that it is made of: what attention then gives, and what is cached."""
    d = 2 * half + rest
    rope = replace(rope, n_dims=2 * half, head_dim=d)
    q, k, v = normal(seed, (rows, heads * group * d)), normal(seed + 1, (rows, heads * d)), normal(seed + 2, (rows, heads * dv))
    tensors = {"q": tensor(q), "k": tensor(k), "v": tensor(v)}
    factors = np.random.default_rng(seed).uniform(1, 9, half).astype(np.float32) if with_factors else None
    if factors is not None:
        tensors["factors"] = tensor(factors)

    def page(t: Any, w: Any) -> Any:
        by = w.factors if with_factors else None
        turned = t.rope(t.embed(w.q), rope, by)
        t.store_kv(t.rope(t.embed(w.k), rope, by), t.embed(w.v))
        return t.last_rows(t.attention(turned, heads * group, heads, 1 / d))

    program = fuse(record(page, tensors), whole=True)
    assert [op.kernel for op in program.ops if "rope" in op.kernel] == ["rope_kv"]
    kind = replace(GPU, kv_type="f16" if f16 else None)
    with Rig(kind, (program, tensors), max_tokens=rows, context=pos + rows) as rig:
        got = rig.run(range(rows), pos)
        turn = d, 2 * half, rope.style, rope.base, rope.scale, rope.magnitude, rope.extrapolation, rope.ramp_low, rope.ramp_high
        k = meaning.rope(k, factors, pos, *turn)
        cached = [layout(x, heads, pos, pos + rows, f16) for x in (k, v)]
        errors = [nmse(asyncio.run(read_cache(rig, x, i)), x) for i, x in enumerate(cached)]
    keys, values = (np.concatenate([np.zeros((pos, x.shape[1]), np.float32), rounded(x, f16)]) for x in (k, v))
    turned = meaning.rope(q, factors, pos, *turn)
    want = meaning.attention(turned, keys, values, None, pos, heads * group, heads, 1 / d, 0, 0, 0.0, 0.0)
    assert errors[0] < (1e-8 if f16 else 4e-14)
    assert errors[1] == 0
    assert nmse(got, want) < (1e-8 if f16 else 8e-11)
