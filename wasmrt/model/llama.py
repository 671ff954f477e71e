"""Llama and its kin: RMS norms, rotary attention with grouped heads, SwiGLU or experts. Source: arXiv 2307.09288."""

import math
from dataclasses import replace

from wasmrt.model.blocks import add_residual, attention, mixed, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.positions import MAX_MAGNITUDE
from wasmrt.model.shapes import fused_up, shapes
from wasmrt.model.weights import Shapes, Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

ALIBI = 8.0  # the largest bias of those that turn nothing
BAICHUAN_13B_LAYERS = 40  # the larger Baichuan has ALiBi, which its files do not say
FFN = ("ffn_",)  # see Family.unscaled
PLAIN_EVERY = 4  # of SmolLM3's layers every fourth turns nothing


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """One layer: pre-norm attention, then a pre-norm feed-forward network, each added to the residual stream x: (T, n_embd)."""
    x = add_residual(t, c, x, attention(t, c, w, norm(t, c, w, "attn_norm", x)))
    return add_residual(t, c, x, mixed(t, c, w, norm(t, c, w, "ffn_norm", x)))


def normed_qk(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """The same with norms of queries and keys."""
    x = t.add(x, attention(t, c, w, norm(t, c, w, "attn_norm", x), qk_norm=True))
    return t.add(x, mixed(t, c, w, norm(t, c, w, "ffn_norm", x)))


def seed_layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """The same with another name for the second norm."""
    x = t.add(x, attention(t, c, w, norm(t, c, w, "attn_norm", x)))
    return t.add(x, mixed(t, c, w, norm(t, c, w, "post_attention_norm", x)))


def scaled_attention(c: ModelConfig, keys: Keys) -> ModelConfig:
    """Attention scores with a scale of the file's own."""
    return replace(c, attention_scale=keys.number("attention.scale", 0.0, minimum=0.0) or c.attention_scale)


def granite(c: ModelConfig, keys: Keys) -> ModelConfig:
    """Scales of embeddings, residuals, scores and logits; experts may be joined by one that all tokens visit."""
    c = scaled_attention(c, keys)
    return replace(
        c,
        rope=c.rope if keys.flag("rope.scaling.finetuned", True) else None,
        embedding_scale=keys.scale("embedding_scale"),
        residual_scale=keys.scale("residual_scale"),
        logit_scale=1 / keys.positive("logit_scale"),
        n_ff_shared=keys.integer("expert_shared_feed_forward_length", 0, minimum=0),
    )


def minicpm(c: ModelConfig, keys: Keys) -> ModelConfig:
    """The same scales, which old files do not say. Source: arXiv 2404.06395, 5.1: widths in relation to 256."""
    logit_scale = keys.positive("logit_scale") if "logit_scale" in keys else c.n_embd / 256
    return replace(
        scaled_attention(c, keys),
        embedding_scale=keys.positive("embedding_scale", 12.0),
        residual_scale=keys.positive("residual_scale", 1.4 / c.n_layers**0.5),
        logit_scale=1 / logit_scale,
    )


def mistral3(c: ModelConfig, keys: Keys) -> ModelConfig:
    """Queries grow with their position; YaRN's magnitude is divided by that of another multiplier, often by itself."""
    if c.rope and c.rope.extrapolation:
        multiplier = keys.number("rope.scaling.yarn_log_multiplier", 0.0, minimum=0.0, maximum=MAX_MAGNITUDE)
        own = 1 + 0.1 * multiplier * math.log(max(1.0, 1 / c.rope.scale))
        c = replace(c, rope=replace(c.rope, magnitude=c.rope.magnitude / own))
    scale = keys.number("attention.temperature_scale", 0.0)
    length = keys.number("attention.temperature_length", 0.0) or keys.number("rope.scaling.original_context_length", 0.0)
    return replace(scaled_attention(c, keys), temper_length=length if scale else 0.0, temper_scale=scale)


def smollm3(c: ModelConfig, keys: Keys) -> ModelConfig:
    ropes = tuple(None if (i + 1) % PLAIN_EVERY == 0 else c.rope for i in range(c.n_layers))
    return scaled_attention(c, keys).varied(rope=ropes)


def without_experts(c: ModelConfig, keys: Keys) -> ModelConfig:
    """Whatever the file counts: models with experts have an architecture of their own."""
    return replace(c, n_experts=0, is_sparse=False)


def baichuan(c: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(c, rope=None, max_bias=ALIBI) if c.n_layers == BAICHUAN_13B_LAYERS else c


def refact(c: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(c, max_bias=ALIBI)


def half_ff(c: ModelConfig) -> Shapes:
    """The first Qwen counts gate and up together."""
    n = c.n_ff // 2
    return {**shapes(c), "ffn_gate": (c.n_embd, n), "ffn_up": (c.n_embd, n), "ffn_down": (n, c.n_embd)}


FAMILIES = {
    "llama": Family(layer, configure=scaled_attention),
    "mistral3": Family(layer, configure=mistral3),
    "granite": Family(layer, configure=granite, unscaled=FFN),
    "granitemoe": Family(layer, configure=granite, unscaled=FFN),
    "minicpm": Family(layer, configure=minicpm, unscaled=FFN),
    "smollm3": Family(layer, configure=smollm3, unscaled=FFN),
    "internlm2": Family(layer, unscaled=FFN),
    "baichuan": Family(layer, configure=baichuan, unscaled=FFN),
    "xverse": Family(layer, unscaled=FFN),
    "refact": Family(layer, rope="", configure=refact, unscaled=FFN, unbiased=("attn_output", *FFN)),
    "arcee": Family(layer, activation="relu2", configure=scaled_attention, unscaled=FFN),
    "ernie4_5": Family(layer, configure=without_experts, unscaled=FFN, unbiased=("attn_output",)),
    "exaone": Family(layer, rope="halves", unscaled=FFN),
    "pangu-embedded": Family(layer, rope="halves", unscaled=FFN),
    "openelm": Family(normed_qk, rope="halves", unscaled=(*FFN, "attn_qkv")),
    "chatglm": Family(layer, unscaled=FFN, shapes=fused_up),
    "qwen": Family(layer, rope="halves", unscaled=FFN, shapes=half_ff),
    "qwen2vl": Family(layer, rope="halves", unscaled=FFN),
    "qwen2": Family(layer, rope="halves", unscaled=FFN),
    "seed_oss": Family(seed_layer, rope="halves", configure=scaled_attention, unscaled=FFN),
    "qwen3": Family(normed_qk, rope="halves"),
    "qwen3vl": Family(normed_qk, rope="halves", unscaled=FFN),
}
