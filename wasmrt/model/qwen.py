"""Qwen's mixtures of experts. Sources: arXiv 2407.10671 (Qwen2), 2505.09388 (Qwen3)."""

from dataclasses import replace

from wasmrt.model.blocks import attention, experts, feed_forward, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.llama import normed_qk
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder


def qwen2moe_layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """One layer; how much the shared expert adds is gated by each token."""
    x = t.add(x, attention(t, c, w, norm(t, c, w, "attn_norm", x)))
    h = norm(t, c, w, "ffn_norm", x)
    return t.add(x, t.add(experts(t, c, w, h), gated_shared(t, c, w, h)))


def gated_shared(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    gate = t.unary(t.matmul(w.ffn_gate_inp_shexp, h), "sigmoid")  # (T, 1)
    return t.expert_sum(feed_forward(t, c, w, h, "_shexp"), gate)


def qwen2moe(c: ModelConfig, keys: Keys) -> ModelConfig:
    n_ff = keys.integer("expert_feed_forward_length", 0, minimum=0) or c.n_ff // max(1, c.n_experts_used)
    shared = keys.integer("expert_shared_feed_forward_length", 0, minimum=0) or c.n_ff
    return replace(c, n_ff_experts=n_ff, n_ff_shared=shared, expert_normalize=False)


FAMILIES = {
    "qwen2moe": Family(qwen2moe_layer, rope="halves", configure=qwen2moe, unscaled=("ffn_",)),
    "qwen3moe": Family(normed_qk, rope="halves"),
    "qwen3vlmoe": Family(normed_qk, rope="halves", unscaled=("ffn_",)),
}
