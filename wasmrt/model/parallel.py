"""Models whose attention and feed-forward network see the same stream, and add to it together.

Command R (Cohere), Falcon (arXiv 2311.16867), Phi-1 and 2 (arXiv 2309.05463), StableLM (arXiv 2402.17834), GPT-NeoX (arXiv
2204.06745). The last two do so in some sizes only.
"""

from dataclasses import replace

from wasmrt.model.blocks import attention, feed_forward, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.shapes import per_head_norms
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

COHERE2_PERIOD = 4


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """One norm for both. Command R+ normalizes queries and keys, too."""
    h = norm(t, c, w, "attn_norm", x)
    return t.add(t.add(x, feed_forward(t, c, w, h)), attention(t, c, w, h, qk_norm=w.has("attn_q_norm")))


def falcon(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """The larger Falcon has a norm of its own for attention."""
    h = norm(t, c, w, "attn_norm", x)
    before = norm(t, c, w, "attn_norm_2", x) if w.has("attn_norm_2") else h
    return t.add(t.add(x, attention(t, c, w, before)), feed_forward(t, c, w, h))


def stablelm(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """In parallel where there is no second norm: StableLM 2 12B."""
    h = norm(t, c, w, "attn_norm", x)
    x = t.add(x, attention(t, c, w, h, qk_norm=w.has("attn_q_norm")))
    return t.add(x, feed_forward(t, c, w, norm(t, c, w, "ffn_norm", x) if w.has("ffn_norm") else h))


def gptneox(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """A norm for each of the two, of the same stream if they are parallel."""
    a = attention(t, c, w, norm(t, c, w, "attn_norm", x))
    if c.parallel:
        return t.add(t.add(x, feed_forward(t, c, w, norm(t, c, w, "ffn_norm", x))), a)
    x = t.add(x, a)
    return t.add(x, feed_forward(t, c, w, norm(t, c, w, "ffn_norm", x)))


def command_r(c: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(c, logit_scale=keys.scale("logit_scale"))


def cohere2(c: ModelConfig, keys: Keys) -> ModelConfig:
    """Of four layers the last sees everything, and turns nothing."""
    windows = keys.windows(COHERE2_PERIOD)
    return command_r(c, keys).varied(window=windows, rope=tuple(c.rope if window else None for window in windows))


def parallel(c: ModelConfig, keys: Keys) -> ModelConfig:
    return replace(c, parallel=keys.flag("use_parallel_residual", True))


FAMILIES = {
    "command-r": Family(layer, norm="layer", configure=command_r, shapes=per_head_norms, unscaled=("ffn_",)),
    "cohere2": Family(layer, norm="layer", configure=cohere2),
    "plamo": Family(layer, rope="halves", unscaled=("ffn_",)),
    "phi2": Family(layer, rope="halves", norm="layer", activation="gelu", unscaled=("ffn_",)),
    "falcon": Family(falcon, rope="halves", norm="layer", activation="gelu", unscaled=("ffn_",)),
    "stablelm": Family(stablelm, rope="halves", norm="layer", shapes=per_head_norms, unscaled=("ffn_",)),
    "gptneox": Family(gptneox, rope="halves", norm="layer", activation="gelu", configure=parallel, unscaled=("ffn_",)),
}
