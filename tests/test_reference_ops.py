"""Ops of other families on the reference device, against definitions in float64 that share nothing with it.

Bounds on the normalised squared error stand beside the tests: the worst seen over 600 random cases, times ten.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.programs import REFERENCE, nmse, normal, run_op, run_route, tensor
from wasmrt.program.ops import FUNCTIONS, SCORES

seeds = st.integers(0, 2**32 - 1)
few = st.integers(1, 5)
widths = st.integers(1, 300)
scales = st.sampled_from([1e-3, 1.0, 1e3])


def run(kernel, *ins, **params):
    return run_op(REFERENCE, kernel, *ins, **params)


# Norms


def normed(x, w, b, group, eps, center):
    """Each group of columns by itself. w, b: of a group's width, of a row's, or None."""
    rows, n = x.shape
    y = np.zeros((rows, n))
    for t in range(rows):
        for first in range(0, n, group):
            part = x[t, first : first + group].astype(np.float64)
            part = part - math.fsum(part) / group if center else part
            part = part / math.sqrt(math.fsum(part**2) / group + eps)
            for i in range(group):
                at = first + i
                scale = 1 if w is None else w[at if len(w) == n else i]
                y[t, at] = part[i] * scale + (0 if b is None else b[at if len(b) == n else i])
    return y


# Worst: 8e-15, for layer_norm in units of the row before its mean is taken off.
@given(
    kernel=st.sampled_from(["rms_norm", "layer_norm"]), rows=few, n_groups=st.integers(1, 7), group=st.integers(1, 80),
    w_is=st.sampled_from(["nothing", "group", "row", "matrix"]), b_is=st.sampled_from(["nothing", "group", "row"]),
    scale=scales, seed=seeds,
)  # fmt: skip
def test_norms_of_groups(kernel, rows, n_groups, group, w_is, b_is, scale, seed):
    x = normal(seed, (rows, n_groups * group), scale)
    sizes = {"group": group, "row": n_groups * group, "matrix": n_groups * group}
    w = normal(seed + 1, (sizes[w_is],)) if w_is in sizes else None
    b = normal(seed + 2, (sizes[b_is],)) if b_is in sizes and kernel == "layer_norm" else None
    ins = [None if w is None else tensor(w.reshape(n_groups, group) if w_is == "matrix" else w)]
    ins += [None if b is None else tensor(b)] if kernel == "layer_norm" else []
    got = run(kernel, x, *ins, eps=1e-5, group=group)
    want = normed(x, w, b, group, 1e-5, kernel == "layer_norm")
    assert nmse(got, want, np.abs(want) + (1 if kernel == "layer_norm" else 0)) < 8e-14


# Functions


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softplus(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def gelu(x):
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return x * sigmoid(2 * u)


def clip(x, low, high):
    return min(max(x, low), high)


EXACT = {
    "scale": lambda x, a, *_: x * a,
    "softcap": lambda x, a, *_: a * math.tanh(x / a),
    "clamp": lambda x, a, b, *_: clip(x, a, b),
    "gelu": lambda x, *_: gelu(x),
    "gelu_erf": lambda x, *_: x / 2 * math.erfc(-x / math.sqrt(2)),
    "gelu_quick": lambda x, *_: x * sigmoid(1.702 * x),
    "silu": lambda x, *_: x * sigmoid(x),
    "relu": lambda x, *_: max(x, 0),
    "relu2": lambda x, *_: max(x, 0) ** 2,
    "sigmoid": lambda x, *_: sigmoid(x),
    "softplus": lambda x, *_: softplus(x),
    "tanh": lambda x, *_: math.tanh(x),
    "exp": lambda x, *_: math.exp(x),
    "xielu": lambda x, a, b, c, d: b * x * x + c * x if x > 0 else a * (math.expm1(min(x, d)) - x) + c * x,
}
NUMBERS = {"scale": (0.37,), "softcap": (30.0,), "clamp": (-1.5, 2.5), "xielu": (0.8, 1.2, 0.5, -1e-6)}


def exactly(function, x):
    """The function of each element in float64."""
    numbers = (*map(float, np.float32(NUMBERS.get(function, ()))), 0.0, 0.0, 0.0, 0.0)
    flat = [EXACT[function](float(v), *numbers[:4]) for v in x.ravel()]
    return np.array(flat, np.float64).reshape(x.shape)


def test_every_function_has_a_truth():
    assert set(EXACT) == set(FUNCTIONS)


# Worst: 1e-7 of an element or of 1, whichever is more.
@pytest.mark.parametrize("function", FUNCTIONS)
def test_unary(function):
    x = np.concatenate([np.linspace(-30, 30, 6001), np.linspace(-0.01, 0.01, 201)]).astype(np.float32).reshape(2, -1)
    numbers = dict(zip("abcd", NUMBERS.get(function, ()), strict=False))
    got, want = run("unary", x, function=function, **numbers), exactly(function, x)
    assert np.max(np.abs(got - want) / np.maximum(np.abs(want), 1)) < 1e-6


# Worst: 8e-13.
@given(rows=few, n=widths, scale=st.sampled_from([0.1, 1.0, 9.0]), seed=seeds)
def test_gated_activations(rows, n, scale, seed):
    """Where gelu is almost 0, 1 + tanh has lost its digits, and up + 1 where up is almost -1: errors go with gate and up."""
    gate, up = normal(seed, (rows, n), scale), normal(seed + 1, (rows, n), scale)
    want = [[gelu(float(g)) * u for g, u in zip(*pair, strict=True)] for pair in zip(gate, up, strict=True)]
    assert nmse(run("geglu", gate, up), want, gate * up) < 8e-12
    kept = [[min(g, 7) * sigmoid(float(np.float32(1.702)) * min(g, 7)) for g in row] for row in gate.astype(float).tolist()]
    want = np.array(kept) * (np.clip(up.astype(np.float64), -7, 7) + 1)
    assert nmse(run("swiglu_oai", gate, up, alpha=1.702, limit=7.0), want, np.array(kept) * (np.abs(up) + 1)) < 8e-12


# Columns and rows


@given(rows=few, n_groups=st.integers(1, 6), group=st.integers(1, 40), data=st.data())
def test_columns(rows, n_groups, group, data):
    start = data.draw(st.integers(0, group - 1))
    n = data.draw(st.integers(1, group - start))
    x = normal(rows, (rows, n_groups * group))
    want = [[x[t, g * group + start + i] for g in range(n_groups) for i in range(n)] for t in range(rows)]
    np.testing.assert_array_equal(run("columns", x, start=start, n=n, group=group), want)


@given(rows=few, n_groups=st.integers(1, 6), n_x=st.integers(1, 40), n_y=st.integers(1, 40))
def test_concat(rows, n_groups, n_x, n_y):
    x, y = normal(rows, (rows, n_groups * n_x)), normal(rows + 1, (rows, n_groups * n_y))
    groups = [(slice(g * n_x, (g + 1) * n_x), slice(g * n_y, (g + 1) * n_y)) for g in range(n_groups)]
    want = [[v for of_x, of_y in groups for v in (*x[t, of_x], *y[t, of_y])] for t in range(rows)]
    np.testing.assert_array_equal(run("concat", x, y, n_groups=n_groups), want)


@given(rows=few, n=widths, pos=st.integers(0, 9), seed=seeds)
def test_add_position(rows, n, pos, seed):
    x, w = normal(seed, (rows, n)), normal(seed + 1, (pos + rows, n))
    np.testing.assert_array_equal(run("add_position", x, w, pos=pos), x + w[pos:])


# Worst: 7e-15.
@given(rows=few, n=widths, pos=st.sampled_from([0, 3, 8190, 100000]), offset=st.sampled_from([0.0, 1.0]), seed=seeds)
def test_temper(rows, n, pos, offset, seed):
    x = normal(seed, (rows, n))
    factor = [1 + 0.1 * math.log(1 + (pos + t + int(offset)) // 8192) for t in range(rows)]
    assert nmse(run("temper", x, pos=pos, length=8192.0, scale=0.1, offset=offset), x * np.array(factor)[:, None]) < 7e-14


# Products


# Worst: 3e-14.
@given(rows=few, n_heads=st.integers(1, 5), n=st.integers(1, 90), m=st.integers(1, 30), seed=seeds)
def test_head_matmul(rows, n_heads, n, m, seed):
    x, w = normal(seed, (rows, n_heads, n)), normal(seed + 1, (n_heads, m, n))
    terms = x.astype(np.float64)[:, :, None, :] * w
    got = run("head_matmul", w, x.reshape(rows, -1), n_heads=n_heads).reshape(rows, n_heads, m)
    assert nmse(got, terms.sum(axis=-1), np.linalg.norm(terms, axis=-1)) < 3e-13


# Worst: 8e-14.
@given(rows=few, n=widths, seed=seeds)
def test_matmul_by_one_row(rows, n, seed):
    x, w = normal(seed, (rows, n)), normal(seed + 1, (n,))
    terms = x.astype(np.float64) * w
    assert nmse(run("matmul", w, x), terms.sum(axis=1, keepdims=True), np.linalg.norm(terms, axis=1, keepdims=True)) < 8e-13


# Attention


def attended(q, keys, values, pos, n_heads, n_kv_heads, scale, window=0, chunked=False, softcap=0.0, slopes=None, sinks=None):
    """Query by query and head by head in float64, and the size of the sums."""
    q, keys, values = (a.astype(np.float64) for a in (q, keys, values))
    d, dv = q.shape[1] // n_heads, values.shape[1] // n_kv_heads
    out = np.zeros((len(q), n_heads * dv))
    size = np.zeros_like(out)
    for t in range(len(q)):
        at = pos + t
        first = 0 if not window else at // window * window if chunked else max(0, at - window + 1)
        for h in range(n_heads):
            g = h * n_kv_heads // n_heads
            scores = scale * (keys[first : at + 1, g * d : (g + 1) * d] @ q[t, h * d : (h + 1) * d])
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            if slopes is not None:
                scores = scores - slopes[h] * np.arange(at - first, -1, -1)
            most = max(scores.max(), -math.inf if sinks is None else sinks[h])
            weights = np.exp(scores - most)
            total = weights.sum() + (0 if sinks is None else math.exp(sinks[h] - most))
            seen = values[first : at + 1, g * dv : (g + 1) * dv]
            out[t, h * dv : (h + 1) * dv] = weights @ seen / total
            size[t, h * dv : (h + 1) * dv] = np.sqrt(weights**2 @ seen**2) / total
    return out, size


# From the paper (2108.12409), and its authors' code for numbers of heads that are no powers of two.
SLOPES = {
    8: [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256],
    4: [1 / 4, 1 / 16, 1 / 64, 1 / 256],
    6: [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8],
    12: [*(2.0 ** -(i + 1) for i in range(8)), *(2.0 ** -(i + 0.5) for i in range(4))],
}


# Worst: 2e-13.
@given(
    rows=few, pos=st.integers(0, 90), heads=st.sampled_from([(4, 4), (4, 1), (6, 3), (8, 2), (12, 4)]), d=st.integers(1, 33),
    dv=st.integers(1, 33), window=st.sampled_from([0, 1, 2, 5, 63, 64, 65]), chunked=st.booleans(),
    softcap=st.sampled_from([0.0, 2.0, 50.0]), biased=st.booleans(), sinking=st.booleans(), seed=seeds,
)  # fmt: skip
def test_attention(rows, pos, heads, d, dv, window, chunked, softcap, biased, sinking, seed):
    n_heads, n_kv_heads = heads
    q, scale = normal(seed, (rows, n_heads * d)), 1 / math.sqrt(d)
    keys, values = normal(seed + 1, (pos + rows, n_kv_heads * d)), normal(seed + 2, (pos + rows, n_kv_heads * dv))
    sinks = normal(seed + 3, (n_heads,), 3) if sinking else None
    got = run(
        "attention", q, keys, values, tensor(sinks) if sinking else None, pos=pos, n_heads=n_heads, n_kv_heads=n_kv_heads,
        scale=scale, window=window, chunked=chunked, softcap=softcap, max_bias=8.0 if biased else 0.0,
    )  # fmt: skip
    variants = window, chunked, softcap, SLOPES[n_heads] if biased else None, sinks
    assert nmse(got, *attended(q, keys, values, pos, n_heads, n_kv_heads, scale, *variants)) < 2e-12


# Experts


def routed(logits, bias, n_used, score, normalize, scale, n_groups, n_groups_used):
    """One token's experts and weights, by sorting in Python."""
    n = len(logits)
    likely = [math.exp(v - max(logits)) for v in logits]
    softmax = [v / math.fsum(likely) for v in likely]
    scores = {"softmax": softmax, "sigmoid": [sigmoid(v) for v in logits], "chosen": list(logits)}[score]
    wanted = [s + (0 if bias is None else float(bias[e])) for e, s in enumerate(scores)]
    size = n // n_groups
    best = [math.fsum(sorted(wanted[g * size : (g + 1) * size])[-2:]) for g in range(n_groups)]
    groups = sorted(range(n_groups), key=lambda g: (-best[g], g))[:n_groups_used]
    experts = sorted((e for e in range(n) if e // size in groups), key=lambda e: (-wanted[e], e))[:n_used]
    weights = [scores[e] for e in experts]
    if score == "chosen":
        weights = [math.exp(v - max(weights)) for v in weights]
        weights = [v / math.fsum(weights) for v in weights]
    if normalize:
        weights = [v / max(math.fsum(weights), 2.0**-14) for v in weights]
    return experts, [v * scale for v in weights]


@st.composite
def routes(draw):
    """Logits, a bias or None, and the parameters. Logits are whole steps apart and biases far from each other: no near ties."""
    n_groups, per_group, rows = draw(st.sampled_from([1, 1, 2, 4, 8])), draw(st.integers(1, 9)), draw(few)
    n, rng = n_groups * per_group, np.random.default_rng(draw(seeds))
    n_groups_used = draw(st.integers(1, n_groups))
    logits = np.array([rng.permutation(n) / 8 - n / 16 for _ in range(rows)], np.float32)
    bias = (rng.permutation(n) * 0.37).astype(np.float32) if draw(st.booleans()) else None
    params = {
        "n_used": draw(st.integers(1, n_groups_used * per_group)), "score": draw(st.sampled_from(SCORES)),
        "normalize": draw(st.booleans()), "scale": draw(st.sampled_from([1.0, 2.5])), "n_groups": n_groups,
        "n_groups_used": n_groups_used,
    }  # fmt: skip
    return logits, bias, params


# Worst: 3e-14.
@given(case=routes())
def test_route(case):
    logits, bias, params = case
    experts, weights = run_route(REFERENCE, logits, bias=None if bias is None else tensor(bias), **params)
    for t in range(len(logits)):
        want_experts, want_weights = routed([float(v) for v in logits[t]], bias, **params)
        assert experts[t].tolist() == want_experts
        assert nmse(weights[t], want_weights) < 3e-13


def test_weights_that_are_almost_nothing_are_not_blown_up():
    """ggml divides by 2^-14 or more."""
    _, weights = run_route(REFERENCE, np.full((1, 4), -20, np.float32), 2, score="sigmoid")
    np.testing.assert_allclose(weights, math.exp(-20) * 2**14, rtol=1e-6)


@given(rows=few, n=st.integers(1, 60), n_experts=st.integers(1, 9), data=st.data(), seed=seeds)
def test_expert_add_spread_and_plain_sum(rows, n, n_experts, data, seed):
    n_used = data.draw(st.integers(1, n_experts))
    rng = np.random.default_rng(seed)
    experts = np.array([rng.permutation(n_experts)[:n_used] for _ in range(rows)], np.int32)
    x, w, weights = normal(seed, (rows, n_used, n)), normal(seed + 1, (n_experts, n)), normal(seed + 2, (rows, n_used))
    want = [[x[t, u] + w[experts[t, u]] for u in range(n_used)] for t in range(rows)]
    np.testing.assert_array_equal(run("expert_add", x.reshape(rows, -1), w, experts).reshape(rows, n_used, n), want)
    want = [[x[t, 0] * weights[t, u] for u in range(n_used)] for t in range(rows)]
    np.testing.assert_array_equal(run("expert_spread", x[:, 0], weights).reshape(rows, n_used, n), want)
    want = x.astype(np.float64).sum(axis=1)                      # worst: 2e-14
    assert nmse(run("expert_sum", x.reshape(rows, -1), None, n_used=n_used), want, np.linalg.norm(x, axis=1)) < 2e-13


# Recurrences


def scanned(x, dt, b, c, a, d, n_heads, n_groups):
    """y and the size of its sums, number by number. a: (n_heads, 1 or n)."""
    rows, p, n = len(x), x.shape[1] // n_heads, b.shape[1] // n_groups
    y, size = np.zeros(x.shape), np.zeros(x.shape)
    for h in range(n_heads):
        g = h // (n_heads // n_groups)
        for i in range(h * p, (h + 1) * p):
            s = [0.0] * n
            for t in range(rows):
                step = softplus(float(dt[t, h]))
                skip = 0.0 if d is None else float(d[h]) * float(x[t, i])
                terms = [skip]
                for j in range(n):
                    s[j] = s[j] * math.exp(step * float(a[h, j % a.shape[1]])) + step * float(x[t, i]) * float(b[t, g * n + j])
                    terms.append(s[j] * float(c[t, g * n + j]))
                y[t, i], size[t, i] = math.fsum(terms), math.hypot(*terms)
    return y, size


# Worst: 7e-14.
@given(
    rows=st.integers(1, 9), heads=st.sampled_from([(1, 1), (6, 1), (6, 2), (4, 4)]), p=st.integers(1, 5), n=st.integers(1, 12),
    one_decay=st.booleans(), skip=st.booleans(), seed=seeds,
)  # fmt: skip
def test_ssm_scan(rows, heads, p, n, one_decay, skip, seed):
    n_heads, n_groups = heads
    x, dt = normal(seed, (rows, n_heads * p)), normal(seed + 1, (rows, n_heads), 3)
    b, c = normal(seed + 2, (rows, n_groups * n)), normal(seed + 3, (rows, n_groups * n))
    a = -np.exp(normal(seed + 4, (n_heads, 1 if one_decay else n)))
    d = normal(seed + 5, (n_heads,)) if skip else None
    got = run("ssm_scan", x, dt, b, c, tensor(a), tensor(d) if skip else None, n_groups=n_groups)
    assert nmse(got, *scanned(x, dt, b, c, a, d, n_heads, n_groups)) < 7e-13


def delta_rule(q, k, v, g, beta, n_k_heads, scale, tiled):
    """y, number by number."""
    rows, n_heads = g.shape
    n, m = q.shape[1] // n_k_heads, v.shape[1] // n_heads
    y = np.zeros(v.shape)
    for h in range(n_heads):
        at = (h % n_k_heads if tiled else h // (n_heads // n_k_heads)) * n
        s = [[0.0] * m for _ in range(n)]
        for t in range(rows):
            decay = math.exp(float(g[t, h]))
            s = [[value * decay for value in row] for row in s]
            for j in range(m):
                told = math.fsum(s[i][j] * float(k[t, at + i]) for i in range(n))
                u = float(beta[t, h]) * (float(v[t, h * m + j]) - told)
                for i in range(n):
                    s[i][j] += float(k[t, at + i]) * u
                y[t, h * m + j] = scale * math.fsum(s[i][j] * float(q[t, at + i]) for i in range(n))
    return y


@st.composite
def deltas(draw, rows):
    """The inputs of delta_net and its parameters. Keys and queries have length 1, as models make them."""
    n_k_heads, repeat, n, m = (draw(st.integers(1, most)) for most in (3, 3, 12, 12))
    n_heads, rows, seed = n_k_heads * repeat, draw(rows), draw(seeds)
    q, k = (normal(seed + i, (rows, n_k_heads, n)) for i in range(2))
    q, k = ((x / np.linalg.norm(x, axis=-1, keepdims=True)).reshape(rows, -1) for x in (q, k))
    v, g = normal(seed + 2, (rows, n_heads * m)), -np.exp(normal(seed + 3, (rows, n_heads)))
    beta = np.random.default_rng(seed).uniform(0, 1, (rows, n_heads)).astype(np.float32)
    return (q, k, v, g, beta), {"n_k_heads": n_k_heads, "scale": n**-0.5, "tiled": draw(st.booleans())}


# Worst: 2e-14.
@given(case=deltas(st.integers(1, 9)))
def test_delta_net(case):
    ins, params = case
    want = delta_rule(*ins, **params)
    assert nmse(run("delta_net", *ins, **params), want, np.abs(want) + 0.1 * params["scale"]) < 2e-13
