"""Plain numbers as weights: floats of 16 to 64 bits, and integers, which only tools meet."""

import numpy as np
from numpy.typing import NDArray

from wasmrt.gguf.quants.block import Bytes, Floats, defines, half


@defines("F32")
def dequantize_f32(blocks: Bytes) -> Floats:
    """F32, uint8 (n, 4), to float32 (n, 1): the number itself; a view of `blocks` on little-endian hosts."""
    return blocks.view("<f4").astype(np.float32, copy=False)


@defines("F16")
def dequantize_f16(blocks: Bytes) -> Floats:
    """F16, uint8 (n, 2), to float32 (n, 1). Exact."""
    return half(blocks)


@defines("BF16")
def dequantize_bf16(blocks: Bytes) -> Floats:
    """BF16, uint8 (n, 2), to float32 (n, 1): the upper half of an f32. Exact."""
    bits: NDArray[np.uint32] = np.left_shift(blocks.view("<u2"), 16, dtype=np.uint32)
    return bits.view(np.float32)


@defines("F64")
def dequantize_f64(blocks: Bytes) -> Floats:
    """F64, uint8 (n, 8), to float32 (n, 1): the nearest, infinity if there is none."""
    return blocks.view("<f8").astype(np.float32)


@defines("I8")
def dequantize_i8(blocks: Bytes) -> Floats:
    """I8, uint8 (n, 1), to float32 (n, 1). Exact."""
    return blocks.view("<i1").astype(np.float32)


@defines("I16")
def dequantize_i16(blocks: Bytes) -> Floats:
    """I16, uint8 (n, 2), to float32 (n, 1). Exact."""
    return blocks.view("<i2").astype(np.float32)


@defines("I32")
def dequantize_i32(blocks: Bytes) -> Floats:
    """I32, uint8 (n, 4), to float32 (n, 1): the nearest."""
    return blocks.view("<i4").astype(np.float32)


@defines("I64")
def dequantize_i64(blocks: Bytes) -> Floats:
    """I64, uint8 (n, 8), to float32 (n, 1): the nearest."""
    return blocks.view("<i8").astype(np.float32)
