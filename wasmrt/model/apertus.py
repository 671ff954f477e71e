"""Apertus: norms of queries and keys, and xIELU with numbers of each layer's own. Sources: arXiv 2509.14233, 2411.13010."""

import math
from dataclasses import replace

from wasmrt.model.blocks import attention, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    x = t.add(x, attention(t, c, w, norm(t, c, w, "attn_norm", x), qk_norm=True))
    up = t.matmul(w.ffn_up, norm(t, c, w, "ffn_norm", x))
    return t.add(x, t.matmul(w.ffn_down, t.unary(up, "xielu", *c.xielu)))


def configure(c: ModelConfig, keys: Keys) -> ModelConfig:
    xielu = Keys(keys.metadata, "xielu", c.n_layers)  # its numbers have keys without the architecture's name
    read = zip(*(xielu.numbers(name) for name in ("alpha_n", "alpha_p", "beta", "eps")), strict=True)
    c = replace(c, attention_scale=keys.number("attention.scale", 0.0, minimum=0.0) or c.attention_scale)
    return c.varied(xielu=tuple((beta + softplus(n), softplus(p), beta, eps) for n, p, beta, eps in read))


def softplus(x: float) -> float:
    """What the slopes that are learned become, to be above 0."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


FAMILIES = {"apertus": Family(layer, rope="halves", configure=configure, unscaled=("ffn_",))}
