"""GPT-2 and its kin: layer norms with biases, two matrices in the feed-forward network, positions learned or by ALiBi.

GPT-2 (Radford et al. 2019), StarCoder (arXiv 2305.06161, 2402.19173), BLOOM (arXiv 2211.05100), MPT, Orion, Nemotron (arXiv
2402.16819).
"""

from dataclasses import replace

from wasmrt.model.blocks import attention, feed_forward, ffn_linear, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.shapes import whole_norms
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """One layer: pre-norm attention, then a pre-norm feed-forward network."""
    x = t.add(x, attention(t, c, w, norm(t, c, w, "attn_norm", x), qk_norm=w.has("attn_q_norm")))
    return t.add(x, feed_forward(t, c, w, norm(t, c, w, "ffn_norm", x)))


def positioned(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """The same; the first layer adds to each row the vector of its position."""
    return layer(t, c, w, t.add_position(x, w.position_embd) if c.layer == 0 else x)


def bloom(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """The same; the first layer normalizes the embedding."""
    return layer(t, c, w, norm(t, c, w, "token_embd_norm", x) if c.layer == 0 else x)


def mpt(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """With learned positions where the file has them, and activations that are divided by scales of their own (AWQ)."""
    if c.layer == 0 and w.has("position_embd"):
        x = t.add_position(x, w.position_embd)
    if not w.has("attn_q_norm"):
        w.skip("attn_k_norm")
    x = t.add(x, attention(t, c, w, norm(t, c, w, "attn_norm", x), qk_norm=w.has("attn_q_norm")))
    h = t.unary(ffn_linear(t, w, "ffn_up", norm(t, c, w, "ffn_norm", x)), c.activation)
    if w.has("ffn.act", "scales"):
        h = t.div(h, w.need("ffn.act", "scales"))
    return t.add(x, ffn_linear(t, w, "ffn_down", h))


def alibi(c: ModelConfig, keys: Keys) -> ModelConfig:
    clamp = keys.number("attention.clamp_kqv", 0.0, minimum=0.0)
    return replace(c, max_bias=keys.number("attention.max_alibi_bias", 0.0, minimum=0.0), clamp_qkv=clamp)


def jais(c: ModelConfig, keys: Keys) -> ModelConfig:
    """Scores are divided by the width of a head, not by its root. Source: arXiv 2308.16149."""
    return replace(alibi(c, keys), clamp_qkv=0.0, attention_scale=1 / max(1, c.head_dim))


def bloom_config(c: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(c, max_bias=8.0)


FAMILIES = {
    "gpt2": Family(positioned, rope="", norm="layer", activation="gelu", unscaled=("ffn_",)),
    "starcoder": Family(positioned, rope="", norm="layer", activation="gelu", unscaled=("ffn_",)),
    "starcoder2": Family(layer, rope="halves", norm="layer", activation="gelu", unscaled=("ffn_",)),
    "bloom": Family(bloom, rope="", norm="layer", activation="gelu", configure=bloom_config, unscaled=("ffn_",)),
    "mpt": Family(mpt, rope="", norm="layer", activation="gelu", configure=alibi, shapes=whole_norms, unscaled=("ffn_",)),
    "codeshell": Family(layer, rope="halves", norm="layer", activation="gelu", unscaled=("ffn_",)),
    "orion": Family(layer, rope="halves", norm="layer", unscaled=("ffn_",)),
    "jais": Family(layer, rope="", norm="layer", configure=jais, unscaled=("ffn_",)),
    "jais2": Family(layer, rope="halves", norm="layer", activation="relu2", unscaled=("ffn_",)),
    "nemotron": Family(layer, rope="halves", norm="layer", activation="relu2", unscaled=("ffn_",)),
}
