"""Models that normalize what their blocks give.

GLM-4 (arXiv 2406.12793), OLMo 2 (arXiv 2501.00656), EXAONE 4 (arXiv 2507.11407).
"""

from dataclasses import replace

from wasmrt.model.blocks import attention, feed_forward, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.shapes import fused_up, whole_norms
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

OLMO3_PERIOD = EXAONE4_PERIOD = 4
EXAONE4_32B_LAYERS, EXAONE4_WINDOW = 64, 4096


def glm4(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """Norms before blocks, too."""
    a = attention(t, c, w, norm(t, c, w, "attn_norm", x))
    x = t.add(x, norm(t, c, w, "post_attention_norm", a))
    f = feed_forward(t, c, w, norm(t, c, w, "ffn_norm", x))
    return t.add(x, norm(t, c, w, "post_ffw_norm", f))


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """Norms after blocks alone, and of queries and keys."""
    x = t.add(x, norm(t, c, w, "post_attention_norm", attention(t, c, w, x, qk_norm=True)))
    return t.add(x, norm(t, c, w, "post_ffw_norm", feed_forward(t, c, w, x)))


def glm4_config(c: ModelConfig, keys: Keys) -> ModelConfig:
    """Files with sections for images turn halves: of a text all sections have the same position."""
    return replace(c, rope=replace(c.rope, style="halves")) if c.rope and "rope.dimension_sections" in keys else c


def olmo2(c: ModelConfig, keys: Keys) -> ModelConfig:
    """OLMo 3 has windows, and in layers with one no scaling of its rotation."""
    if not keys.integer("attention.sliding_window", 0, minimum=0):
        return c
    windows = keys.windows(OLMO3_PERIOD)
    assert c.rope
    plain = replace(c.rope, scale=1.0, magnitude=1.0, extrapolation=0.0)
    return c.varied(window=windows, rope=tuple(plain if window else c.rope for window in windows))


def exaone4(c: ModelConfig, keys: Keys) -> ModelConfig:
    """The larger one has windows, and turns nothing in layers without. Files of the smaller one may state a window, too."""
    if c.n_layers != EXAONE4_32B_LAYERS:
        return c
    windows = keys.windows(EXAONE4_PERIOD, EXAONE4_WINDOW)
    return c.varied(window=windows, rope=tuple(c.rope if window else None for window in windows))


FAMILIES = {
    "glm4": Family(glm4, configure=glm4_config, shapes=fused_up, unscaled=("ffn_",)),
    "olmo2": Family(layer, rope="halves", configure=olmo2, shapes=whole_norms, unscaled=("ffn_",)),
    "exaone4": Family(layer, rope="halves", configure=exaone4, unscaled=("ffn_",)),
}
