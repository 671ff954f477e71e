"""Mamba and attention in turn: Jamba (arXiv 2403.19887), with experts in some layers, and PLaMo 2 (arXiv 2509.04897)."""

from dataclasses import replace

from wasmrt.model.blocks import attention, feed_forward, linear, mixed, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.mamba import SCAN_NORMS, UNSCALED, convolved, first_mamba, mamba, mamba_shapes, scan_norm, state_space
from wasmrt.model.shapes import fused_up, per_head_norms
from wasmrt.model.weights import Shapes, Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

PLAMO2_UNSCALED = ("ffn_", "attn_qkv", "ssm_")
PLAMO2_RANK, PLAMO2_RANK_PER = 64, 16  # its steps come from so many numbers at least, and from one for so many elements


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """One layer of Jamba; whether it has experts, only its tensors say."""
    h = norm(t, c, w, "attn_norm", x)
    x = t.add(x, mamba(t, c, w, h) if c.is_recurrent else attention(t, c, w, h))
    return t.add(x, mixed(t, replace(c, is_sparse=w.has("ffn_gate_inp")), w, norm(t, c, w, "ffn_norm", x)))


def plamo2_layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """One layer of PLaMo 2: what blocks give is normalized, too."""
    h = norm(t, c, w, "attn_norm", x)
    a = plamo2_mamba(t, c, w, h) if c.is_recurrent else attention(t, c, w, h, qk_norm=True)
    x = t.add(x, scan_norm(t, c, w, "post_attention_norm", a))
    f = feed_forward(t, c, w, norm(t, c, w, "ffn_norm", x))
    return t.add(x, scan_norm(t, c, w, "post_ffw_norm", f))


def plamo2_mamba(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """Mamba with a step for each head of channels, whose gates and inputs lie together: (T, n_embd)."""
    p, n_state = c.ssm_inner // c.ssm_heads, c.ssm_state
    both = linear(t, w, "ssm_in", h)                                                    # (T, ssm_heads * 2 * p)
    z, x = t.columns(both, 0, p, 2 * p), convolved(t, w, t.columns(both, p, p, 2 * p))
    scan = t.matmul(w.ssm_x, x)                                                         # (T, 2 * ssm_state + ssm_rank)
    parts = t.columns(scan, 2 * n_state, c.ssm_rank), t.columns(scan, 0, n_state), t.columns(scan, n_state, n_state)
    dt, b, read = (scan_norm(t, c, w, name, part) for name, part in zip(SCAN_NORMS, parts, strict=True))
    dt = t.add(t.matmul(w.ssm_dt, dt), w.need("ssm_dt", "bias"))                        # (T, ssm_heads)
    y = t.ssm_scan(x, dt, b, read, w.need("ssm_a", ""), d=w.need("ssm_d", ""))
    return linear(t, w, "ssm_out", t.swiglu(z, y))


def in_turn(c: ModelConfig) -> ModelConfig:
    """Layers without keys are recurrent."""
    n_kv_heads = c.by_layer.get("n_kv_heads", (c.n_kv_heads,) * c.n_layers)
    return c.varied(is_recurrent=tuple(n == 0 for n in n_kv_heads))


def jamba(c: ModelConfig, keys: Keys) -> ModelConfig:
    c = replace(first_mamba(c, keys), ssm_norms=True, expert_normalize=False, n_ff_experts=c.n_ff)
    return in_turn(c)


def plamo2(c: ModelConfig, keys: Keys) -> ModelConfig:
    return in_turn(replace(state_space(c, keys), ssm_rank=max(PLAMO2_RANK, c.n_embd // PLAMO2_RANK_PER)))


def plamo2_shapes(c: ModelConfig) -> Shapes:
    own = {
        "ssm_x": (c.ssm_inner, c.ssm_rank + 2 * c.ssm_state),
        "ssm_dt": (c.ssm_rank, c.ssm_heads),
        "ssm_a": (1, c.ssm_heads),
        "ssm_d": (c.ssm_heads,),
    }
    return {**mamba_shapes(c), **per_head_norms(c), "ffn_up": fused_up(c)["ffn_up"], **own}


FAMILIES = {
    "jamba": Family(layer, rope="", configure=jamba, shapes=mamba_shapes, unscaled=("ffn_", *UNSCALED)),
    "plamo2": Family(plamo2_layer, rope="halves", configure=plamo2, shapes=plamo2_shapes, unscaled=PLAMO2_UNSCALED),
}
