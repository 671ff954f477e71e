"""What the definitions share: the table that they enter, and the ways in which ggml packs small integers and scales.

Every multiplication and addition is one float32 operation in the order that ggml does them, so that results equal those of ggml
and gguf-py bit for bit; hostile scales (inf, NaN) give inf and NaN, quietly. Bytes are read as little-endian on every host.
"""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wasmrt.gguf.types import BY_NAME

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

DEQUANTIZE: dict[int, Callable[[Bytes], Floats]] = {}  # by tensor type id; filled by @defines below


def defines(name: str) -> Callable[[Callable[[Bytes], Floats]], Callable[[Bytes], Floats]]:
    """Enter a function into the table as the meaning of format `name`; check its argument and silence inf * 0 and the like."""
    quant = BY_NAME[name]

    def enter(function: Callable[[Bytes], Floats]) -> Callable[[Bytes], Floats]:
        @functools.wraps(function)
        def checked(blocks: Bytes) -> Floats:
            if blocks.dtype != np.uint8 or blocks.ndim != 2 or blocks.shape[1] != quant.block_bytes:
                raise ValueError(
                    f"{name} blocks must be uint8 (n, {quant.block_bytes}), found {blocks.dtype} {tuple(blocks.shape)}"
                )
            with np.errstate(all="ignore"):
                return function(blocks)

        DEQUANTIZE[quant.id] = checked
        return checked

    return enter


def half(field: Bytes) -> Floats:
    """uint8 (n, 2), a little-endian f16 each, to float32 (n, 1)."""
    return field.view("<f2").astype(np.float32)


def fields(packed: Bytes, bits: int, run: int) -> Bytes:
    """Unpack `bits`-wide fields, uint8 (n, m) to uint8 (n, m * 8 // bits).

    ggml packs runs: of `run` consecutive bytes first all lowest fields are taken, then all second ones, and so on.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    values = packed.reshape(len(packed), packed.shape[1] // run, 1, run) >> shifts
    values &= np.uint8((1 << bits) - 1)
    return values.reshape(len(packed), packed.shape[1] * 8 // bits)


def scaled(q: Bytes | NDArray[np.int8], scale: Floats, minus: Floats | None = None) -> Floats:
    """scale[g] * q - minus[g]: q (n, weights) of small integers, scale and minus float32 (n, groups), to float32 (n, weights).

    All groups are equally long. Two roundings, never a fused multiply-add.
    """
    w = q.astype(np.float32).reshape(*scale.shape, q.shape[1] // scale.shape[1])
    w *= scale[..., None]
    if minus is not None:
        w -= minus[..., None]
    return w.reshape(q.shape)
