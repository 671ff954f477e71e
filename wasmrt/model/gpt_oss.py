"""gpt-oss: attention sinks, windows in every second layer, experts with biases and a clamped SwiGLU.

Source: arXiv 2508.10925.
"""

from dataclasses import replace

from wasmrt.model.blocks import attend, expert_linear, linear, norm, qkv, rotate, route
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

PERIOD = 2
ALPHA, LIMIT = 1.702, 7.0  # of the SwiGLU


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    q, k, v = qkv(t, c, w, norm(t, c, w, "attn_norm", x))
    a = attend(t, c, rotate(t, c, w, q), rotate(t, c, w, k), v, sinks=w.attn_sinks)
    x = t.add(x, linear(t, w, "attn_output", a))
    h = norm(t, c, w, "post_attention_norm", x)
    chosen, weights = route(t, c, w, h)
    gate, up = (expert_linear(t, w, name, h, chosen) for name in ("ffn_gate_exps", "ffn_up_exps"))
    y = expert_linear(t, w, "ffn_down_exps", t.swiglu_oai(gate, up, ALPHA, LIMIT), chosen)
    return t.add(x, t.expert_sum(y, weights))


def configure(c: ModelConfig, keys: Keys) -> ModelConfig:
    c = replace(c, expert_score="chosen", expert_normalize=False)
    return c.varied(window=keys.windows(PERIOD))


FAMILIES = {"gpt-oss": Family(layer, rope="halves", configure=configure, unscaled=("ffn_",))}
