"""DeciLM and Llama-Nemotron: Llama layers of which a search left out or simplified parts. Source: arXiv 2411.19146."""

from wasmrt.model.blocks import attention, feed_forward, linear, norm
from wasmrt.model.config import ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.llama import scaled_attention
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """Without heads there is no attention, with heads but none of keys one matrix in its place; the rest may lack, too."""
    if c.n_heads:
        h = norm(t, c, w, "attn_norm", x)
        x = t.add(x, attention(t, c, w, h) if c.n_kv_heads else linear(t, w, "attn_output", h))
    return t.add(x, feed_forward(t, c, w, norm(t, c, w, "ffn_norm", x))) if c.n_ff else x


FAMILIES = {"deci": Family(layer, configure=scaled_attention, unscaled=("ffn_",))}
