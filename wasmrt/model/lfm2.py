"""LFM2: short gated convolutions, and attention in some layers. Source: Liquid AI 2025, arXiv 2511.23404."""

from dataclasses import replace

from wasmrt.model.blocks import attention, head, mixed, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.mixture import score
from wasmrt.model.positions import MAX_CONTEXT
from wasmrt.model.shapes import shapes
from wasmrt.model.weights import Shapes, Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    h = norm(t, c, w, "attn_norm", x)
    x = t.add(x, short_conv(t, c, w, h) if c.is_recurrent else attention(t, c, w, h, qk_norm=True))
    return t.add(x, mixed(t, c, w, norm(t, c, w, "ffn_norm", x)))


def short_conv(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """A convolution over a few tokens, of what one gate lets in; another lets it out. (T, n_embd)."""
    n = c.n_embd
    bcx = t.matmul(w.need("shortconv.in_proj"), h)                       # (T, 3 * n_embd)
    b, gate, y = (t.columns(bcx, start, n) for start in (0, n, 2 * n))
    y = t.causal_conv(t.mul(b, y), w.need("shortconv.conv"))
    return t.matmul(w.need("shortconv.out_proj"), t.mul(gate, y))


def configure(c: ModelConfig, keys: Keys) -> ModelConfig:
    """Layers without keys have a convolution."""
    n_kv_heads = c.by_layer.get("n_kv_heads", (c.n_kv_heads,) * c.n_layers)
    c = replace(c, n_taps=keys.integer("shortconv.l_cache", minimum=2, maximum=64))
    return c.varied(is_recurrent=tuple(n == 0 for n in n_kv_heads))


def lfm2(c: ModelConfig, keys: Keys) -> ModelConfig:
    window = keys.integer("attention.sliding_window", 0, minimum=0, maximum=MAX_CONTEXT)
    return replace(configure(c, keys), window=window)


def lfm2moe(c: ModelConfig, keys: Keys) -> ModelConfig:
    """The first layers have no experts."""
    dense = keys.integer("leading_dense_block_count", 0, minimum=0)
    c = replace(configure(c, keys), expert_score=score(keys))
    return c.varied(is_sparse=tuple(i >= dense for i in range(c.n_layers)))


def lfm2_shapes(c: ModelConfig) -> Shapes:
    n = c.n_embd
    conv = {"shortconv.conv": (c.n_taps, n), "shortconv.in_proj": (n, 3 * n), "shortconv.out_proj": (n, n)}
    return {**shapes(c), **conv}


def lfm2_head(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """The last norm has the name of the embedding's."""
    return head(t, c, w, x, "output_norm" if w.has("output_norm") else "token_embd_norm")


FAMILIES = {
    name: Family(layer, rope="halves", configure=configured, unscaled=("ffn_",), shapes=lfm2_shapes, head=lfm2_head)
    for name, configured in (("lfm2", lfm2), ("lfm2moe", lfm2moe))
}
