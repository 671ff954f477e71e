"""What each block format means: GGUF tensor bytes to float32, in numpy.

One function a format, from uint8 (n, bytes per block) to float32 (n, weights per block). Every multiplication and addition is
one float32 operation in the order that ggml does them, so the results equal those of ggml and gguf-py bit for bit; hostile
scales (inf, NaN) give inf and NaN, quietly. Bytes are read as little-endian on every host.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wasmrt.errors import UnsupportedError
from wasmrt.gguf.types import BY_NAME, QuantType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

DEQUANTIZE: dict[int, Callable[[Bytes], Floats]] = {}  # by tensor type id; filled by @defines below


def dequantize(quant: QuantType, data: bytes | bytearray | memoryview | NDArray[Any], n_rows: int, row_length: int) -> Floats:
    """The weights in `data`, n_rows rows of row_length weights as they lie in the file, to float32 (n_rows, row_length).

    The result of F32 may share memory with `data`; every other result is new. Raises UnsupportedError if the format has no
    definition here, ValueError if row_length is not a whole number of blocks or `data` is not that many bytes.
    """
    function = DEQUANTIZE.get(quant.id)
    if function is None:
        supported = ", ".join(name for name, known in BY_NAME.items() if known.id in DEQUANTIZE)
        raise UnsupportedError(
            f"tensor type {quant.name} is not supported for computing; supported: {supported}; use a file in one of these types"
        )
    if n_rows < 0 or row_length < 0 or row_length % quant.block:
        raise ValueError(f"{n_rows} rows of {row_length} weights: {quant.name} rows are whole blocks of {quant.block}")
    raw = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    n_bytes = n_rows * quant.row_bytes(row_length)
    if raw.size != n_bytes:
        raise ValueError(f"{n_rows} rows of {row_length} {quant.name} weights are {n_bytes} bytes, not {raw.size}")
    return function(np.ascontiguousarray(raw).reshape(-1, quant.block_bytes)).reshape(n_rows, row_length)


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


def k_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The eight 6-bit scales and eight 6-bit mins of Q4_K and Q5_K: uint8 (n, 12) to two uint8 (n, 8).

    Bytes 0-3: scales 0-3, bytes 4-7: mins 0-3, in the low six bits; their top two bits are the top bits of scales and mins 4-7,
    whose low four bits are the low and high nibbles of bytes 8-11. Source: ggml get_scale_min_k4.
    """
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=1)
    mins = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], axis=1)
    return scales, mins


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


@defines("Q8_0")
def dequantize_q8_0(blocks: Bytes) -> Floats:
    """Q8_0 blocks, uint8 (n, 34), to float32 (n, 32): w = d*q.

    Bytes 0-1 d (f16); 2-33 q, signed. Source: ggml block_q8_0.
    """
    return scaled(blocks[:, 2:34].view(np.int8), half(blocks[:, 0:2]))


@defines("Q4_0")
def dequantize_q4_0(blocks: Bytes) -> Floats:
    """Q4_0 blocks, uint8 (n, 18), to float32 (n, 32): w = d*(q - 8).

    Bytes 0-1 d (f16); 2-17 quants, weights 0-15 in the low nibbles, 16-31 in the high ones. Source: ggml block_q4_0.
    """
    q = fields(blocks[:, 2:18], 4, 16).view(np.int8)
    q -= 8
    return scaled(q, half(blocks[:, 0:2]))


@defines("Q4_1")
def dequantize_q4_1(blocks: Bytes) -> Floats:
    """Q4_1 blocks, uint8 (n, 20), to float32 (n, 32): w = d*q + m.

    Bytes 0-1 d, 2-3 m (f16); 4-19 quants as in Q4_0. Source: ggml block_q4_1.
    """
    return scaled(fields(blocks[:, 4:20], 4, 16), half(blocks[:, 0:2]), -half(blocks[:, 2:4]))


@defines("Q5_0")
def dequantize_q5_0(blocks: Bytes) -> Floats:
    """Q5_0 blocks, uint8 (n, 22), to float32 (n, 32): w = d*(q - 16).

    Bytes 0-1 d (f16); 2-5 the fifth bits, weight i at bit i; 6-21 the low four as in Q4_0. Source: ggml block_q5_0.
    """
    q = fields(blocks[:, 6:22], 4, 16)
    q |= np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little") << 4
    signed = q.view(np.int8)
    signed -= 16
    return scaled(signed, half(blocks[:, 0:2]))


