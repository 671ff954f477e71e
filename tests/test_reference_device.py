"""Every op of the reference device against a plain float64 definition or outside truth, then what every device promises.

Bounds on the normalised squared error stand beside the tests: the worst seen over 3000 random cases, times ten.
"""

import asyncio
import itertools
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import raw_gguf as raw
from tests.programs import (
    CPU,
    GPU,
    KINDS,
    PLAIN,
    REFERENCE,
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
from wasmrt.errors import DeviceError, UnsupportedError
from wasmrt.gguf.reader import parse_header
from wasmrt.gguf.types import BY_NAME
from wasmrt.model.config import read_config
from wasmrt.program.record import Rope

ROPE_TRUTH = json.loads((Path(__file__).parent / "data" / "rope_yarn.json").read_text())["cases"]

seeds = st.integers(0, 2**32 - 1)
few = st.integers(1, 5)
widths = st.integers(1, 700)
scales = st.sampled_from([1e-3, 1.0, 1e3])
formats = pytest.mark.parametrize("name", F16_FIELDS)


def run(kernel, *ins, **params):
    return run_op(REFERENCE, kernel, *ins, **params)


# Ops


# Worst: 3e-14.
@given(rows=few, n=widths, scale=scales, eps=st.sampled_from([1e-5, 1e-6]), seed=seeds)
def test_rms_norm(rows, n, scale, eps, seed):
    """At scale 1e-3 the eps is as large as the mean square."""
    x, w = normal(seed, (rows, n), scale), normal(seed + 1, (n,))
    got = run("rms_norm", x, w, eps=eps)
    wide = x.astype(np.float64)
    for t in range(rows):
        want = wide[t] * w / math.sqrt(sum(wide[t] ** 2) / n + eps)
        assert nmse(got[t], want) < 3e-13


# Worst: 5e-14.
@given(rows=few, n=widths, scale=scales, mean=st.sampled_from([0.0, 1.0, 10.0]), with_b=st.booleans(), seed=seeds)
def test_layer_norm(rows, n, scale, mean, with_b, seed):
    """mean: of a row, in units of its deviation."""
    x, w, b = normal(seed, (rows, n), scale) + np.float32(mean * scale), normal(seed + 1, (n,)), normal(seed + 2, (n,))
    got = run("layer_norm", x, w, tensor(b) if with_b else None, eps=1e-5)
    wide = x.astype(np.float64)
    for t in range(rows):
        centered = wide[t] - sum(wide[t]) / n
        normed = centered / math.sqrt(sum(centered**2) / n + 1e-5) * w
        assert nmse(got[t], normed + (b if with_b else 0), size_of_normed(wide[t], w, 1e-5)) < 5e-13


def size_of_normed(x, w, eps):
    """What rounding errors of layer_norm go with: the row before its mean is taken off, since the two may be almost equal."""
    deviation = np.sqrt(np.var(x, axis=-1, keepdims=True) + eps)
    return np.abs(x / deviation * w) + 1


# Worst: 6e-14.
@given(rows=few, n=widths, scale=scales, seed=seeds)
def test_softmax(rows, n, scale, seed):
    x = normal(seed, (rows, n), scale)
    got = run("softmax", x)
    for t in range(rows):
        e = np.exp(x[t].astype(np.float64) - max(x[t]))
        assert nmse(got[t], e / sum(e)) < 6e-13


def size_of_product(w, x):
    """How large x @ w.T would be if its terms had random signs; see nmse."""
    return np.sqrt(np.square(x, dtype=np.float64) @ np.square(w, dtype=np.float64).T)


# Worst: 4e-13.
@given(rows=few, n=widths, m=st.integers(1, 40), scale=scales, seed=seeds)
def test_matmul(rows, n, m, scale, seed):
    x, w = normal(seed, (rows, n), scale), normal(seed + 1, (m, n))
    want = [[sum(x[t].astype(np.float64) * w[j]) for j in range(m)] for t in range(rows)]
    assert nmse(run("matmul", w, x), want, size_of_product(w, x)) < 4e-12


@given(rows=few, n=widths, op=st.sampled_from(["add", "mul"]), y_is=st.sampled_from(["value", "row", "number"]), seed=seeds)
def test_add_and_mul(rows, n, op, y_is, seed):
    """One rounding: the result is the float32 nearest to the exact one."""
    x = normal(seed, (rows, n), 100)
    y = normal(seed + 1, {"value": (rows, n), "row": (n,), "number": (1,)}[y_is])
    exact = x.astype(np.float64) + y if op == "add" else x.astype(np.float64) * y
    np.testing.assert_array_equal(run(op, x, y if y_is == "value" else tensor(y)), exact.astype(np.float32))


# Worst: 4e-14.
@given(rows=few, n=widths, scale=scales, seed=seeds)
def test_swiglu(rows, n, scale, seed):
    gate, up = normal(seed, (rows, n), scale), normal(seed + 1, (rows, n))
    wide = gate.astype(np.float64)
    want = wide * np.exp(-np.logaddexp(0, -wide)) * up
    assert nmse(run("swiglu", gate, up), want, np.maximum(np.abs(want), 1e-30)) < 4e-13


def test_swiglu_far_out():
    """exp(-gate) overflows float32 below -88: what is meant is 0, without a warning."""
    gate = np.array([[-1e4, -200, -89, 0, 89, 1e4]], np.float32)
    np.testing.assert_array_equal(run("swiglu", gate, np.ones_like(gate)), [[0, 0, 0, 0, 89, 1e4]])


def rotated(x, angle, rope, magnitude=1.0):
    """x: (T, heads * head_dim) with pair i of token t turned by angle[t, i], as complex numbers in float64."""
    y = x.astype(np.float64).reshape(len(x), -1, rope.head_dim)
    half = rope.n_dims // 2
    real = np.arange(half) * (2 if rope.style == "pairs" else 1)
    imaginary = real + (1 if rope.style == "pairs" else half)
    turned = (y[..., real] + 1j * y[..., imaginary]) * (magnitude * np.exp(1j * angle))[:, None, :]
    y[..., real], y[..., imaginary] = turned.real, turned.imag
    return y.reshape(x.shape)


# Worst: 2e-14.
@given(
    rows=few,
    heads=st.integers(1, 4),
    half=st.integers(1, 40),
    rest=st.integers(0, 9),
    pos=st.integers(0, 5000),
    style=st.sampled_from(["pairs", "halves"]),
    base=st.sampled_from([1e4, 5e5]),
    scale=st.sampled_from([1.0, 0.25]),
    with_factors=st.booleans(),
    seed=seeds,
)
def test_rope(rows, heads, half, rest, pos, style, base, scale, with_factors, seed):
    """Elements of a head after the first n_dims pass unchanged."""
    rope = Rope(2 * half, 2 * half + rest, base, style, scale)
    x = normal(seed, (rows, heads * rope.head_dim))
    factors = np.random.default_rng(seed).uniform(1, 9, half).astype(np.float32) if with_factors else None
    frequency = np.array([base ** (-2 * i / rope.n_dims) / (float(factors[i]) if with_factors else 1) for i in range(half)])
    angle = scale * np.arange(pos, pos + rows)[:, None] * frequency
    got = run("rope", x, factors, pos=pos, rope=rope)
    assert nmse(got, rotated(x, angle, rope)) < 2e-13
    by_head = (rows, heads, rope.head_dim)
    np.testing.assert_array_equal(got.reshape(by_head)[..., 2 * half :], x.reshape(by_head)[..., 2 * half :])


def rope_of_file(case):
    """The Rope that read_config makes of a GGUF file with this case's metadata."""
    keys = [
        raw.entry("general.architecture", raw.STRING, raw.string("llama")),
        raw.number_entry("llama.attention.layer_norm_rms_epsilon", raw.F32, 1e-5),
        raw.number_entry("llama.rope.freq_base", raw.F32, case["base"]),
    ]
    sizes = {"context_length": 4096, "block_count": 1, "embedding_length": 256, "feed_forward_length": 32}
    sizes |= {"attention.head_count": 256 // case["head_dim"]}
    if case["rope_type"] != "llama3":
        keys.append(raw.entry("llama.rope.scaling.type", raw.STRING, raw.string(case["rope_type"])))
        keys.append(raw.number_entry("llama.rope.scaling.factor", raw.F32, case["factor"]))
    if case["rope_type"] == "yarn":
        sizes |= {"rope.scaling.original_context_length": case["n_ctx"]}
    for name in {"beta_fast", "beta_slow"} & set(case):
        keys.append(raw.number_entry(f"llama.rope.scaling.yarn_{name}", raw.F32, case[name]))
    keys += [raw.number_entry(f"llama.{key}", raw.U32, value) for key, value in sizes.items()]
    head = raw.header(keys, [raw.tensor("token_embd.weight", (256, 4))])
    config, _ = read_config(parse_header(raw.with_data(head, 256 * 4 * 4)), "pairs", "rms", "swiglu", None)
    return config.rope


# Worst: 3e-12. The recorded frequencies are float32, so their angles are off by up to 6e-8 of themselves.
@pytest.mark.parametrize("name", ROPE_TRUTH)
@pytest.mark.parametrize("style", ["pairs", "halves"])
def test_rope_scaling_against_transformers(name, style):
    """From a file's metadata to rotated values; frequencies and magnitude as recorded by tools/record_rope.py."""
    case = ROPE_TRUTH[name]
    rope = replace(rope_of_file(case), style=style)
    assert rope.magnitude == pytest.approx(case["magnitude"], rel=1e-7)
    for pos in (0, 1, 20, 200):
        x = normal(pos, (4, 2 * case["head_dim"]))
        angle = np.arange(pos, pos + 4)[:, None] * np.array(case["inv_freq"])
        got = run("rope", x, case.get("factors"), pos=pos, rope=rope)
        assert nmse(got, rotated(x, angle, rope, case["magnitude"])) < 3e-11


def attended(q, keys, values, pos, n_heads, n_kv_heads, scale):
    """softmax(scale * q k) v, query by query and head by head, over the positions up to the query's own, and the sums' size."""
    q, keys, values = (a.astype(np.float64) for a in (q, keys, values))
    d, dv = q.shape[1] // n_heads, values.shape[1] // n_kv_heads
    out = np.zeros((len(q), n_heads * dv))
    size = np.zeros_like(out)
    for t in range(len(q)):
        for h in range(n_heads):
            g = h * n_kv_heads // n_heads
            scores = [scale * (q[t, h * d : (h + 1) * d] @ keys[p, g * d : (g + 1) * d]) for p in range(pos + t + 1)]
            weights = np.exp(np.array(scores) - max(scores))
            seen = values[: pos + t + 1, g * dv : (g + 1) * dv]
            out[t, h * dv : (h + 1) * dv] = weights @ seen / weights.sum()
            size[t, h * dv : (h + 1) * dv] = np.sqrt(weights**2 @ seen**2) / weights.sum()
    return out, size


# Worst: 5e-13.
@given(
    rows=few,
    pos=st.integers(0, 40),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 4, 7, 8]),
    d=st.integers(1, 33),
    dv=st.integers(1, 33),
    sharpness=st.sampled_from([1e-3, 1.0, 5.0]),
    seed=seeds,
)
def test_attention(rows, pos, kv_heads, group, d, dv, sharpness, seed):
    """The rows before `pos` come from an earlier pass; queries of the same pass must not see each other's future."""
    n_heads = kv_heads * group
    q = normal(seed, (rows, n_heads * d))
    keys, values = normal(seed + 1, (pos + rows, kv_heads * d)), normal(seed + 2, (pos + rows, kv_heads * dv))
    scale = sharpness / math.sqrt(d)
    got = run("attention", q, keys, values, pos=pos, n_heads=n_heads, n_kv_heads=kv_heads, scale=scale)
    assert nmse(got, *attended(q, keys, values, pos, n_heads, kv_heads, scale)) < 5e-12


