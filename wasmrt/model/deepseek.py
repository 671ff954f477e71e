"""DeepSeek: many small experts beside shared ones, and latent attention from V2 on.

Sources: arXiv 2401.06066, 2405.04434, 2412.19437.
"""

import math
from dataclasses import replace

from wasmrt.errors import FormatError
from wasmrt.model.blocks import attend, attention, linear, mixed, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.mixture import score
from wasmrt.model.positions import MAX_MAGNITUDE
from wasmrt.model.shapes import shapes
from wasmrt.model.weights import Shapes, Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

GLM_FLASH_LAYERS, GLM_VOCAB = (47, 48), 154880  # GLM-4.7-Flash, whose first files do not say that its scores are sigmoids


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """One layer of the first DeepSeek: Llama's attention."""
    x = t.add(x, attention(t, c, w, norm(t, c, w, "attn_norm", x)))
    return t.add(x, mixed(t, c, w, norm(t, c, w, "ffn_norm", x)))


def layer2(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """One layer of DeepSeek V2 and V3."""
    x = t.add(x, latent_attention(t, c, w, norm(t, c, w, "attn_norm", x)))
    return t.add(x, mixed(t, c, w, norm(t, c, w, "ffn_norm", x)))


def latent_attention(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """Keys and values are products of one short latent, so that alone is stored, with the part of keys that turns.

    With the matrices of keys and values apart, queries are taken into the latent's space, where all heads share one key of
    kv_rank + n_dims elements; in older files, which have both in one matrix, each head has keys and values of its own.
    """
    assert c.rope
    turning, still = c.rope.n_dims, c.head_dim - c.rope.n_dims
    if c.q_rank:
        a = t.rms_norm(linear(t, w, "attn_q_a", h), w.attn_q_a_norm, c.norm_eps)
        q = linear(t, w, "attn_q_b", a)                                                 # (T, n_heads * head_dim)
    else:
        q = linear(t, w, "attn_q", h)
    q_still, q_turning = t.columns(q, 0, still, c.head_dim), t.columns(q, still, turning, c.head_dim)
    q_turning = t.rope(q_turning, replace(c.rope, head_dim=turning))
    both = linear(t, w, "attn_kv_a_mqa", h)                                             # (T, kv_rank + turning)
    k_turning = t.rope(t.columns(both, c.kv_rank, turning), replace(c.rope, head_dim=turning))
    latent = t.rms_norm(t.columns(both, 0, c.kv_rank), w.attn_kv_a_norm, c.norm_eps)    # (T, kv_rank)
    if w.has("attn_k_b"):
        q = t.concat(by_head(t, c, w, "attn_k_b", q_still), q_turning, c.n_heads)
        shared = replace(c, n_kv_heads=1)
        a = attend(t, shared, tempered(t, c, q), t.concat(latent, k_turning), latent)    # (T, n_heads * kv_rank)
        a = by_head(t, c, w, "attn_v_b", a)
    else:
        kv = linear(t, w, "attn_kv_b", latent)                                          # (T, n_heads * (still + value_dim))
        k, v = (t.columns(kv, start, n, still + c.value_dim) for start, n in ((0, still), (still, c.value_dim)))
        k = t.concat(k, repeated(t, k_turning, c.n_heads), c.n_heads)
        q = t.concat(q_still, q_turning, c.n_heads)
        a = attend(t, replace(c, n_kv_heads=c.n_heads), tempered(t, c, q), k, v)
    return linear(t, w, "attn_output", a)                                               # (T, n_embd)


def by_head(t: Recorder, c: ModelConfig, w: Weights, name: str, x: Operand) -> Operand:
    """Each head's part of x times its own matrix."""
    return t.matmul(w.need(name), x) if c.n_heads == 1 else t.head_matmul(w.need(name), x, c.n_heads)


def repeated(t: Recorder, x: Operand, n: int) -> Operand:
    """n copies of a row, one after another."""
    if n == 1:
        return x
    half = repeated(t, x, n // 2)
    twice = t.concat(half, half)
    return t.concat(twice, x) if n % 2 else twice


def tempered(t: Recorder, c: ModelConfig, q: Operand) -> Operand:
    return t.temper(q, c.temper_length, c.temper_scale, c.temper_offset) if c.temper_length else q


def deepseek(c: ModelConfig, keys: Keys) -> ModelConfig:
    dense = keys.integer("leading_dense_block_count", 0, minimum=0)
    c = replace(
        c,
        n_ff_shared=c.n_ff_experts * keys.integer("expert_shared_count", 0, minimum=0, maximum=4096),
        expert_normalize=False,
        expert_scale=keys.scale("expert_weights_scale"),
    )
    return c.varied(is_sparse=tuple(c.n_experts > 0 and i >= dense for i in range(c.n_layers)))


def deepseek2(c: ModelConfig, keys: Keys) -> ModelConfig:
    c = deepseek(c, keys)
    # Of YaRN's magnitude, which ggml gives sine and cosine, the scores have the square of their own.
    magnitude = 1.0
    if c.rope and c.rope.extrapolation:
        magnitude = 1 + keys.number("rope.scaling.yarn_log_multiplier", 0.0, maximum=MAX_MAGNITUDE) * math.log(1 / c.rope.scale)
        c = replace(c, rope=replace(c.rope, magnitude=1.0))
    is_glm = c.n_layers in GLM_FLASH_LAYERS and c.n_vocab == GLM_VOCAB
    head_dim = keys.integer("attention.key_length_mla", c.head_dim)
    if c.rope and c.rope.n_dims >= head_dim:
        raise FormatError(f"{keys.name('rope.dimension_count')} is {c.rope.n_dims}, expected less than the head's {head_dim}")
    scale = keys.number("attention.temperature_scale", 0.0)
    return replace(
        c,
        head_dim=head_dim,
        value_dim=keys.integer("attention.value_length_mla", c.value_dim),
        q_rank=keys.integer("attention.q_lora_rank", 0, minimum=0),
        kv_rank=keys.integer("attention.kv_lora_rank"),
        attention_scale=magnitude**2 / math.sqrt(head_dim),
        expert_score=score(keys, default=2 if is_glm else 1),
        expert_normalize=keys.flag("expert_weights_norm", False),
        temper_length=keys.number("attention.temperature_length", 0.0) if scale else 0.0,
        temper_scale=scale,
    )


def deepseek2_shapes(c: ModelConfig) -> Shapes:
    turning = c.rope.n_dims if c.rope else 0
    still = c.head_dim - turning
    return {
        **shapes(c),
        "attn_q_a": (c.n_embd, c.q_rank),
        "attn_q_a_norm": (c.q_rank,),
        "attn_q_b": (c.q_rank, c.n_heads * c.head_dim),
        "attn_kv_a_mqa": (c.n_embd, c.kv_rank + turning),
        "attn_kv_a_norm": (c.kv_rank,),
        "attn_kv_b": (c.kv_rank, c.n_heads * (still + c.value_dim)),
        "attn_k_b": (still, c.kv_rank, c.n_heads),
        "attn_v_b": (c.kv_rank, c.value_dim, c.n_heads),
    }


FAMILIES = {
    "deepseek": Family(layer, configure=deepseek, unscaled=("ffn_",)),
    "deepseek2": Family(layer2, configure=deepseek2, shapes=deepseek2_shapes, unscaled=("ffn_",)),
    "mistral4": Family(layer2, configure=deepseek2, shapes=deepseek2_shapes, unscaled=("ffn_",)),
}
