"""Blocks that families share, written on a recorder. Activations are (T, width); h is the normalized residual stream."""

from wasmrt.model.config import ModelConfig
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

GATED = ("swiglu", "geglu")


def linear(t: Recorder, w: Weights, name: str, x: Operand) -> Operand:
    """x times the matrix `name`, then the scale and the bias that some files carry. x: (T, n). Returns (T, m)."""
    y = t.matmul(w.need(name), x)
    scale, bias = w.get(name, "scale"), w.get(name, "bias")
    if scale is not None:
        y = t.mul(y, scale)
    return y if bias is None else t.add(y, bias)


def ffn_linear(t: Recorder, w: Weights, name: str, x: Operand) -> Operand:
    """As linear, but the scale also applies to the bias: the order in which ggml's feed-forward block has them."""
    y = t.matmul(w.need(name), x)
    scale, bias = w.get(name, "scale"), w.get(name, "bias")
    if bias is not None:
        y = t.add(y, bias)
    return y if scale is None else t.mul(y, scale)


def expert_linear(t: Recorder, w: Weights, name: str, x: Operand, experts: Operand) -> Operand:
    """x times each chosen expert's matrix, with its bias and scale. x: (T, n) or (T, n_used * n). Returns (T, n_used * m)."""
    y = t.expert_matmul(w.need(name), x, experts)
    scale, bias = w.get(name, "scale"), w.get(name, "bias")
    if bias is not None:
        y = t.expert_add(y, bias, experts)
    return y if scale is None else t.expert_mul(y, scale, experts)


def norm(t: Recorder, c: ModelConfig, w: Weights, name: str, x: Operand) -> Operand:
    """The family's norm of the rows of x, with the bias that it may have."""
    weight, bias = w.need(name), w.get(name, "bias")
    if c.norm == "layer":
        return t.layer_norm(x, weight, c.norm_eps, bias)
    y = t.rms_norm(x, weight, c.norm_eps)
    return y if bias is None else t.add(y, bias)


def head_norm(t: Recorder, c: ModelConfig, w: Weights, name: str, x: Operand) -> Operand:
    """The family's norm of queries or keys: of as many elements together as a row of its weight has."""
    weight = w.need(name)
    if c.norm == "layer":
        return t.layer_norm(x, weight, c.norm_eps, w.get(name, "bias"), group=weight.width)
    return t.rms_norm(x, weight, c.norm_eps, group=weight.width)