def test_attention_at_the_first_position_gives_the_value():
    values = normal(3, (1, 2 * 5))
    got = run("attention", normal(1, (1, 4 * 3)), normal(2, (1, 2 * 3)), values, n_heads=4, n_kv_heads=2, scale=9.0)
    np.testing.assert_array_equal(got[0].reshape(2, 2, 5), np.repeat(values.reshape(2, 1, 5), 2, axis=1))


# Worst: 5e-13.
@pytest.mark.parametrize("pos", [255, 3000])
def test_attention_over_a_long_cache(pos):
    q, keys, values = normal(1, (2, 4 * 16)), normal(2, (pos + 2, 2 * 16)), normal(3, (pos + 2, 2 * 16))
    got = run("attention", q, keys, values, pos=pos, n_heads=4, n_kv_heads=2, scale=0.25)
    assert nmse(got, *attended(q, keys, values, pos, 4, 2, 0.25)) < 5e-12


@given(rows=few, n=widths, data=st.data(), seed=seeds)
def test_last_rows(rows, n, data, seed):
    x, n_out = normal(seed, (rows, n)), data.draw(st.integers(1, rows))
    np.testing.assert_array_equal(run("last_rows", x, n_out), x[rows - n_out :])


# Worst: 1e-13.
@given(rows=few, n_experts=st.integers(1, 60), data=st.data(), seed=seeds)
def test_route(rows, n_experts, data, seed):
    """Logits from -3 to 3 in whole steps: most cases have ties, at the edge of what is chosen too."""
    n_used = data.draw(st.integers(1, n_experts))
    logits = np.random.default_rng(seed).integers(-3, 4, (rows, n_experts)).astype(np.float32)
    experts, weights = run_route(REFERENCE, logits, n_used)
    for t in range(rows):
        best = sorted(range(n_experts), key=lambda e: (-logits[t, e], e))[:n_used]
        assert experts[t].tolist() == best
        likely = np.exp(logits[t, best].astype(np.float64))
        assert nmse(weights[t], likely / likely.sum()) < 1e-12


