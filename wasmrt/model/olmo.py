"""OLMo: layer norms without weights, which divide alone, and clamped queries, keys and values. Source: arXiv 2402.00838."""

from dataclasses import replace

from wasmrt.model.blocks import attention, feed_forward, linear
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    x = t.add(x, attention(t, c, w, t.layer_norm(x, None, c.norm_eps)))
    return t.add(x, feed_forward(t, c, w, t.layer_norm(x, None, c.norm_eps)))


def head(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    h = t.layer_norm(t.last_rows(x), None, c.norm_eps)
    return linear(t, w, "output" if w.has("output") else "token_embd", h)


def configure(c: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(c, clamp_qkv=keys.number("attention.clamp_kqv", 0.0, minimum=0.0))


FAMILIES = {"olmo": Family(layer, norm="layer", configure=configure, unscaled=("ffn_",), head=head)}