def qkv(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> tuple[Operand, Operand, Operand]:
    """Queries (T, n_heads * head_dim), keys (T, n_kv_heads * head_dim) and values (T, n_kv_heads * value_dim)."""
    if w.has("attn_qkv"):
        q, k, v = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim, c.n_kv_heads * c.value_dim
        y = clamped(t, c, linear(t, w, "attn_qkv", h))
        return t.columns(y, 0, q), t.columns(y, q, k), t.columns(y, q + k, v)
    one, two, three = (clamped(t, c, linear(t, w, name, h)) for name in ("attn_q", "attn_k", "attn_v"))
    return one, two, three


def clamped(t: Recorder, c: ModelConfig, x: Operand) -> Operand:
    return t.clamp(x, -c.clamp_qkv, c.clamp_qkv) if c.clamp_qkv else x


def rotate(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """Queries or keys turned by their positions, if the layer turns them. x: (T, heads * head_dim)."""
    if c.rope is None:
        w.skip("rope_freqs")
        return x
    factors = w.get("rope_freqs")
    if factors is None:
        factors = w.get("rope_factors_long" if c.long_rope else "rope_factors_short")
    return t.rope(x, c.rope, factors)


def attend(t: Recorder, c: ModelConfig, q: Operand, k: Operand, v: Operand, sinks: Operand | None = None) -> Operand:
    """Store keys and values, and look at all that are stored: (T, n_heads * value_dim)."""
    t.store_kv(k, v)
    return t.attention(
        q,
        c.n_heads,
        c.n_kv_heads,
        c.attention_scale,
        sinks=sinks,
        window=c.window,
        chunked=c.chunked,
        softcap=c.attention_softcap,
        max_bias=c.max_bias,
    )


def attention(t: Recorder, c: ModelConfig, w: Weights, h: Operand, qk_norm: bool = False, norm_first: bool = True) -> Operand:
    """Self-attention: (T, n_embd). qk_norm: queries and keys are normalized, before they are turned or after it."""
    q, k, v = qkv(t, c, w, h)
    turned = []
    for name, x in (("attn_q_norm", q), ("attn_k_norm", k)):
        if qk_norm and norm_first:
            x = head_norm(t, c, w, name, x)
        x = rotate(t, c, w, x)
        turned.append(x if norm_first or not qk_norm else head_norm(t, c, w, name, x))
    q, k = turned
    if c.temper_length:
        q = t.temper(q, c.temper_length, c.temper_scale, c.temper_offset)
    return linear(t, w, "attn_output", attend(t, c, q, k, v))


def feed_forward(t: Recorder, c: ModelConfig, w: Weights, h: Operand, suffix: str = "") -> Operand:
    """The feed-forward network, gated if the activation is: (T, n_embd). suffix: of the tensors' names."""
    gate, up, down = (f"ffn_{part}{suffix}" for part in ("gate", "up", "down"))
    if c.activation not in GATED:
        y = t.unary(ffn_linear(t, w, up, h), c.activation)
    elif w.has(gate) or w.shape_of(up)[1] == w.shape_of(down)[0]:  # gate and up are not one matrix
        y = gated(t, c, ffn_linear(t, w, gate, h), ffn_linear(t, w, up, h))
    else:
        both = ffn_linear(t, w, up, h)
        half = both.width // 2
        y = gated(t, c, t.columns(both, 0, half), t.columns(both, half, half))
    return ffn_linear(t, w, down, y)


def gated(t: Recorder, c: ModelConfig, gate: Operand, up: Operand) -> Operand:
    return (t.geglu if c.activation == "geglu" else t.swiglu)(gate, up)


def route(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> tuple[Operand, Operand]:
    """The experts that the router likes best, and their weights: both (T, n_used)."""
    return t.route(
        linear(t, w, "ffn_gate_inp", h),
        c.n_experts_used,
        bias=w.get("exp_probs_b", "bias"),
        score=c.expert_score,
        normalize=c.expert_normalize,
        scale=c.expert_scale,
        n_groups=c.n_expert_groups,
        n_groups_used=c.n_expert_groups_used,
    )


def experts(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """The feed-forward networks of the experts that the router likes best, weighted: (T, n_embd). Source: arXiv 2401.04088."""
    chosen, weights = route(t, c, w, h)
    return t.expert_sum(expert_networks(t, c, w, h, chosen), weights)


def expert_networks(t: Recorder, c: ModelConfig, w: Weights, h: Operand, chosen: Operand) -> Operand:
    """What each chosen expert makes of h, (T, n_embd) or (T, n_used * n_embd): (T, n_used * n_embd)."""
    if w.has("ffn_gate_up_exps"):
        both = expert_linear(t, w, "ffn_gate_up_exps", h, chosen)
        n = c.n_ff_experts
        gate, up = t.columns(both, 0, n, 2 * n), t.columns(both, n, n, 2 * n)
    else:
        gate, up = (expert_linear(t, w, name, h, chosen) for name in ("ffn_gate_exps", "ffn_up_exps"))
    return expert_linear(t, w, "ffn_down_exps", gated(t, c, gate, up), chosen)


def mixed(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """The layer's experts, if it has some, with those that all tokens visit; else its feed-forward network."""
    if not c.is_sparse:
        return feed_forward(t, c, w, h)
    y = experts(t, c, w, h)
    return t.add(y, feed_forward(t, c, w, h, "_shexp")) if c.n_ff_shared else y


def add_residual(t: Recorder, c: ModelConfig, x: Operand, y: Operand) -> Operand:
    """The residual stream with what a block adds to it."""
    return t.add(x, y if c.residual_scale == 1.0 else t.scale(y, c.residual_scale))


def embedding(t: Recorder, c: ModelConfig, w: Weights) -> Operand:
    """The row of each token: (T, n_embd)."""
    x = t.embed(w.token_embd)
    return x if c.embedding_scale == 1.0 else t.scale(x, c.embedding_scale)


def head(t: Recorder, c: ModelConfig, w: Weights, x: Operand, name: str = "output_norm") -> Operand:
    """Logits of the rows that want them: (n_out, n_vocab). Tied models have no output matrix and use the embedding."""
    h = norm(t, c, w, name, t.last_rows(x))
    logits = linear(t, w, "output" if w.has("output") else "token_embd", h)
    if c.logit_scale != 1.0:
        logits = t.scale(logits, c.logit_scale)
    return t.softcap(logits, c.logit_softcap) if c.logit_softcap else logits