def draw_experts(seed, rows, n_experts, n_used):
    """Different experts for each token, in any order."""
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(n_experts)[:n_used] for _ in range(rows)], np.int32)


# Worst: 1e-13.
@given(
    rows=few,
    n=st.integers(1, 100),
    m=st.integers(1, 30),
    n_experts=st.integers(1, 9),
    own_rows=st.booleans(),
    data=st.data(),
    seed=seeds,
)
def test_expert_matmul(rows, n, m, n_experts, own_rows, data, seed):
    n_used = data.draw(st.integers(1, n_experts))
    experts = draw_experts(seed, rows, n_experts, n_used)
    x, w = normal(seed, (rows, n_used if own_rows else 1, n)), normal(seed + 1, (n_experts, m, n))
    terms = [[w[experts[t, u]].astype(np.float64) * x[t, u if own_rows else 0] for u in range(n_used)] for t in range(rows)]
    got = run("expert_matmul", w, x.reshape(rows, -1), experts)
    assert nmse(got.reshape(rows, n_used, m), np.sum(terms, axis=-1), np.linalg.norm(terms, axis=-1)) < 1e-12


@given(rows=few, n=st.integers(1, 100), n_experts=st.integers(1, 9), data=st.data(), seed=seeds)
def test_expert_mul(rows, n, n_experts, data, seed):
    n_used = data.draw(st.integers(1, n_experts))
    experts = draw_experts(seed, rows, n_experts, n_used)
    x, w = normal(seed, (rows, n_used, n)), normal(seed + 1, (n_experts,))
    want = [[x[t, u] * w[experts[t, u]] for u in range(n_used)] for t in range(rows)]
    np.testing.assert_array_equal(run("expert_mul", x.reshape(rows, -1), w, experts).reshape(rows, n_used, n), want)