@defines("Q5_1")
def dequantize_q5_1(blocks: Bytes) -> Floats:
    """Q5_1 blocks, uint8 (n, 24), to float32 (n, 32): w = d*q + m.

    Bytes 0-1 d, 2-3 m (f16); 4-7 the fifth bits, 8-23 the low four as in Q5_0. Source: ggml block_q5_1.
    """
    q = fields(blocks[:, 8:24], 4, 16)
    q |= np.unpackbits(blocks[:, 4:8], axis=1, bitorder="little") << 4
    return scaled(q, half(blocks[:, 0:2]), -half(blocks[:, 2:4]))


@defines("Q2_K")
def dequantize_q2_k(blocks: Bytes) -> Floats:
    """Q2_K superblocks, uint8 (n, 84), to float32 (n, 256): w = d*scale*q - dmin*min, per 16 weights.

    Bytes 0-15 scales (low nibble) and mins (high nibble); 16-79 quants: each 32 bytes hold 128 weights, lowest two bits first;
    80-81 d, 82-83 dmin (f16). Source: ggml block_q2_K.
    """
    scales = blocks[:, 0:16]
    return scaled(
        fields(blocks[:, 16:80], 2, 32), half(blocks[:, 80:82]) * (scales & 15), half(blocks[:, 82:84]) * (scales >> 4)
    )


@defines("Q3_K")
def dequantize_q3_k(blocks: Bytes) -> Floats:
    """Q3_K superblocks, uint8 (n, 110), to float32 (n, 256): w = d*(scale - 32)*(q - 4), per 16 weights.

    Bytes 0-31 the third bits: bit i of byte j is of weight 32*i + j; 32-95 the low two bits as in Q2_K; 96-107 sixteen 6-bit
    scales: low nibbles of 96-103 then their high nibbles are the low four bits, the fields of 104-107 the high two; 108-109 d
    (f16). Source: ggml block_q3_K.
    """
    q = fields(blocks[:, 32:96], 2, 32)
    q |= fields(blocks[:, 0:32], 1, 32) << 2
    signed = q.view(np.int8)
    signed -= 4
    scales = fields(blocks[:, 96:104], 4, 8) | (fields(blocks[:, 104:108], 2, 4) << 4)
    return scaled(signed, half(blocks[:, 108:110]) * (scales.view(np.int8) - 32))


@defines("Q4_K")
def dequantize_q4_k(blocks: Bytes) -> Floats:
    """Q4_K superblocks, uint8 (n, 144), to float32 (n, 256): w = d*scale*q - dmin*min, per 32 weights.

    Bytes 0-1 d, 2-3 dmin (f16); 4-15 eight 6-bit scales and eight 6-bit mins; 16-143 quants: each 32 bytes hold 64 weights, low
    nibbles first. Source: ggml block_q4_K.
    """
    scales, mins = k_scales(blocks[:, 4:16])
    return scaled(fields(blocks[:, 16:144], 4, 32), half(blocks[:, 0:2]) * scales, half(blocks[:, 2:4]) * mins)


@defines("Q5_K")
def dequantize_q5_k(blocks: Bytes) -> Floats:
    """Q5_K superblocks, uint8 (n, 176), to float32 (n, 256): w = d*scale*q - dmin*min, per 32 weights.

    Bytes 0-1 d, 2-3 dmin (f16); 4-15 scales and mins as in Q4_K; 16-47 the fifth bits: bit i of byte j is of weight 32*i + j;
    48-175 the low four as in Q4_K. Source: ggml block_q5_K.
    """
    scales, mins = k_scales(blocks[:, 4:16])
    q = fields(blocks[:, 48:176], 4, 32)
    q |= fields(blocks[:, 16:48], 1, 32) << 4
    return scaled(q, half(blocks[:, 0:2]) * scales, half(blocks[:, 2:4]) * mins)


@defines("Q6_K")
def dequantize_q6_k(blocks: Bytes) -> Floats:
    """Q6_K superblocks, uint8 (n, 210), to float32 (n, 256): w = d*scale*(q - 32), per 16 weights.

    Bytes 0-127 the low four bits: each 64 bytes hold 128 weights, low nibbles first; 128-191 the high two: each 32 bytes hold
    128 weights, lowest fields first; 192-207 scales, signed; 208-209 d (f16). Source: ggml block_q6_K.
    """
    q = fields(blocks[:, 0:128], 4, 64)
    q |= fields(blocks[:, 128:192], 2, 32) << 4
    signed = q.view(np.int8)
    signed -= 32
    return scaled(signed, half(blocks[:, 208:210]) * blocks[:, 192:208].view(np.int8))
