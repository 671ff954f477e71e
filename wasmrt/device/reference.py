"""What every op means: pure functions of numpy arrays, slow and plain. All devices are held against them.

Shapes: T tokens, n elements a row. Activations are float32; sums are numpy's, in float32. reference_device.py runs programs by
these functions.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from wasmrt.errors import DeviceError
from wasmrt.gguf.quants import dequantize
from wasmrt.program.ops import Weight
from wasmrt.store.memory import HostMemory, Words

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

# Weights are dequantized and attention scores computed this many elements at a time, so that a run needs little memory beyond
# the plan's.
AT_ONCE = 1 << 20
LEAST_TOTAL = 2.0**-14  # the smallest normal f16, to which ggml raises the sum that experts' weights are divided by


class Packed:
    """A weight in memory: GGUF blocks, found through the address table. Rows become float32 when an op asks for them."""

    def __init__(self, weight: Weight, table: Words, memory: HostMemory) -> None:
        self._weight, self._table, self._memory = weight, table, memory
        self.n = weight.shape[0]
        self.n_rows = weight.shape[1] if len(weight.shape) > 1 else 1

    def has(self, expert: int) -> bool:
        """Whether an expert's matrix is in memory."""
        return self._table[self._weight.first + expert] != 0

    def rows(self, start: int, stop: int, expert: int = 0) -> F32:
        """Rows [start, stop) within one entry, as float32 (stop - start, n)."""
        w = self._weight
        entry = w.first + (expert if len(w.shape) == 3 else start // w.rows_per_entry)
        address = self._table[entry]
        if address == 0:
            raise DeviceError(f"tensor {w.name!r} is not in memory (entry {entry} of its segment): load it before this op runs")
        row_bytes = w.type.row_bytes(self.n)
        first = start % w.rows_per_entry
        data = self._memory.view(address + first * row_bytes, (stop - start) * row_bytes)
        return dequantize(w.type, np.frombuffer(data, np.uint8), stop - start, self.n)

    def chunks(self, first: int = 0, n_rows: int | None = None, expert: int = 0) -> Iterator[tuple[slice, F32]]:
        """n_rows rows (None: all) from `first` on, a chunk at a time, with where they are among these."""
        per_entry, last = self._weight.rows_per_entry, self.n_rows if n_rows is None else first + n_rows
        at_once = max(1, AT_ONCE // self.n)
        start = first
        while start < last:
            stop = min(start + at_once, (start // per_entry + 1) * per_entry, last)
            yield slice(start - first, stop - first), self.rows(start, stop, expert)
            start = stop


# The ops. `w` is Packed, or an array where one has been made from it.


def embed(w: Packed, tokens: I32) -> F32:
    """Row `token` of w for each token: (T,) to (T, n)."""
    return np.concatenate([w.rows(token, token + 1) for token in tokens.tolist()])


def rms_norm(x: F32, w: F32 | None, eps: float, group: int) -> F32:
    """x * w / sqrt(mean(x^2) + eps), `group` elements of a row at a time. Source: Zhang & Sennrich 2019, arXiv 1910.07467.

    w has `group` numbers, for each group the same, or as many as a row.
    """
    y = x.reshape(len(x), -1, group)
    y = y / np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + np.float32(eps))
    return (y if w is None else y * w.reshape(-1, group)).reshape(x.shape)


def layer_norm(x: F32, w: F32 | None, b: F32 | None, eps: float, group: int) -> F32:
    """(x - mean(x)) * w / sqrt(variance(x) + eps) + b, in groups as rms_norm. Source: Ba et al. 2016, arXiv 1607.06450."""
    y = x.reshape(len(x), -1, group)
    y = y - np.mean(y, axis=-1, keepdims=True)
    y = y / np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + np.float32(eps))
    y = y if w is None else y * w.reshape(-1, group)
    return (y if b is None else y + b.reshape(-1, group)).reshape(x.shape)


def softmax(x: F32) -> F32:
    """exp(x), scaled so that a row adds to 1."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def matmul(w: Packed, x: F32, first_row: int, n_rows: int) -> F32:
    """x (T, n) times n_rows rows of w (m, n), which are columns of the output: (T, n_rows)."""
    y = np.empty((len(x), n_rows), np.float32)
    for rows, block in w.chunks(first_row, n_rows):
        y[:, rows] = x @ block.T
    return y


def add(x: F32, y: F32) -> F32:
    """x + y; y may be one row or one number for all rows."""
    return x + y


def mul(x: F32, y: F32) -> F32:
    """x * y; y may be one row or one number for all rows."""
    return x * y


def div(x: F32, y: F32) -> F32:
    """x / y; y may be one row or one number for all rows."""
    return x / y


def swiglu(gate: F32, up: F32) -> F32:
    """silu(gate) * up, silu(x) = x / (1 + exp(-x)). Source: Shazeer 2020, arXiv 2002.05202."""
    with np.errstate(over="ignore"):  # exp(-x) is inf for x < -88, and x / inf is the 0 that is meant
        return gate / (1 + np.exp(-gate)) * up


def rope(
    x: F32,
    factors: F32 | None,
    pos: int,
    head_dim: int,
    n_dims: int,
    style: str,
    base: float,
    scale: float,
    magnitude: float,
    extrapolation: float,
    ramp_low: float,
    ramp_high: float,
) -> F32:
    """Rotate the first n_dims elements of each head by angles that grow with position. Parameters: program/record.py Rope.

    Pair i turns by position * base^(-2i/n_dims) / factors[i]. Angles are computed in float64.
    """
    pairs = np.arange(n_dims // 2)
    angle = base ** (-2.0 * pairs / n_dims) / (1.0 if factors is None else factors.reshape(-1).astype(np.float64))
    ramp = extrapolation * (1 - np.clip((pairs - ramp_low) / max(0.001, ramp_high - ramp_low), 0, 1))
    angle = angle * (scale * (1 - ramp) + ramp)
    turn = np.arange(pos, pos + len(x))[:, None, None] * angle  # (T, 1, pairs)
    cos, sin = (magnitude * np.cos(turn)).astype(np.float32), (magnitude * np.sin(turn)).astype(np.float32)
    y = x.reshape(len(x), -1, head_dim).copy()
    if style == "pairs":
        first, second = slice(0, n_dims, 2), slice(1, n_dims, 2)
    else:
        first, second = slice(0, n_dims // 2), slice(n_dims // 2, n_dims)
    a, b = y[..., first].copy(), y[..., second].copy()
    y[..., first] = a * cos - b * sin
    y[..., second] = a * sin + b * cos
    return y.reshape(x.shape)


def store_kv(keys: F32, values: F32, k: F32, v: F32, pos: int) -> None:
    """Keep the rows of these tokens: positions pos .. pos + T of the layer's cache."""
    keys[pos : pos + len(k)] = k
    values[pos : pos + len(v)] = v


def attention(
    q: F32,
    keys: F32,
    values: F32,
    sinks: F32 | None,
    pos: int,
    n_heads: int,
    n_kv_heads: int,
    scale: float,
    window: int,
    chunked: int,
    softcap: float,
    max_bias: float,
) -> F32:
    """Causal attention of T queries at positions pos .. over all that is cached: softmax(scale * q k^T) v.

    q: (T, n_heads * d), query heads in groups that share a key head. Returns (T, n_heads * d_v).
    window: a query sees the last `window` positions, itself included (arXiv 2004.05150); if chunked, those since the last
    multiple of it. softcap: scores become softcap * tanh(score / softcap) (arXiv 2408.00118). max_bias: scores lose their
    distance times a slope of each head (ALiBi, arXiv 2108.12409). sinks: of each head a score without a value (arXiv
    2508.10925).
    """
    n_tokens, end = len(q), pos + len(q)
    group = n_heads // n_kv_heads
    q = q.reshape(n_tokens, n_kv_heads, group, -1)
    k = keys[:end].reshape(end, n_kv_heads, -1)
    v = values[:end].reshape(end, n_kv_heads, -1)
    out = np.empty((n_tokens, n_kv_heads, group, v.shape[-1]), np.float32)
    step = max(1, AT_ONCE // (group * end))
    for first in range(0, n_tokens, step):
        some = slice(first, first + step)
        positions = np.arange(pos, end)[some]
        distance = positions[:, None, None] - np.arange(end)
        hidden = distance < 0  # keys after the query's own position
        if window:
            hidden |= distance > (positions[:, None, None] % window if chunked else window - 1)
        for h in range(n_kv_heads):
            scores = np.einsum("tgd,nd->tgn", q[some, h], k[:, h], optimize=True) * np.float32(scale)
            if softcap:
                scores = np.float32(softcap) * np.tanh(scores / np.float32(softcap))
            if max_bias:
                slopes = alibi_slopes(n_heads, max_bias)[h * group : (h + 1) * group]
                scores = scores - slopes[:, None] * distance.astype(np.float32)
            scores = np.where(hidden, np.float32(-np.inf), scores)
            if sinks is None:
                share = softmax(scores)
            else:
                sink = np.broadcast_to(sinks[h * group : (h + 1) * group, None], (*scores.shape[:2], 1))
                share = softmax(np.concatenate([scores, sink], axis=-1))[..., :-1]
            out[some, h] = np.einsum("tgn,nd->tgd", share, v[:, h], optimize=True)
    return out.reshape(n_tokens, -1)


def alibi_slopes(n_heads: int, max_bias: float) -> F32:
    """Of each head: powers of 2^(-max_bias / n), n the largest power of two up to n_heads; those past it lie between."""
    n = 1 << (n_heads.bit_length() - 1)
    first = [2.0 ** (-max_bias * (h + 1) / n) for h in range(n)]
    between = [2.0 ** (-max_bias * (2 * h + 1) / (2 * n)) for h in range(n_heads - n)]
    return np.array(first + between, np.float32)


def last_rows(x: F32, n_out: int) -> F32:
    """The last n_out rows."""
    return x[len(x) - n_out :]


def route(
    logits: F32,
    bias: F32 | None,
    n_used: int,
    score: str,
    normalize: int,
    scale: float,
    n_groups: int,
    n_groups_used: int,
) -> tuple[I32, F32]:
    """The n_used likeliest experts of each token, best first (ties: the lower id), and their weights: scores, times `scale`.

    score: "softmax" or "sigmoid" of the logits, or "chosen", the softmax of those that are chosen alone. bias is added where
    experts are chosen, not where they are weighed. Of n_groups groups those n_groups_used take part whose two best add to most.
    Sources: arXiv 2401.04088 (Mixtral), 2412.19437 (DeepSeek-V3: sigmoid, bias, groups), 2508.10925 (gpt-oss: chosen).
    """
    given = softmax(logits) if score == "softmax" else sigmoid(logits) if score == "sigmoid" else logits
    wanted = given if bias is None else given + bias
    if n_groups > 1:
        groups = wanted.reshape(len(wanted), n_groups, -1)
        best = np.sort(groups, axis=-1)[..., -2:].sum(axis=-1)
        out = np.argsort(-best, axis=-1, kind="stable")[:, n_groups_used:]
        groups = groups.copy()
        np.put_along_axis(groups, out[..., None], np.float32(-np.inf), axis=1)
        wanted = groups.reshape(wanted.shape)
    experts = np.argsort(-wanted, axis=-1, kind="stable")[:, :n_used].astype(np.int32)
    weights = np.take_along_axis(given, experts, axis=-1)
    if score == "chosen":
        weights = softmax(weights)
    if normalize:
        weights = weights / np.maximum(weights.sum(axis=-1, keepdims=True), np.float32(LEAST_TOTAL))
    return experts, weights * np.float32(scale)


def sigmoid(x: F32) -> F32:
    """1 / (1 + exp(-x))."""
    e = np.exp(-x)
    return np.reciprocal(1 + e, dtype=np.float32)


def expert_matmul(w: Packed, x: F32, experts: I32) -> F32:
    """Token t's rows through each of its experts: x (T, n) or (T, n_used * n), to (T, n_used * m)."""
    n_tokens, n_used = experts.shape
    rows = np.broadcast_to(x.reshape(n_tokens, -1, w.n), (n_tokens, n_used, w.n))
    y = np.empty((n_tokens, n_used, w.n_rows), np.float32)
    for expert in np.unique(experts).tolist():
        chosen = experts == expert
        for columns, block in w.chunks(expert=expert):
            y[chosen, columns] = rows[chosen] @ block.T
    return y.reshape(n_tokens, -1)


def expert_mul(x: F32, w: F32, experts: I32) -> F32:
    """What expert e gave, times w[e]."""
    n_tokens, n_used = experts.shape
    return (x.reshape(n_tokens, n_used, -1) * w.reshape(-1)[experts][..., None]).reshape(x.shape)


def expert_add(x: F32, w: F32, experts: I32) -> F32:
    """What expert e gave, plus row e of w: (T, n_used * m), (n_experts, m)."""
    return x + w[experts].reshape(x.shape)


def expert_spread(x: F32, weights: F32) -> F32:
    """Each token's row times each of its weights: (T, n), (T, n_used) to (T, n_used * n)."""
    return (weights[:, :, None] * x[:, None, :]).reshape(len(x), -1)


def expert_sum(x: F32, weights: F32 | None, n_used: int) -> F32:
    """The sum of what a token's experts gave, weighted if there are weights: (T, n_used * n), (T, n_used) to (T, n)."""
    y = x.reshape(len(x), n_used, -1)
    return y.sum(axis=1) if weights is None else np.einsum("tun,tu->tn", y, weights)


def causal_conv(window: F32, x: F32, w: F32) -> F32:
    """y[t, i] = sum over j of w[i, j] * x[t - taps + 1 + j, i]; `window` holds the rows before x and is moved on.

    x: (T, n), w: (n, taps), window: (taps - 1, n).
    """
    taps = w.shape[1]
    past = np.concatenate([window.reshape(taps - 1, -1), x])
    window[...] = past[len(x) :].reshape(window.shape)
    return np.sum([past[j : j + len(x)] * w[:, j] for j in range(taps)], axis=0, dtype=np.float32)


def unary(x: F32, function: str, a: float, b: float, c: float, d: float) -> F32:
    """One of UNARY of each element."""
    return UNARY[function](x, *map(np.float32, (a, b, c, d)))


def xielu(x: F32, alpha_n: np.float32, alpha_p: np.float32, beta: np.float32, eps: np.float32) -> F32:
    """alpha_p x^2 + beta x above 0, else alpha_n (exp(min(x, eps)) - 1 - x) + beta x. Source: arXiv 2411.13010."""
    below = alpha_n * (np.expm1(np.minimum(x, eps)) - x) + beta * x
    return np.where(x > 0, alpha_p * x * x + beta * x, below)


def gelu(x: F32) -> F32:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). Source: Hendrycks & Gimpel 2016, arXiv 1606.08415."""
    return np.float32(0.5) * x * (1 + np.tanh(np.float32(0.7978845608) * x * (1 + np.float32(0.044715) * x * x)))


ERFC_FIT = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
)  # fmt: skip


def erf(x: F32) -> F32:
    """The error function, to 1.2e-7. Source: Numerical Recipes, erfc by Chebyshev fitting."""
    z = np.abs(x.astype(np.float64))
    t = 1 / (1 + z / 2)
    tail = t * np.exp(-z * z + np.polynomial.polynomial.polyval(t, ERFC_FIT))
    return np.copysign(1 - tail, x).astype(np.float32)


UNARY: dict[str, Callable[..., F32]] = {
    "scale": lambda x, a, *_: x * a,
    "softcap": lambda x, a, *_: a * np.tanh(x / a),
    "clamp": lambda x, a, b, *_: np.clip(x, a, b),
    "gelu": lambda x, *_: gelu(x),
    "gelu_erf": lambda x, *_: np.float32(0.5) * x * (1 + erf(x * np.float32(math.sqrt(0.5)))),
    "gelu_quick": lambda x, *_: x * sigmoid(np.float32(1.702) * x),
    "silu": lambda x, *_: x * sigmoid(x),
    "relu": lambda x, *_: np.maximum(x, 0),
    "relu2": lambda x, *_: np.maximum(x, 0) ** 2,
    "sigmoid": lambda x, *_: sigmoid(x),
    "softplus": lambda x, *_: softplus(x),
    "tanh": lambda x, *_: np.tanh(x),
    "exp": lambda x, *_: np.exp(x),
    "xielu": xielu,
}


def softplus(x: F32) -> F32:
    """log(1 + exp(x)); x itself above 20."""
    return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20))))


def geglu(gate: F32, up: F32) -> F32:
    """gelu(gate) * up. Source: Shazeer 2020, arXiv 2002.05202."""
    return gelu(gate) * up


def swiglu_oai(gate: F32, up: F32, alpha: float, limit: float) -> F32:
    """gate' * sigmoid(alpha gate') * (up' + 1), gate' at most limit, up' from -limit to limit. Source: arXiv 2508.10925."""
    gate, up = np.minimum(gate, np.float32(limit)), np.clip(up, np.float32(-limit), np.float32(limit))
    return gate * sigmoid(np.float32(alpha) * gate) * (up + 1)


def columns(x: F32, group: int, start: int, n: int) -> F32:
    """Columns start .. start + n of each group of columns."""
    return x.reshape(len(x), -1, group)[..., start : start + n].reshape(len(x), -1)


def concat(x: F32, y: F32, group_x: int, group_y: int) -> F32:
    """Of each group of columns x's, then y's."""
    parts = [part.reshape(len(part), -1, group) for part, group in ((x, group_x), (y, group_y))]
    return np.concatenate(parts, axis=-1).reshape(len(x), -1)


def add_position(x: F32, w: F32, pos: int) -> F32:
    """x plus rows pos .. pos + T of w."""
    return x + w[pos : pos + len(x)]


def temper(x: F32, pos: int, length: float, scale: float, offset: float) -> F32:
    """Row t times 1 + scale * log(1 + floor((pos + t + offset) / length)). Source: Llama 4, arXiv 2501.19399."""
    at = np.arange(pos, pos + len(x), dtype=np.float64) + offset
    return x * (1 + scale * np.log1p(np.floor(at / length))).astype(np.float32)[:, None]


def head_matmul(w: Packed, x: F32, n_heads: int) -> F32:
    """Part h of each row times matrix h of w (n, m, n_heads): (T, n_heads * n) to (T, n_heads * m)."""
    parts = x.reshape(len(x), n_heads, w.n)
    y = np.empty((len(x), n_heads, w.n_rows), np.float32)
    for head in range(n_heads):
        for rows, block in w.chunks(expert=head):
            y[:, head, rows] = parts[:, head] @ block.T
    return y.reshape(len(x), -1)


def ssm_scan(
    state: F32, x: F32, dt: F32, b: F32, c: F32, a: F32, d: F32 | None, n_heads: int, n_groups: int
) -> F32:
    """A selective state space: s = s * exp(dt' a) + (dt' x) b^T, y = s c + d x, dt' = softplus(dt), token by token.

    x: (T, n_heads * p), dt: (T, n_heads), b and c: (T, n_groups * n), a: (n_heads, 1 or n), state: n_heads * p * n, moved on.
    Sources: arXiv 2312.00752 (Mamba: p = 1), 2405.21060 (Mamba-2: a is one number a head).
    """
    n_tokens = len(x)
    xs, s = x.reshape(n_tokens, n_heads, -1), state.reshape(n_heads, x.shape[1] // n_heads, -1)
    repeat = n_heads // n_groups
    b, c = (np.repeat(m.reshape(n_tokens, n_groups, -1), repeat, axis=1) for m in (b, c))  # (T, n_heads, n)
    dt = softplus(dt)
    y = np.empty_like(xs)
    for t in range(n_tokens):
        s *= np.exp(dt[t][:, None] * a)[:, None, :]
        s += (xs[t] * dt[t][:, None])[..., None] * b[t][:, None, :]
        y[t] = np.einsum("hpn,hn->hp", s, c[t])
    if d is not None:
        y += xs * d.reshape(-1, 1)
    return y.reshape(x.shape)


def delta_net(
    state: F32, q: F32, k: F32, v: F32, g: F32, beta: F32, n_heads: int, n_k_heads: int, scale: float, tiled: int
) -> F32:
    """The gated delta rule: s = s * exp(g); s += k (beta (v - s^T k))^T; y = scale s^T q, token by token and head by head.

    q and k: (T, n_k_heads * d), v: (T, n_heads * d_v), g and beta: (T, n_heads), state: n_heads * d * d_v, moved on.
    Source: Yang et al. 2024, arXiv 2412.06464.
    """
    n_tokens = len(q)
    repeat = n_heads // n_k_heads
    heads = np.arange(n_heads) % n_k_heads if tiled else np.arange(n_heads) // repeat
    q, k = (m.reshape(n_tokens, n_k_heads, -1)[:, heads] for m in (q, k))
    values = v.reshape(n_tokens, n_heads, -1)
    s = state.reshape(n_heads, q.shape[2], -1)
    y = np.empty_like(values)
    for t in range(n_tokens):
        s *= np.exp(g[t])[:, None, None]
        u = beta[t][:, None] * (values[t] - np.einsum("hdv,hd->hv", s, k[t]))
        s += k[t][..., None] * u[:, None, :]
        y[t] = np.einsum("hdv,hd->hv", s, q[t]) * np.float32(scale)
    return y.reshape(v.shape)


# Fused ops: the plain ones in a row, so that fusing changes no bits here.


def qkv(
    x: F32, norm: Packed | None, w1: Packed, w2: Packed | None, w3: Packed | None, eps: float, first_row: int, n_rows: int
) -> tuple[F32, ...]:
    """The product of x (T, n), after rms_norm where there is a weight for it, with each matrix: rows [first_row, + n_rows).

    A matrix with fewer rows gives those that it has.
    """
    h = _normed(x, norm, eps)
    return tuple(matmul(w, h, first_row, min(n_rows, w.n_rows - first_row)) for w in (w1, w2, w3) if w is not None)


def gate_up(
    x: F32, norm: Packed | None, w_gate: Packed, w_up: Packed, eps: float, activation: str, first_row: int, n_rows: int
) -> F32:
    """The activation (the name of an op of two inputs) of two products of x (T, n), after rms_norm: (T, n_rows)."""
    h = _normed(x, norm, eps)
    gated: F32 = OPS[activation](matmul(w_gate, h, first_row, n_rows), matmul(w_up, h, first_row, n_rows))
    return gated


def matmul_add(w: Packed, x: F32, r: F32, first_row: int, n_rows: int) -> F32:
    """These columns of r, plus matmul: (T, n_rows)."""
    return add(r[:, first_row : first_row + n_rows], matmul(w, x, first_row, n_rows))


def rope_kv(
    keys: F32,
    values: F32,
    q: F32,
    k: F32,
    v: F32,
    factors: F32 | None,
    pos: int,
    head_dim: int,
    n_dims: int,
    style: str,
    base: float,
    scale: float,
    magnitude: float,
    extrapolation: float,
    ramp_low: float,
    ramp_high: float,
) -> F32:
    """Rotate q and k as `rope` does, store_kv of k and v; returns q."""
    turn = head_dim, n_dims, style, base, scale, magnitude, extrapolation, ramp_low, ramp_high
    store_kv(keys, values, rope(k, factors, pos, *turn), v, pos)
    return rope(q, factors, pos, *turn)


def _normed(x: F32, norm: Packed | None, eps: float) -> F32:
    return x if norm is None else rms_norm(x, norm.rows(0, 1)[0], eps, x.shape[1])


OPS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        embed,
        rms_norm,
        matmul,
        add,
        mul,
        swiglu,
        rope,
        store_kv,
        attention,
        last_rows,
        route,
        expert_matmul,
        expert_mul,
        expert_sum,
        causal_conv,
        layer_norm,
        softmax,
        unary,
        geglu,
        swiglu_oai,
        columns,
        concat,
        add_position,
        temper,
        head_matmul,
        expert_add,
        expert_spread,
        ssm_scan,
        delta_net,
        div,
        qkv,
        gate_up,
        matmul_add,
        rope_kv,
    )
}

# Ops that read a weight's rows where they lie; the others get it as a float32 array.
READS_ROWS = {"embed", "matmul", "expert_matmul", "head_matmul", "qkv", "gate_up", "matmul_add"}