# Worst: 2e-14.
@given(rows=few, n=widths, n_used=st.integers(1, 9), seed=seeds)
def test_expert_sum(rows, n, n_used, seed):
    x = normal(seed, (rows, n_used, n))
    weights = np.random.default_rng(seed + 1).dirichlet(np.ones(n_used), rows).astype(np.float32)
    terms = [[weights[t, u] * x[t, u].astype(np.float64) for u in range(n_used)] for t in range(rows)]
    assert nmse(run("expert_sum", x.reshape(rows, -1), weights), np.sum(terms, axis=1), np.linalg.norm(terms, axis=1)) < 2e-13


def convolved(x, w):
    """y[t, i] = sum over j of w[i, j] * x[t - taps + 1 + j, i], rows before the first being 0, and the sums' size."""
    terms = np.zeros((w.shape[1], *x.shape))
    for j, t in np.ndindex(w.shape[1], len(x)):
        if (source := t - w.shape[1] + 1 + j) >= 0:
            terms[j, t] = w[:, j].astype(np.float64) * x[source]
    return terms.sum(axis=0), np.linalg.norm(terms, axis=0)


# Worst: 2e-14.
@given(rows=few, n=widths, taps=st.integers(2, 6), seed=seeds)
def test_causal_conv(rows, n, taps, seed):
    x, w = normal(seed, (rows, n)), normal(seed + 1, (n, taps))
    assert nmse(run("causal_conv", x, w), *convolved(x, w)) < 2e-13


# Packed weights


@formats
@settings(max_examples=25)
@given(seed=seeds, n_blocks=st.integers(1, 3), ids=st.lists(st.integers(0, 8), min_size=1, max_size=5))
def test_embed_reads_rows_of_every_format(name, seed, n_blocks, ids):
    w = random_tensor(seed, name, n_blocks * BY_NAME[name].block, 9)
    np.testing.assert_array_equal(run("embed", w, ids), w.values()[ids])


# Worst: 2e-12.
@formats
@settings(max_examples=25)
@given(rows=few, seed=seeds, n_blocks=st.integers(1, 3), m=st.integers(1, 9))
def test_matmul_reads_every_format(name, rows, seed, n_blocks, m):
    w = random_tensor(seed, name, n_blocks * BY_NAME[name].block, m)
    x = normal(seed + 1, (rows, w.shape[0]))
    assert nmse(run("matmul", w, x), x.astype(np.float64) @ w.values().T, size_of_product(w.values(), x)) < 2e-11


# Worst: 8e-13.
@pytest.mark.parametrize("name", ["F32", "Q8_0", "Q4_K"])
@settings(max_examples=50)
@given(seed=seeds, m=st.integers(1, 20), rows_per_entry=st.integers(1, 20))
def test_row_chunks_change_nothing(name, seed, m, rows_per_entry):
    """A tensor in several entries, each a frame of its own, is the same tensor; the last entry may be shorter.

    A BLAS library may sum in another order for another number of rows, so products are only nearly the same.
    """
    w = random_tensor(seed, name, 256, m)
    ids, x = np.random.default_rng(seed).integers(0, m, 4).tolist(), normal(seed + 1, (3, 256))
    chunk_bytes = rows_per_entry * w.type.row_bytes(256) + 5
    np.testing.assert_array_equal(run("embed", w, ids, chunk_bytes=chunk_bytes), run("embed", w, ids))
    got = run("matmul", w, x, chunk_bytes=chunk_bytes)
    assert nmse(got, run("matmul", w, x), size_of_product(w.values(), x)) < 1e-11


def test_a_small_weight_may_be_in_chunks_too():
    """Ops that take a weight as an array get all of it."""
    x, w = normal(1, (4, 50)), normal(2, (50, 3))
    np.testing.assert_array_equal(run("causal_conv", x, w, chunk_bytes=7 * 12), run("causal_conv", x, w))


# What every device promises


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name, scope="module")
def kind(request):
    if request.param == GPU:
        request.getfixturevalue("gpu")
    return request.param


N, HEADS, KV_HEADS, D, FF, VOCAB = 32, 4, 2, 8, 48, 50


def embedding(t, w):
    return t.embed(w.token_embd)


