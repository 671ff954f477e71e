"""Mixtures of experts on Llama's layer: what varies is how experts are chosen and weighed, and what stands beside them.

OLMoE (arXiv 2409.02060), DBRX, GLM-4.5 (arXiv 2508.06471), dots.llm1 (arXiv 2506.05767), Ling (arXiv 2503.05139), MiniMax-M2,
ERNIE 4.5, K-EXAONE.
"""

from dataclasses import replace

from wasmrt.errors import UnsupportedError
from wasmrt.model.blocks import attention, experts, feed_forward, mixed, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.llama import layer, normed_qk
from wasmrt.model.shapes import shapes, whole_norms
from wasmrt.model.weights import Shapes, Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

UNSCALED = ("ffn_",)
SCORES = {1: "softmax", 2: "sigmoid", 3: "chosen"}  # expert_gating_func


def dbrx_layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """Llama's layer with another name for the second norm."""
    x = t.add(x, attention(t, c, w, norm(t, c, w, "attn_norm", x)))
    return t.add(x, mixed(t, c, w, norm(t, c, w, "attn_output_norm", x)))


def glm4moe_layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """The same with a third name, and in the larger models norms of queries and keys."""
    x = t.add(x, attention(t, c, w, norm(t, c, w, "attn_norm", x), qk_norm=w.has("attn_q_norm")))
    return t.add(x, mixed(t, c, w, norm(t, c, w, "post_attention_norm", x)))


def score(keys: Keys, default: int = 1) -> str:
    """What a router's logit weighs."""
    function = keys.integer("expert_gating_func", 0, minimum=0) or default
    if function not in SCORES:
        raise UnsupportedError(f"{keys.name('expert_gating_func')} is {function}, which is not supported; supported: 1 to 3")
    return SCORES[function]


def mixture(c: ModelConfig, keys: Keys) -> ModelConfig:
    """Layers without experts first, shared experts, and the weights of those that are chosen, as the file has them."""
    dense = keys.integer("leading_dense_block_count", 0, minimum=0)
    n_shared = keys.integer("expert_shared_count", 0, minimum=0, maximum=4096)
    c = replace(
        c,
        n_ff_shared=c.n_ff_experts * n_shared,
        expert_score=score(keys),
        expert_scale=keys.scale("expert_weights_scale"),
        expert_normalize=keys.flag("expert_weights_norm", False),
    )
    return c.varied(is_sparse=tuple(c.n_experts > 0 and i >= dense for i in range(c.n_layers)))


def unnormalized(c: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(c, expert_normalize=False)


def dbrx(c: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(c, clamp_qkv=keys.positive("attention.clamp_kqv"))


def minimax_m2(c: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(c, expert_score=score(keys))


def glm4moe(c: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(mixture(c, keys), expert_score=score(keys, default=2))


def bailingmoe(c: ModelConfig, keys: Keys) -> ModelConfig:
    c = replace(mixture(c, keys), expert_score="softmax")
    return c.varied(is_sparse=(c.n_experts > 0,) * c.n_layers)


def bailingmoe2(c: ModelConfig, keys: Keys) -> ModelConfig:
    shared = keys.integer("expert_shared_feed_forward_length", 0, minimum=0) or c.n_ff_experts
    return replace(mixture(c, keys), n_ff_shared=shared * keys.integer("expert_shared_count", minimum=0, maximum=4096))


def exaone_moe(c: ModelConfig, keys: Keys) -> ModelConfig:
    """Of four layers the last sees everything, and turns nothing."""
    shared = keys.integer("expert_shared_feed_forward_length", 0, minimum=0) or c.n_ff_experts
    c = replace(mixture(c, keys), n_ff_shared=shared)
    windows = keys.windows(4, 128)
    return c.varied(window=windows, rope=tuple(c.rope if window else None for window in windows))


def ernie(c: ModelConfig, keys: Keys) -> ModelConfig:
    """Experts in every n-th layer behind the first ones."""
    dense, step = keys.integer("leading_dense_block_count", 0, minimum=0), keys.integer("interleave_moe_layer_step")
    c = replace(c, n_ff_shared=keys.integer("expert_shared_feed_forward_length", 0, minimum=0))
    return c.varied(is_sparse=tuple(i >= dense and (i + 1) % step == 0 for i in range(c.n_layers)))


def arctic_layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """Experts beside the whole layer, on what enters it. Source: Snowflake 2024."""
    y = t.add(x, attention(t, c, w, norm(t, c, w, "attn_norm", x)))
    y = t.add(y, feed_forward(t, c, w, norm(t, c, w, "ffn_norm", y)))
    return t.add(y, experts(t, c, w, norm(t, c, w, "ffn_norm_exps", x)))


def arctic_shapes(c: ModelConfig) -> Shapes:
    """Its dense part is as wide as the stream."""
    n = c.n_embd
    dense = {"ffn_gate": (n, n), "ffn_up": (n, n), "ffn_down": (n, n)}
    return {**shapes(c), **dense, "ffn_norm_exps": (n,)}


FAMILIES = {
    "arctic": Family(arctic_layer, unscaled=UNSCALED, shapes=arctic_shapes),
    "olmoe": Family(normed_qk, rope="halves", configure=unnormalized, unscaled=UNSCALED, shapes=whole_norms),
    "dbrx": Family(dbrx_layer, rope="halves", norm="layer", configure=dbrx, unscaled=UNSCALED),
    "glm4moe": Family(glm4moe_layer, rope="halves", configure=glm4moe, unscaled=UNSCALED),
    "dots1": Family(normed_qk, rope="halves", configure=mixture, unscaled=UNSCALED),
    "bailingmoe": Family(layer, configure=bailingmoe, unscaled=UNSCALED),
    "bailingmoe2": Family(normed_qk, rope="halves", configure=bailingmoe2, unscaled=UNSCALED),
    "minimax-m2": Family(normed_qk, rope="halves", configure=minimax_m2, unscaled=UNSCALED, shapes=whole_norms),
    "exaone-moe": Family(normed_qk, rope="halves", configure=exaone_moe, unscaled=UNSCALED),
    "ernie4_5-moe": Family(layer, configure=ernie, unscaled=UNSCALED, unbiased=("attn_output",)),
}
