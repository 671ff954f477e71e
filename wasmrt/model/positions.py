"""Rotary embeddings as files describe them: no, linear, YaRN or long scaling."""

import math
from typing import TYPE_CHECKING

from wasmrt.errors import FormatError, UnsupportedError
from wasmrt.program.record import Rope

if TYPE_CHECKING:
    from wasmrt.model.config import Keys

MAX_CONTEXT = 1 << 27
MAX_MAGNITUDE = 1e6  # of what queries and keys are multiplied by; published models stay near 1
SCALINGS = "none, linear, yarn, longrope"


def read_rope(keys: "Keys", head_dim: int, style: str, n_ctx_train: int) -> Rope:
    """The rotation of a model's heads; llama-3's and longrope's factors are tensors, not metadata. Raises FormatError."""
    key = keys.name("rope.")
    n_dims = keys.integer("rope.dimension_count", head_dim)
    if n_dims > head_dim or n_dims % 2:
        raise FormatError(f"{key}dimension_count is {n_dims}, expected an even number up to the head's {head_dim}")
    # its powers are to be numbers
    base = keys.metadata.number(key + "freq_base", default=10000.0, minimum=1e-6, maximum=1e30)
    scaling = keys.metadata.string(key + "scaling.type", default="linear")
    said = keys.number("rope.scaling.factor", 0.0)
    factor = keys.positive("rope.scaling.factor") if said else keys.positive("rope.scale_linear", 1.0)
    # Files of Phi-3 have this factor without a type of scaling. What converters call yarn_attn_factor is the whole magnitude as
    # `transformers` has it, so no factor of YaRN's own.
    attention = keys.positive("rope.scaling.attn_factor", 1.0)
    if scaling in ("none", "", "linear", "longrope"):
        _check_magnitude(key, attention, factor, attention)
        scale = 1.0 if scaling in ("none", "") else 1 / factor
        return Rope(n_dims, head_dim, base, style, scale=scale, magnitude=attention)
    if scaling != "yarn":
        raise UnsupportedError(f"rope scaling {scaling!r} ({key}scaling.type) is not supported; supported: {SCALINGS}")
    n_ctx = keys.integer("rope.scaling.original_context_length", n_ctx_train, maximum=MAX_CONTEXT)
    fast = keys.metadata.number(key + "scaling.yarn_beta_fast", default=32.0, minimum=1e-6, maximum=1e6)
    slow = keys.metadata.number(key + "scaling.yarn_beta_slow", default=1.0, minimum=1e-6, maximum=1e6)
    magnitude = attention * (1 + 0.1 * math.log(factor))
    _check_magnitude(key, attention, factor, magnitude)
    if base <= 1:
        raise FormatError(f"{key}freq_base is {base}, expected a number above 1 for YaRN scaling")

    def pair_of(turns: float) -> float:
        """The pair that turns this often over the original context."""
        return n_dims * math.log(n_ctx / (turns * 2 * math.pi)) / (2 * math.log(base))

    mix = keys.number("rope.scaling.yarn_ext_factor", -1.0)  # less than 0: not said
    return Rope(
        n_dims,
        head_dim,
        base,
        style,
        scale=1 / factor,
        magnitude=magnitude,
        extrapolation=1.0 if mix < 0 else mix,
        ramp_low=max(0.0, math.floor(pair_of(fast))),
        ramp_high=min(n_dims - 1.0, math.ceil(pair_of(slow))),
    )


def _check_magnitude(key: str, attention: float, factor: float, magnitude: float) -> None:
    if not 0 < magnitude <= MAX_MAGNITUDE:
        what = f"{key}scaling.attn_factor {attention} and {key}scaling.factor {factor}"
        raise FormatError(f"{what} scale queries by {magnitude}, expected a number above 0, up to {MAX_MAGNITUDE:g}")
