"""Mamba: selective state spaces in place of attention. Sources: arXiv 2312.00752 (Mamba), 2405.21060 (Mamba-2).

What a layer keeps of the tokens before is of one size, however many they were: the last inputs of a short convolution, and
`ssm_state` numbers for each channel.
"""

from dataclasses import replace

from wasmrt.model.blocks import linear, norm
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.family import Family
from wasmrt.model.shapes import shapes
from wasmrt.model.weights import Shapes, Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

SCAN_NORMS = ("ssm_dt_norm", "ssm_b_norm", "ssm_c_norm")
UNSCALED = ("ssm_x", "ssm_dt")  # see Family.unscaled


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    return t.add(x, mamba(t, c, w, norm(t, c, w, "attn_norm", x)))


def layer2(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    return t.add(x, mamba2(t, c, w, norm(t, c, w, "attn_norm", x)))


def mamba(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """A scan with a step for each channel; steps, and what is written and read, depend on the token: (T, n_embd)."""
    n, n_state = c.ssm_inner, c.ssm_state
    both = linear(t, w, "ssm_in", h)                                                    # (T, 2 * ssm_inner)
    x, z = convolved(t, w, t.columns(both, 0, n)), t.columns(both, n, n)
    scan = t.matmul(w.ssm_x, x)                                                         # (T, ssm_rank + 2 * ssm_state)
    dt = t.columns(scan, 0, c.ssm_rank)
    b, read = t.columns(scan, c.ssm_rank, n_state), t.columns(scan, c.ssm_rank + n_state, n_state)
    if c.ssm_norms and any(map(w.has, SCAN_NORMS)):
        dt, b, read = (scan_norm(t, c, w, name, part) for name, part in zip(SCAN_NORMS, (dt, b, read), strict=True))
    elif c.ssm_norms:
        dt, b, read = (t.rms_norm(part, None, c.norm_eps) for part in (dt, b, read))
    dt = t.add(t.matmul(w.ssm_dt, dt), w.need("ssm_dt", "bias"))                        # (T, ssm_inner)
    y = t.ssm_scan(x, dt, b, read, w.need("ssm_a", ""), d=w.need("ssm_d", ""))
    return linear(t, w, "ssm_out", t.swiglu(z, y))


def mamba2(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """A scan with a step for each head of channels; groups of heads share what they write and read: (T, n_embd)."""
    n, n_group = c.ssm_inner, c.ssm_groups * c.ssm_state
    every = linear(t, w, "ssm_in", h)                                                   # (T, 2 * n + 2 * n_group + ssm_heads)
    z, dt = t.columns(every, 0, n), t.columns(every, 2 * n + 2 * n_group, c.ssm_heads)
    xbc = convolved(t, w, t.columns(every, n, n + 2 * n_group))
    x, b, read = t.columns(xbc, 0, n), t.columns(xbc, n, n_group), t.columns(xbc, n + n_group, n_group)
    dt = t.add(dt, w.need("ssm_dt", "bias"))
    y = t.ssm_scan(x, dt, b, read, w.need("ssm_a", ""), c.ssm_groups, w.need("ssm_d", ""))
    y = t.swiglu(z, y)                                                                  # (T, ssm_inner)
    if w.has("ssm_norm"):
        y = t.rms_norm(y, w.ssm_norm, c.norm_eps, group=n // c.ssm_groups)
    return linear(t, w, "ssm_out", y)


def convolved(t: Recorder, w: Weights, x: Operand) -> Operand:
    """x mixed with the tokens just before, each channel by itself."""
    y, bias = t.causal_conv(x, w.ssm_conv1d), w.get("ssm_conv1d", "bias")
    return t.unary(y if bias is None else t.add(y, bias), "silu")


def scan_norm(t: Recorder, c: ModelConfig, w: Weights, name: str, x: Operand) -> Operand:
    """A norm whose weight files name in two ways."""
    return t.rms_norm(x, w.need(name, "weight" if w.has(name) else ""), c.norm_eps)


def state_space(c: ModelConfig, keys: Keys) -> ModelConfig:
    """The sizes of Mamba-2's scan."""
    return replace(
        c,
        n_taps=keys.integer("ssm.conv_kernel", minimum=2, maximum=64),
        ssm_inner=keys.integer("ssm.inner_size"),
        ssm_state=keys.integer("ssm.state_size"),
        ssm_heads=keys.integer("ssm.time_step_rank"),
        ssm_groups=keys.integer("ssm.group_count", 1, minimum=0) or 1,
    )


def first_mamba(c: ModelConfig, keys: Keys) -> ModelConfig:
    """The sizes of Mamba's scan: each channel is a head, and steps come from few numbers.

    Falcon Mamba (arXiv 2410.05355) normalizes what the scan takes.
    """
    c = state_space(c, keys)
    return replace(
        c, ssm_rank=c.ssm_heads, ssm_heads=c.ssm_inner, ssm_groups=1, ssm_norms=keys.flag("ssm.dt_b_c_rms", False)
    )


def alone(c: ModelConfig) -> ModelConfig:
    """All layers are recurrent."""
    return replace(c, is_recurrent=True)


def mamba_shapes(c: ModelConfig) -> Shapes:
    n = c.ssm_inner
    return {
        **shapes(c),
        "ssm_in": (c.n_embd, 2 * n),
        "ssm_conv1d": (c.n_taps, n),
        "ssm_x": (n, c.ssm_rank + 2 * c.ssm_state),
        "ssm_dt": (c.ssm_rank, n),
        "ssm_dt_norm": (c.ssm_rank,),
        "ssm_b_norm": (c.ssm_state,),
        "ssm_c_norm": (c.ssm_state,),
        "ssm_a": (c.ssm_state, n),
        "ssm_d": (n,),
        "ssm_out": (n, c.n_embd),
    }


def mamba2_shapes(c: ModelConfig) -> Shapes:
    n, n_group = c.ssm_inner, c.ssm_groups * c.ssm_state
    return {
        **shapes(c),
        "ssm_in": (c.n_embd, 2 * n + 2 * n_group + c.ssm_heads),
        "ssm_conv1d": (c.n_taps, n + 2 * n_group),
        "ssm_dt": (c.ssm_heads,),
        "ssm_a": (1, c.ssm_heads),
        "ssm_d": (1, c.ssm_heads),
        "ssm_norm": (n // c.ssm_groups, c.ssm_groups),
        "ssm_out": (n, c.n_embd),
    }


FAMILIES = {
    "mamba": Family(
        layer, rope="", configure=lambda c, keys: alone(first_mamba(c, keys)), shapes=mamba_shapes, unscaled=UNSCALED
    ),
    "mamba2": Family(layer2, rope="", configure=lambda c, keys: alone(state_space(c, keys)), shapes=mamba2_shapes),
}