def layer(t, w, x):
    """Attention, then a feed-forward network: the shape of most models."""
    h = t.rms_norm(x, w.norm, 1e-5)
    rope = Rope(D, D)
    t.store_kv(t.rope(t.matmul(w.k, h), rope), t.matmul(w.v, h))
    x = t.add(x, t.matmul(w.o, t.attention(t.rope(t.matmul(w.q, h), rope), HEADS, KV_HEADS, D**-0.5)))
    h = t.rms_norm(x, w.norm, 1e-5)
    return t.add(x, t.matmul(w.down, t.swiglu(t.matmul(w.gate, h), t.matmul(w.up, h))))


def expert_layer(t, w, x):
    h = t.rms_norm(x, w.norm, 1e-5)
    chosen, weights = t.route(t.matmul(w.router, h), 2)
    gate, up = t.expert_matmul(w.gate_exps, h, chosen), t.expert_matmul(w.up_exps, h, chosen)
    y = t.expert_mul(t.expert_matmul(w.down_exps, t.swiglu(gate, up), chosen), w.scale, chosen)
    return t.add(x, t.expert_sum(y, weights))


def recurrent_layer(t, w, x):
    return t.add(x, t.mul(t.causal_conv(t.mul(x, w.gain), w.conv), w.gain))


def head(t, w, x):
    return t.matmul(w.output, t.rms_norm(t.last_rows(x), w.output_norm, 1e-5))


KV = KV_HEADS * D
TENSORS = {
    embedding: {"token_embd": random_tensor(1, "F16", N, VOCAB)},
    layer: {
        "norm": random_tensor(2, "F32", N), "q": random_tensor(3, "Q8_0", N, HEADS * D), "k": random_tensor(4, "F32", N, KV),
        "v": random_tensor(5, "F16", N, KV), "o": random_tensor(6, "Q4_0", HEADS * D, N),
        "gate": random_tensor(7, "F32", N, FF), "up": random_tensor(8, "Q5_1", N, FF), "down": random_tensor(9, "BF16", FF, N),
    },
    expert_layer: {
        "norm": random_tensor(2, "F32", N), "router": random_tensor(10, "F32", N, 6), "scale": random_tensor(11, "F32", 6),
        "gate_exps": random_tensor(12, "Q8_0", N, FF, 6), "up_exps": random_tensor(13, "F16", N, FF, 6),
        "down_exps": random_tensor(14, "F32", FF, N, 6),
    },
    recurrent_layer: {"gain": random_tensor(15, "F32", N), "conv": random_tensor(16, "F32", 4, N)},
    head: {"output": random_tensor(17, "Q8_0", N, VOCAB), "output_norm": random_tensor(18, "F32", N)},
}  # fmt: skip


def segments(*pages):
    """The embedding, these layers, and a head, or `stream`, which gives the residual stream itself."""
    pages = (embedding, *pages) if pages[-1] in (head, stream) else (embedding, *pages, head)
    return [(record(p, TENSORS.get(p, {}), None if p is embedding else N), TENSORS.get(p, {})) for p in pages]


def stream(t, w, x):
    return t.last_rows(x)


IDS = [3, 41, 7, 7, 0, 49, 12]


@pytest.mark.parametrize(("segment", "name"), [(0, "token_embd"), (1, "norm"), (1, "gate"), (2, "down_exps"), (3, "output")])
def test_a_tensor_that_is_not_in_memory_is_named(kind, segment, name):
    """Address 0 means absent. An op that needs the tensor fails, and once it is there the same device computes."""
    with Rig(kind, *segments(layer, expert_layer)) as rig:
        want = rig.run(IDS)
        table, weights = rig.bounds[segment].table, rig.bounds[segment].program.weights
        absent = [i for w in weights if w.name == name for i in range(w.first, w.first + w.n_entries)]
        addresses = [table[i] for i in absent]
        for i in absent:
            table[i] = 0
        rig.device.begin(IDS, 0, len(IDS))
        with pytest.raises(DeviceError, match=repr(name)):
            run_through_missing(rig)
        for i, address in zip(absent, addresses, strict=True):
            table[i] = address
        np.testing.assert_array_equal(rig.run(IDS), want)


def run_through_missing(rig):
    """A pass that goes on where a run stopped for experts, without bringing them."""

    async def step():
        for bound in rig.bounds:
            stop = await rig.device.run([bound], range(len(bound.program.ops)))
            await rig.device.run([bound], range(stop.next_op, len(bound.program.ops)))

    asyncio.run(step())


def test_an_absent_chunk_matters_only_to_ops_that_read_it(kind):
    w = {"token_embd": random_tensor(1, "Q8_0", N, VOCAB)}
    program = record(lambda t, w: t.last_rows(t.embed(w.token_embd)), w, chunk_bytes=10 * 34)
    with Rig(kind, (program, w)) as rig:
        rig.bounds[0].table[2] = 0                               # rows 20 to 29
        np.testing.assert_array_equal(rig.run([0, 19, 30]), w["token_embd"].values()[[0, 19, 30]])
        with pytest.raises(DeviceError, match="token_embd"):
            rig.run([0, 29])


def test_a_format_without_a_kernel_is_refused_when_compiling(kind):
    w = {"odd": Tensor(BY_NAME["I32"], (N, 3), bytes(4 * N * 3))}
    with pytest.raises(UnsupportedError, match=r"'odd'.*I32.*Q8_0"):
        Rig(kind, (record(lambda t, w: t.last_rows(t.embed(w.odd)), w), w))


