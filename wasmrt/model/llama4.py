"""Llama 4: chunked attention with norms after rotation, layers without positions, a shared expert beside one that is chosen."""

from dataclasses import replace

from wasmrt.model.blocks import attend, expert_networks, feed_forward, linear, norm, qkv, rotate, route
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

WINDOW = 8192
PERIOD = 4  # of as many layers the last turns nothing, and sees everything
MAVERICK_EXPERTS = 128  # the larger model has no norms of queries and keys


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    q, k, v = qkv(t, c, w, norm(t, c, w, "attn_norm", x))
    if c.rope is None:
        q = t.temper(q, c.temper_length, c.temper_scale, c.temper_offset)
    else:
        q, k = rotate(t, c, w, q), rotate(t, c, w, k)
        if c.n_experts != MAVERICK_EXPERTS:
            q, k = (t.rms_norm(y, None, c.norm_eps, group=c.head_dim) for y in (q, k))
    x = t.add(x, linear(t, w, "attn_output", attend(t, c, q, k, v)))
    h = norm(t, c, w, "ffn_norm", x)
    return t.add(x, experts(t, c, w, h) if c.is_sparse else feed_forward(t, c, w, h))


def experts(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """Here an expert's weight scales what goes into it."""
    chosen, weights = route(t, c, w, h)
    y = t.expert_sum(expert_networks(t, c, w, t.expert_spread(h, weights), chosen), None, c.n_experts_used)
    return t.add(y, feed_forward(t, c, w, h, "_shexp"))


def configure(c: ModelConfig, keys: Keys) -> ModelConfig:
    c = replace(c, expert_score="sigmoid", expert_normalize=False, n_ff_shared=c.n_ff_experts)
    step = keys.integer("interleave_moe_layer_step", minimum=0)
    c = c.varied(is_sparse=tuple(step > 0 and (i + 1) % step == 0 for i in range(c.n_layers)))
    if keys.integer("attention.sliding_window", WINDOW, minimum=0) == 0:
        return c
    slides = tuple((i + 1) % PERIOD != 0 for i in range(c.n_layers))
    c = replace(c, chunked=True, temper_length=8192.0, temper_scale=0.1, temper_offset=1.0)
    return c.varied(window=tuple(WINDOW if s else 0 for s in slides), rope=tuple(c.rope if s else None for s in slides))


FAMILIES = {"llama4": Family(layer, configure=configure, unscaled=("ffn_",))}
