"""Hunyuan, and Maincoder: norms of queries and keys once they are turned."""

from dataclasses import replace

from wasmrt.model.blocks import attention, mixed, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.llama import without_experts
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    x = t.add(x, attention(t, c, w, norm(t, c, w, "attn_norm", x), qk_norm=True, norm_first=False))
    return t.add(x, mixed(t, c, w, norm(t, c, w, "ffn_norm", x)))


def moe(c: ModelConfig, keys: Keys) -> ModelConfig:
    """One shared expert beside those that are chosen."""
    return replace(c, n_ff_shared=keys.integer("expert_shared_feed_forward_length", 0, minimum=0) or c.n_ff)


FAMILIES = {
    "hunyuan-dense": Family(layer, rope="halves", configure=without_experts, unscaled=("ffn_",)),
    "maincoder": Family(layer, unscaled=("ffn_",)),
    "hunyuan-moe": Family(layer, rope="halves", configure=moe, unscaled=("ffn_",)),
}
