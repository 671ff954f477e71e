"""Gemma 4 (Google 2026): heads of other widths in layers with a window, normalized values, and experts beside a dense network.

Its smaller models, E2B and E4B, are refused: they embed tokens anew for each layer, and share keys and values between layers.
"""

import math
from dataclasses import replace

from wasmrt.errors import UnsupportedError
from wasmrt.model.blocks import attend, expert_networks, feed_forward, head_norm, linear, norm, qkv
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.shapes import shapes
from wasmrt.model.weights import Shapes, Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

PERIOD = 6


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    x = t.add(x, norm(t, c, w, "post_attention_norm", attention(t, c, w, norm(t, c, w, "attn_norm", x))))
    y = feed_forward(t, c, w, norm(t, c, w, "ffn_norm", x))
    if w.has("ffn_gate_inp"):
        y = t.add(norm(t, c, w, "post_ffw_norm_1", y), norm(t, c, w, "post_ffw_norm_2", experts(t, c, w, x)))
    x = t.add(x, norm(t, c, w, "post_ffw_norm", y))
    scale = w.get("layer_output_scale")
    return x if scale is None else t.mul(x, scale)


def attention(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """Where a file has no matrix of values, they are the keys. Layers that see everything have rope factors."""
    assert c.rope
    if w.has("attn_qkv") or w.has("attn_v"):
        q, k, v = qkv(t, c, w, h)
    else:
        q, k = linear(t, w, "attn_q", h), linear(t, w, "attn_k", h)
        v = k
    factors = None if c.window else w.rope_freqs
    q, k = (t.rope(head_norm(t, c, w, name, y), c.rope, factors) for name, y in (("attn_q_norm", q), ("attn_k_norm", k)))
    v = t.rms_norm(v, None, c.norm_eps, group=c.value_dim)
    return linear(t, w, "attn_output", attend(t, c, q, k, v))


def experts(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """The router sees the stream with a norm of its own: (T, n_embd)."""
    r = t.scale(t.rms_norm(x, None, c.norm_eps), 1 / math.sqrt(c.n_embd))
    chosen, weights = t.route(t.matmul(w.ffn_gate_inp, t.mul(r, w.need("ffn_gate_inp.scale", ""))), c.n_experts_used)
    return t.expert_sum(expert_networks(t, c, w, norm(t, c, w, "pre_ffw_norm_2", x), chosen), weights)


def configure(c: ModelConfig, keys: Keys) -> ModelConfig:
    for key in ("embedding_length_per_layer_input", "attention.shared_kv_layers"):
        if keys.integer(key, 0, minimum=0):
            raise UnsupportedError(f"{keys.name(key)} is {keys.integer(key)}: Gemma 4's E models are not supported yet")
    assert c.rope
    windows = keys.windows(PERIOD)
    head_dim = keys.integer("attention.key_length_swa", c.head_dim)
    n_dims = keys.integer("rope.dimension_count_swa", head_dim, maximum=head_dim)
    local = replace(c.rope, head_dim=head_dim, n_dims=n_dims, base=keys.positive("rope.freq_base_swa", 10000.0), scale=1.0)
    c = replace(
        c,
        embedding_scale=math.sqrt(c.n_embd),
        attention_scale=1.0,
        logit_softcap=keys.number("final_logit_softcapping", 0.0, minimum=0.0),
    )
    return c.varied(
        window=windows,
        head_dim=tuple(head_dim if window else c.head_dim for window in windows),
        value_dim=tuple(head_dim if window else c.value_dim for window in windows),
        rope=tuple(local if window else c.rope for window in windows),
    )


def gemma4_shapes(c: ModelConfig) -> Shapes:
    norms = ("post_ffw_norm_1", "post_ffw_norm_2", "pre_ffw_norm_2")
    own = {**dict.fromkeys(norms, (c.n_embd,)), "ffn_gate_inp.scale": (c.n_embd,), "layer_output_scale": (1,)}
    return {**shapes(c), **own}


FAMILIES = {"gemma4": Family(layer, rope="halves", activation="geglu", configure=configure, shapes=gemma4_shapes)}