@pytest.mark.parametrize("page", [layer, expert_layer, recurrent_layer])
def test_a_layer_may_stop_and_resume_at_any_op(kind, page):
    """run(0..k) then run(k..n) gives the bits of one run, with cache and state of a pass before that was halved too."""
    with Rig(kind, *segments(page)) as rig:
        first, rest = IDS[:4], IDS[4:]
        rig.run(first)
        want = rig.run(rest, len(first))
        middle, n = rig.bounds[1], len(rig.bounds[1].program.ops)

        async def halves(ids, pos, k):
            rig.device.begin(ids, pos, len(ids))
            for bound in rig.bounds:
                for ops in (range(k), range(k, n)) if bound is middle else (range(len(bound.program.ops)),):
                    assert (await rig.device.run([bound], ops)).next_op == ops.stop
            return await rig.read()

        for k in range(n + 1):
            rig.device.clear_state(middle)
            asyncio.run(halves(first, 0, k))
            np.testing.assert_array_equal(asyncio.run(halves(rest, len(first), k)), want)


def test_rows_wanted_are_the_last(kind):
    with Rig(kind, *segments(layer)) as rig:
        want = rig.run(IDS)
        for n_out in range(1, len(IDS) + 1):
            got = rig.run(IDS, n_out=n_out)
            assert got.shape == (n_out, VOCAB)
            assert nmse(got, want[-n_out:]) < 1e-11              # a BLAS library may sum in another order for other shapes


def test_a_position_can_be_written_again(kind):
    """Going back to an earlier position replaces what was cached after it."""
    with Rig(kind, *segments(layer)) as rig:
        want = rig.run(IDS)
        rig.run([1, 2, 3, 4, 5, 6, 8])
        rig.run(IDS[:3])
        assert nmse(rig.run(IDS[3:], 3), want[3:]) < 1e-11


def test_layers_of_one_program_have_their_own_cache_and_state(kind):
    """The same layer twice, token by token, is the same as all tokens at once."""
    for page in (layer, recurrent_layer):
        with Rig(kind, *segments(page, page)) as rig:
            want = rig.run(IDS)
            for bound in rig.bounds:
                rig.device.clear_state(bound)
            got = np.concatenate([rig.run([token], pos) for pos, token in enumerate(IDS)])
            assert nmse(got, want) < 1e-11


# Experts


def chosen_experts(ids):
    """The experts that expert_layer's router likes best for any of these tokens, in float64."""
    w = {name: x.values() for name, x in TENSORS[expert_layer].items()}
    x = TENSORS[embedding]["token_embd"].values()[ids]
    h = x * w["norm"] / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + 1e-5)
    return set(np.argsort(-(h @ w["router"].T), axis=1)[:, :2].ravel().tolist())


def expert_entries(program, experts):
    return {w.first + e for w in program.weights if w.is_expert for e in experts}


@given(ids=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3), absent=st.sets(st.integers(0, 17)))
def test_a_run_stops_for_missing_experts_and_resumes(kind, ids, absent):
    """It names exactly the entries that this pass needs; experts that no token chose may stay away."""
    with Rig(kind, *segments(expert_layer)) as rig:
        want = rig.run(ids)
        bound = rig.bounds[1]
        program, table = bound.program, bound.table
        experts = sorted(expert_entries(program, range(6)))
        needed = expert_entries(program, chosen_experts(ids))
        home = {experts[i]: table[experts[i]] for i in absent}
        for entry in home:
            table[entry] = 0

        async def step():
            rig.device.begin(ids, 0, len(ids))
            await rig.device.run(rig.bounds[0:1], range(1))
            stop = await rig.device.run([bound], range(len(program.ops)))
            assert sorted(stop.missing) == sorted(needed & set(home))
            if stop.missing:
                assert program.ops[stop.next_op - 1].kernel == "route"
                for entry in stop.missing:
                    table[entry] = home[entry]
                stop = await rig.device.run([bound], range(stop.next_op, len(program.ops)))
            assert (stop.next_op, stop.missing) == (len(program.ops), ())
            await rig.device.run(rig.bounds[2:3], range(len(rig.bounds[2].program.ops)))

        asyncio.run(step())
        np.testing.assert_array_equal(rig.result(), want)


# Recurrent state


@given(ids=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12), cuts=st.sets(st.integers(1, 11)))
def test_recurrent_layers_give_the_same_for_any_split(kind, ids, cuts):
    """Rows of a call may be fewer than the taps; the window then keeps rows of calls before."""
    edges = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    with Rig(kind, *segments(recurrent_layer, recurrent_layer, stream), max_tokens=12) as rig:
        want = rig.run(ids)
        for _ in range(2):
            for bound in rig.bounds:
                rig.device.clear_state(bound)                    # starts anew, whatever came before
            got = [rig.run(ids[a:b], a) for a, b in itertools.pairwise(edges)]
            np.testing.assert_array_equal(np.concatenate(got), want)

    w = {name: x.values() for name, x in TENSORS[recurrent_layer].items()}
    x = TENSORS[embedding]["token_embd"].values()[ids]
    for _ in range(2):
        x = x + convolved(x * w["gain"], w["conv"])[0] * w["gain"]
    assert nmse(want, x) < 1e-12


