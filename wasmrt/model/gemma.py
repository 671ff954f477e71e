"""Gemma: embeddings that are scaled, GeGLU, norms after blocks from Gemma 2 on.

Sources: arXiv 2403.08295, 2408.00118, 2503.19786.
"""

import math
from dataclasses import replace

from wasmrt.model.blocks import attention, feed_forward, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

GEMMA2_WINDOW, GEMMA2_PERIOD = 4096, 2
GEMMA3_PERIOD = 6
GEMMA3_LOCAL_BASE = 10000.0  # of layers with a window, which turn with a base of their own
WIDE_LAYERS = {46, 62}  # the 27B models divide scores by the width of a head's part of the stream


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """One layer of the first Gemma."""
    x = t.add(x, attention(t, c, w, norm(t, c, w, "attn_norm", x)))
    return t.add(x, feed_forward(t, c, w, norm(t, c, w, "ffn_norm", x)))


def layer2(t: Recorder, c: ModelConfig, w: Weights, x: Operand, qk_norm: bool = False) -> Operand:
    """One layer of Gemma 2: what a block gives is normalized before it is added."""
    a = attention(t, c, w, norm(t, c, w, "attn_norm", x), qk_norm)
    x = t.add(x, norm(t, c, w, "post_attention_norm", a))
    f = feed_forward(t, c, w, norm(t, c, w, "ffn_norm", x))
    return t.add(x, norm(t, c, w, "post_ffw_norm", f))


def layer3(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """One layer of Gemma 3: the same with norms of queries and keys."""
    return layer2(t, c, w, x, qk_norm=True)


def gemma(c: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(c, embedding_scale=math.sqrt(c.n_embd))


def gemma2(c: ModelConfig, keys: Keys) -> ModelConfig:
    c = replace(
        gemma(c, keys),
        attention_scale=scale(c),
        attention_softcap=keys.number("attn_logit_softcapping", 50.0, minimum=0.0),
        logit_softcap=keys.number("final_logit_softcapping", 30.0, minimum=0.0),
    )
    return c.varied(window=keys.windows(GEMMA2_PERIOD, GEMMA2_WINDOW))


def gemma3(c: ModelConfig, keys: Keys) -> ModelConfig:
    c = replace(
        gemma(c, keys), attention_scale=scale(c), logit_softcap=keys.number("final_logit_softcapping", 0.0, minimum=0.0)
    )
    windows = keys.windows(GEMMA3_PERIOD)
    assert c.rope
    local = replace(c.rope, base=keys.positive("rope.freq_base_swa", GEMMA3_LOCAL_BASE), scale=1.0)
    return c.varied(window=windows, rope=tuple(local if window else c.rope for window in windows))


def scale(c: ModelConfig) -> float:
    return 1 / math.sqrt(max(1, c.n_embd // c.n_heads) if c.n_layers in WIDE_LAYERS else c.head_dim)


FAMILIES = {
    "gemma": Family(layer, rope="halves", activation="geglu", configure=gemma, unscaled=("ffn_",)),
    "gemma2": Family(layer2, rope="halves", activation="geglu", configure=gemma2, unscaled=("ffn_",)),
    "gemma3": Family(layer3, rope="halves", activation="geglu", configure=gemma3, unscaled=("ffn_",)),
}
