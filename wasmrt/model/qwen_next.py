"""Qwen3-Next and Qwen3.5: linear attention by the gated delta rule, and in every fourth layer gated attention.

Source of the rule: Yang et al. 2024, arXiv 2412.06464.
"""

import math
from dataclasses import replace

from wasmrt.model.blocks import attend, experts, feed_forward, head_norm, linear, norm, rotate
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.mamba import state_space
from wasmrt.model.qwen import gated_shared
from wasmrt.model.shapes import shapes
from wasmrt.model.weights import Shapes, Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

INTERVAL = 4


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    h = norm(t, c, w, "attn_norm", x)
    x = t.add(x, linear_attention(t, c, w, h) if c.is_recurrent else gated_attention(t, c, w, h))
    h = norm(t, c, w, "post_attention_norm", x)
    if not c.is_sparse:
        return t.add(x, feed_forward(t, c, w, h))
    return t.add(x, t.add(experts(t, c, w, h), gated_shared(t, c, w, h)))


def gated_attention(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """Attention whose output is gated, element by element; a head's queries and gates lie together."""
    both = linear(t, w, "attn_q", h)                                                    # (T, n_heads * 2 * head_dim)
    q, gate = (t.columns(both, start, c.head_dim, 2 * c.head_dim) for start in (0, c.head_dim))
    k, v = linear(t, w, "attn_k", h), linear(t, w, "attn_v", h)
    q, k = head_norm(t, c, w, "attn_q_norm", q), head_norm(t, c, w, "attn_k_norm", k)
    a = attend(t, c, rotate(t, c, w, q), rotate(t, c, w, k), v)
    return linear(t, w, "attn_output", t.mul(a, t.unary(gate, "sigmoid")))


def linear_attention(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """The gated delta rule on queries, keys and values that went through a short convolution."""
    n_k, n_v = c.ssm_groups * c.ssm_state, c.ssm_inner
    qkv, z = projected(t, c, w, h)
    beta, alpha = strengths(t, c, w, h)
    decay = t.mul(t.unary(t.add(alpha, w.need("ssm_dt", "bias")), "softplus"), w.need("ssm_a", ""))
    qkv = t.unary(t.causal_conv(qkv, w.ssm_conv1d), "silu")                             # (T, 2 * n_k + n_v)
    q, k, v = t.columns(qkv, 0, n_k), t.columns(qkv, n_k, n_k), t.columns(qkv, 2 * n_k, n_v)
    q, k = unit(t, c, q), unit(t, c, k)
    tiled = not w.has("ssm_ba")  # whether heads that share keys lie apart: so files of Qwen3.5 have them
    y = t.delta_net(q, k, v, decay, t.unary(beta, "sigmoid"), c.ssm_groups, 1 / math.sqrt(c.ssm_state), tiled)
    y = t.mul(t.rms_norm(y, w.ssm_norm, c.norm_eps, group=n_v // c.ssm_heads), t.unary(z, "silu"))
    return linear(t, w, "ssm_out", y)                                                   # (T, n_embd)


def projected(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> tuple[Operand, Operand]:
    """Queries, keys and values, (T, 2 * n_k + n_v), and the gates of what is read, (T, n_v)."""
    if w.has("attn_qkv"):
        w.skip("ssm_in", "weight", "scale")  # some files have both
        return linear(t, w, "attn_qkv", h), linear(t, w, "attn_gate", h)
    # Old files of Qwen3-Next have the four of a key head together.
    n_k, n_v = c.ssm_state, c.ssm_inner // c.ssm_groups
    every, group = linear(t, w, "ssm_in", h), 2 * n_k + 2 * n_v
    q, k = t.columns(every, 0, n_k, group), t.columns(every, n_k, n_k, group)
    v, z = t.columns(every, 2 * n_k, n_v, group), t.columns(every, 2 * n_k + n_v, n_v, group)
    return t.concat(t.concat(q, k), v), z


def strengths(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> tuple[Operand, Operand]:
    """How much each head writes and forgets, before their functions: both (T, ssm_heads)."""
    if not w.has("ssm_ba"):
        return linear(t, w, "ssm_beta", h), linear(t, w, "ssm_alpha", h)
    both, n = linear(t, w, "ssm_ba", h), c.ssm_heads // c.ssm_groups                    # the two of a key head together
    return t.columns(both, 0, n, 2 * n), t.columns(both, n, n, 2 * n)


def unit(t: Recorder, c: ModelConfig, x: Operand) -> Operand:
    """Each head's part with a length of 1: the root mean square of n numbers is 1/sqrt(n) of their length."""
    n = c.ssm_state
    return t.scale(t.rms_norm(x, None, c.norm_eps / n, group=n), 1 / math.sqrt(n))


def configure(c: ModelConfig, keys: Keys) -> ModelConfig:
    interval = keys.integer("full_attention_interval", INTERVAL)
    every = tuple((i + 1) % interval != 0 for i in range(keys.n_layers))
    c = state_space(c, keys)
    if c.n_experts:
        n_ff = keys.integer("expert_feed_forward_length", 0, minimum=0) or c.n_ff // c.n_experts_used
        shared = keys.integer("expert_shared_feed_forward_length", 0, minimum=0) or c.n_ff
        c = replace(c, n_ff_experts=n_ff, n_ff_shared=shared)
    return c.varied(is_recurrent=keys.flags("attention.recurrent_layers", every))


def next_shapes(c: ModelConfig) -> Shapes:
    n_k, n_v = c.ssm_groups * c.ssm_state, c.ssm_inner
    own = {
        "attn_q": (c.n_embd, 2 * c.n_heads * c.head_dim),
        "attn_gate": (c.n_embd, n_v),
        "ssm_in": (c.n_embd, 2 * n_k + 2 * n_v),
        "ssm_ba": (c.n_embd, 2 * c.ssm_heads),
        "ssm_beta": (c.n_embd, c.ssm_heads),
        "ssm_alpha": (c.n_embd, c.ssm_heads),
        "ssm_dt": (c.ssm_heads,),
        "ssm_a": (c.ssm_heads,),
        "ssm_conv1d": (c.n_taps, 2 * n_k + n_v),
        "ssm_norm": (n_v // max(1, c.ssm_heads),),
        "ssm_out": (n_v, c.n_embd),
    }
    fused = {"attn_qkv": (c.n_embd, 2 * n_k + n_v)} if c.is_recurrent else {}
    return {**shapes(c), **own, **fused}


FAMILIES = {
    "qwen35": Family(layer, rope="halves", configure=configure, shapes=next_shapes),
    "qwen35moe": Family(layer, rope="halves", configure=configure, shapes=next_shapes),
    "qwen3next": Family(
        layer, rope="halves", configure=configure, shapes=next_shapes, unscaled=("attn_qkv", "attn_gate", "ssm_")
    ),
}