# Cancelling


# An op on 64 rows of this width takes a millisecond or more, and no BLAS library, whose threads wait for busy cores.
WIDE, MANY = 1 << 16, 4000


def flips(n_ops):
    """A page that changes the sign of each value n_ops times."""

    def page(t, w):
        x = t.embed(w.table)
        for _ in range(n_ops):
            x = t.mul(x, w.minus)
        return t.last_rows(x)

    return page


@pytest.fixture
def long(kind):
    """A rig with a program of so many ops that no test waits for its end, and a short one; ids of a pass."""
    tensors = {"table": tensor(normal(1, (1, WIDE))), "minus": tensor([-1])}
    segments = [(record(flips(n), tensors), tensors) for n in (MANY, 3)]
    with Rig(kind, *segments, max_tokens=64) as rig:
        rig.device.begin([0] * 64, 0, 64)
        yield rig


def assert_usable(rig):
    """The short program still gives what it should, and soon: nothing of the long one is in its way."""
    started = time.perf_counter()
    asyncio.run(rig.device.run(rig.bounds[1:2], range(5)))
    assert time.perf_counter() - started < 1
    np.testing.assert_array_equal(rig.result(), np.repeat(-normal(1, (1, WIDE)), 64, axis=0))


def test_the_event_loop_has_turns_while_a_device_runs(long):
    async def main():
        ticks = 0
        run = asyncio.create_task(long.device.run(long.bounds[0:1], range(200)))
        while not run.done():
            await asyncio.sleep(0.001)
            ticks += 1
        return run.result().next_op, ticks

    next_op, ticks = asyncio.run(main())
    assert next_op == 200
    assert ticks >= 10


@pytest.mark.parametrize("times", [1, 3])
def test_cancelling_stops_between_ops_and_leaves_the_device_usable(long, times):
    """Also when the task is cancelled again while the run is leaving: whoever holds the buffers may free them after that."""

    async def main():
        run = asyncio.create_task(long.device.run(long.bounds[0:1], range(MANY)))
        await asyncio.sleep(0.05)
        started = time.perf_counter()
        for _ in range(times):
            run.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await run
        return time.perf_counter() - started

    assert asyncio.run(main()) < 1
    assert_usable(long)


def test_closing_ends_a_run_with_an_error(long):
    """close() is called by another task: the pass that it ends must not look like one that was finished."""

    async def main():
        run = asyncio.create_task(long.device.run(long.bounds[0:1], range(MANY)))
        await asyncio.sleep(0.05)
        started = time.perf_counter()
        long.device.close()
        long.device.close()
        with pytest.raises(DeviceError, match="closed"):
            await run
        assert time.perf_counter() - started < 1
        with pytest.raises(DeviceError, match="closed"):
            await long.device.run(long.bounds[0:1], range(1))

    asyncio.run(main())


# Logits and candidates


def rig_of_logits(kind, rows):
    """A device whose logits after a pass over range(len(rows)) are these."""
    tensors = {"rows": tensor(rows)}
    return Rig(kind, (record(lambda t, w: t.last_rows(t.embed(w.rows)), tensors), tensors))


def best(row, k, recent=(), penalty=1.0):
    """The definition: penalise, then sort by logit, ties by the lower id. Ids and logits, and the logits of the others."""
    row = [float(v) for v in row]
    for i in set(recent):
        row[i] = float(np.float32(row[i] / penalty if row[i] > 0 else row[i] * penalty))
    ids = sorted(range(len(row)), key=lambda i: (-row[i], i))
    return ids[:k], [row[i] for i in ids[:k]], [row[i] for i in ids[k:]]


def log_sum(logits, temperature):
    """log(sum(exp(logit / temperature))), -inf for none."""
    if not logits:
        return -math.inf
    top = max(logits)
    return top / temperature + math.log(math.fsum(math.exp((x - top) / temperature) for x in logits))


# How far the weight of the others may be off. The reference device sums in float64 (worst seen: 1e-15); the kernels take exp of
# float32 (worst seen: 2e-8), whose error decides one draw in 10**7.
REST = {REFERENCE: 1e-9, CPU: 1e-7, PLAIN: 1e-7, GPU: 1e-7}


