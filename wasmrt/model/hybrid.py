"""Mamba-2 and attention: side by side in Falcon-H1 (arXiv 2507.22448), in turn in Granite 4 (IBM 2025) and Bamba.

Falcon-H1's multipliers are part of its files' weights.
"""

from dataclasses import replace

from wasmrt.model.blocks import add_residual, attention, feed_forward, mixed, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.jamba import in_turn
from wasmrt.model.llama import scaled_attention
from wasmrt.model.mamba import alone, mamba2, mamba2_shapes, scan_norm, state_space
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder


def falcon_h1_layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    w.skip("rope_freqs")  # llama.cpp, which writes such files, turns without
    h = norm(t, c, w, "attn_norm", x)
    x = t.add(x, t.add(attention(t, c, w, h), mamba2(t, c, w, h)))
    return t.add(x, feed_forward(t, c, w, scan_norm(t, c, w, "ffn_norm", x)))


def granite_layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    h = norm(t, c, w, "attn_norm", x)
    x = add_residual(t, c, x, mamba2(t, c, w, h) if c.is_recurrent else attention(t, c, w, h))
    return add_residual(t, c, x, mixed(t, c, w, norm(t, c, w, "ffn_norm", x)))


def granite(c: ModelConfig, keys: Keys) -> ModelConfig:
    """Granite's scales, which Bamba does not have; Bamba turns queries and keys, Granite 4 does not."""
    c = in_turn(state_space(scaled_attention(c, keys), keys))
    return replace(
        c,
        rope=c.rope if keys.flag("rope.scaling.finetuned", True) else None,
        embedding_scale=keys.scale("embedding_scale"),
        residual_scale=keys.scale("residual_scale"),
        logit_scale=1 / keys.scale("logit_scale"),
        n_ff_experts=c.n_ff,
        n_ff_shared=keys.integer("expert_shared_feed_forward_length", 0, minimum=0),
    )


FAMILIES = {
    "falcon-h1": Family(
        falcon_h1_layer,
        rope="halves",
        configure=lambda c, keys: alone(state_space(c, keys)),
        shapes=mamba2_shapes,
        unscaled=("ffn_",),
        unbiased=("attn_output",),
    ),
    "granitehybrid": Family(granite_layer, configure=granite, shapes=mamba2_shapes, unscaled=("ffn_",)),
}
