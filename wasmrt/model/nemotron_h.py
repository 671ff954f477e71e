"""Nemotron-H: a layer is one block, Mamba-2, attention that turns nothing, or a feed-forward network. Source: arXiv 2504.03624.

The networks are not gated; those of Nemotron 3 (NVIDIA 2025) are experts, which may work on a narrower copy of the stream.
"""

from dataclasses import replace

from wasmrt.model.blocks import attention, expert_linear, feed_forward, norm, route
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.mamba import mamba2, mamba2_shapes, state_space
from wasmrt.model.weights import Shapes, Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    h = norm(t, c, w, "attn_norm", x)
    if c.is_recurrent:
        return t.add(x, mamba2(t, c, w, h))
    if c.n_ff == 0:
        return t.add(x, attention(t, c, w, h))
    return t.add(x, sparse(t, c, w, h) if c.is_sparse else feed_forward(t, c, w, h))


def sparse(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """Experts, and one that all tokens visit: (T, n_embd)."""
    chosen, weights = route(t, c, w, h)
    narrow = t.matmul(w.ffn_latent_down, h) if w.has("ffn_latent_down") else h          # (T, n_latent)
    y = t.unary(expert_linear(t, w, "ffn_up_exps", narrow, chosen), c.activation)       # (T, n_used * n_ff_experts)
    y = t.expert_sum(expert_linear(t, w, "ffn_down_exps", y, chosen), weights)
    y = t.matmul(w.ffn_latent_up, y) if w.has("ffn_latent_up") else y
    return t.add(y, feed_forward(t, c, w, h, "_shexp"))


def configure(c: ModelConfig, keys: Keys) -> ModelConfig:
    c = state_space(c, keys)
    layers = [c.at(i) for i in range(c.n_layers)]
    c = replace(
        c,
        n_latent=keys.integer("moe_latent_size", 0, minimum=0) or c.n_embd,
        n_ff_shared=keys.integer("expert_shared_feed_forward_length", 0, minimum=0),
        expert_score="sigmoid",
        expert_normalize=keys.flag("expert_weights_norm", False),
        expert_scale=keys.scale("expert_weights_scale"),
    )
    return c.varied(is_recurrent=tuple(part.n_kv_heads == 0 and part.n_ff == 0 for part in layers))


def nemotron_shapes(c: ModelConfig) -> Shapes:
    return {
        **mamba2_shapes(c),
        "ffn_latent_down": (c.n_embd, c.n_latent),
        "ffn_latent_up": (c.n_latent, c.n_embd),
        "ffn_up_exps": (c.n_latent, c.n_ff_experts, c.n_experts),
        "ffn_down_exps": (c.n_ff_experts, c.n_latent, c.n_experts),
    }


FAMILIES = {
    name: Family(layer, rope="", activation="relu2", configure=configure, shapes=nemotron_shapes)
    for name in ("nemotron_h", "nemotron_h_moe")
}