# Logits are whole, so that many are equal, at the edge of the best k too. exp of a wide one overflows unless it is shifted.
@given(
    row=st.lists(st.integers(-4, 4), min_size=1, max_size=60),
    scale=st.sampled_from([1, 1000]),
    k=st.integers(1, 70),
    recent=st.lists(st.integers(0, 59), max_size=8),
    penalty=st.sampled_from([1.0, 1.25, 2.0]),
    temperature=st.sampled_from([0.0, 0.05, 0.7, 1.0, 3.0, 1e30]),
)
def test_candidates(kind, row, scale, k, recent, penalty, temperature):
    """Asked twice about one row, they are the same: a draw may need more of them."""
    recent, row = [i for i in recent if i < len(row)], [scale * x for x in row]
    rows = np.array([[9.0] * len(row), row], np.float32)         # the last row counts
    ids, logits, others = best(row, k, recent, penalty)
    with rig_of_logits(kind, rows) as rig:
        rig.run([0, 1])
        got = rig.candidates(k, recent, penalty, temperature)
        assert (list(got.ids), list(got.logits)) == (ids, logits)
        assert got.rest == pytest.approx(log_sum(others, 1.0), rel=REST[kind], abs=REST[kind])
        if temperature:
            assert got.rest_at == pytest.approx(log_sum(others, temperature), rel=REST[kind], abs=REST[kind])
        assert rig.candidates(k, recent, penalty, temperature) == got


@given(order=st.lists(st.integers(-3, 2), min_size=1, max_size=6), penalty=st.sampled_from([1.0, 2.0]), seed=st.integers(0, 99))
def test_candidates_of_any_row(kind, order, penalty, seed):
    """The rows of a pass, asked in any order, are each as in a pass of its own; one that is NaN spoils no other."""
    rows = np.random.default_rng(seed).standard_normal((6, 40)).astype(np.float32)
    rows[5, 7] = math.nan
    ask = (4, [1, 2, 3], penalty, 0.7)
    with rig_of_logits(kind, rows) as rig:
        alone = []
        for i in (2, 3, 4):
            rig.run([i])
            alone.append(rig.candidates(*ask))
        rig.run([0, 1, 2, 3, 4], n_out=3)
        assert [rig.candidates(*ask, row) for row in order] == [alone[row] for row in order]
        for row in (-4, 3):
            with pytest.raises(IndexError, match=f"row {row} .* gave 3"):
                rig.candidates(*ask, row)
        with pytest.raises(DeviceError, match="NaN"):
            rig.run([2, 5], n_out=2)
        assert rig.candidates(*ask, 0) == alone[0]
        with pytest.raises(DeviceError, match="NaN"):
            rig.candidates(*ask, 1)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1.7e308])
@pytest.mark.parametrize("row", [[3e38, 1e38, -3e38], [-3e38, -3e38, -3e38], [1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
def test_candidates_at_the_ends_of_the_range(kind, row, temperature):
    """No warning, no NaN: what is at hand is right, and `rest` is a number."""
    with rig_of_logits(kind, np.array([row], np.float32)) as rig:
        rig.run([0])
        got = rig.candidates(1, (), 1.0, temperature)
        assert list(got.ids) == [0]
        assert got.rest == pytest.approx(log_sum([float(np.float32(x)) for x in row[1:]], 1.0), rel=REST[kind])
        assert not math.isnan(got.rest_at)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_an_error(kind, wrong):
    rows = np.zeros((2, 9), np.float32)
    rows[1, 4] = wrong
    with rig_of_logits(kind, rows) as rig:
        with pytest.raises(DeviceError, match="NaN or infinity"):
            rig.run([1])
        with pytest.raises(DeviceError, match="NaN or infinity"):
            rig.candidates(3, (), 1.0, 1.0)
        np.testing.assert_array_equal(rig.run([0]), rows[:1])    # and the next pass is as good as ever


def test_damaged_weights_end_as_an_error_not_as_warnings(kind):
    """inf * 0 and inf - inf on the way to the logits: one DeviceError, nothing on stderr."""
    weights = np.full((7, 8), np.inf)
    weights[::2] = -np.inf
    tensors = {"table": tensor(np.eye(8)), "w": tensor(weights), "norm": tensor(np.ones(7))}
    program = record(lambda t, w: t.last_rows(t.rms_norm(t.matmul(w.w, t.embed(w.table)), w.norm, 1e-5)), tensors)
    with Rig(kind, (program, tensors)) as rig, pytest.raises(DeviceError, match="NaN or infinity"):
        rig.run([0, 1])


def test_logits_are_a_copy(kind):
    with Rig(kind, *segments(layer)) as rig:
        rig.run(IDS)
        first = asyncio.run(rig.device.logits(rig.bounds[-1]))
        assert (first.format, first.shape) == ("f", (len(IDS), VOCAB))
        before = first.tobytes()
        rig.run(IDS[::-1])
        assert first.tobytes() == before != asyncio.run(rig.device.logits(rig.bounds[-1])).tobytes()


@pytest.mark.parametrize(("n_tokens", "n_out"), [(0, 0), (9, 1), (4, 5), (4, -1)])
def test_a_pass_larger_than_its_buffers_is_refused(kind, n_tokens, n_out):
    """Compiled for 8 tokens: one more would be written over its neighbours in the arena."""

    def rows(t, w):
        return t.last_rows(t.embed(w.table))

    tensors = {"table": tensor(np.ones((9, 3)))}
    with Rig(kind, (record(rows, tensors), tensors), max_tokens=8) as rig:
        with pytest.raises(ValueError, match="compiled for 8 and 8"):
            rig.device.begin(range(n_tokens), 0, n_out)
        assert rig.run(range(8)).shape == (8, 3)
