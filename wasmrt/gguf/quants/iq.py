"""What the formats with looked-up weights mean: MXFP4, and IQ1 to IQ4.

Weights of the IQ1 to IQ3 formats come in groups of four or eight, each a point of a table (codebooks.py); signs of the IQ2 and
IQ3 ones lie apart. Of eight signs seven are stored where the format says so: the eighth makes the number of minuses even.
"""

import base64
import functools

import numpy as np
from numpy.typing import NDArray

from wasmrt.gguf.codebooks import GRIDS
from wasmrt.gguf.quants.block import Bytes, Floats, defines, fields, half, scaled

Words = NDArray[np.uint16] | NDArray[np.uint32]

# The 16 values of IQ4_NL and IQ4_XS, and of MXFP4 (E2M1, doubled). Source: ggml kvalues_iq4nl, kvalues_mxfp4.
NONLINEAR = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
DELTA = np.float32(0.125)  # by which the points of IQ1 are off


@functools.cache
def grid(name: str) -> Floats:
    """The points of a format: float32 (points, coordinates)."""
    values, width, text = GRIDS[name]
    bits = 2 if len(values) <= 4 else 3
    flat = np.unpackbits(np.frombuffer(base64.b85decode(text), np.uint8), bitorder="little")
    indices = (flat.reshape(-1, bits) << np.arange(bits, dtype=np.uint8)).sum(axis=1)
    points: Floats = np.array(values, np.float32)[indices].reshape(-1, width)
    return points


def bits_as_signs(packed: Bytes) -> Floats:
    """Bit 1 is minus: uint8 (n, m) to float32 (n, m, 8) of 1 and -1, lowest bit first."""
    minus = np.unpackbits(packed[..., None], axis=-1, bitorder="little")
    return np.float32(1) - np.float32(2) * minus.astype(np.float32)


def seven_bits_as_signs(index: Words) -> Floats:
    """Seven bits of (n, m), and an eighth that makes the minuses even, to float32 (n, m, 8)."""
    seven = (index & 127).astype(np.uint8)
    odd = np.unpackbits(seven[..., None], axis=-1).sum(axis=-1, dtype=np.uint8) & 1
    return bits_as_signs(seven | (odd << 7))


def words(field: Bytes, dtype: str) -> Words:
    """Little-endian "<u2" or "<u4" numbers of a field: (n, bytes) to (n, numbers)."""
    found: Words = np.ascontiguousarray(field).view(dtype)
    return found


def signed_points(db: Floats, points: Floats, signs: Floats) -> Floats:
    """db[g] * point * sign, each rounded: db (n, groups); points and signs of a group together, flat, to (n, 256)."""
    n, groups = db.shape
    w = db[..., None] * points.reshape(n, groups, 256 // groups)
    w *= signs.reshape(n, groups, 256 // groups)
    return w.reshape(n, 256)


@defines("IQ4_NL")
def dequantize_iq4_nl(blocks: Bytes) -> Floats:
    """IQ4_NL blocks, uint8 (n, 18), to float32 (n, 32): w = d*NONLINEAR[q].

    Bytes 0-1 d (f16); 2-17 q as in Q4_0. Source: ggml block_iq4_nl.
    """
    return scaled(NONLINEAR[fields(blocks[:, 2:18], 4, 16)], half(blocks[:, 0:2]))


@defines("IQ4_XS")
def dequantize_iq4_xs(blocks: Bytes) -> Floats:
    """IQ4_XS superblocks, uint8 (n, 136), to float32 (n, 256): w = d*(scale - 32)*NONLINEAR[q], per 32 weights.

    Bytes 0-1 d (f16); 2-3 the high two bits of eight scales, 4-7 their low four, lowest first; 8-135 q: each 16 bytes hold 32
    weights, low nibbles first. Source: ggml block_iq4_xs.
    """
    scales = fields(blocks[:, 4:8], 4, 1) | (fields(blocks[:, 2:4], 2, 1) << 4)
    q = NONLINEAR[fields(blocks[:, 8:136], 4, 16)]
    return scaled(q, half(blocks[:, 0:2]) * (scales.view(np.int8) - np.int8(32)).astype(np.float32))


@defines("MXFP4")
def dequantize_mxfp4(blocks: Bytes) -> Floats:
    """MXFP4 blocks, uint8 (n, 17), to float32 (n, 32): w = 2^(e - 128)*E2M1[q].

    Byte 0 e, also where that power is no normal number; 1-16 q as in Q4_0. Source: OCP Microscaling Formats 1.0; ggml
    block_mxfp4.
    """
    e = blocks[:, 0:1].astype(np.uint32)
    scale = np.where(e < 2, np.uint32(1 << 21) << np.minimum(e, 1), (np.maximum(e, 1) - 1) << 23).astype(np.uint32)
    return scaled(E2M1[fields(blocks[:, 1:17], 4, 16)], scale.view(np.float32))


@defines("IQ2_XXS")
def dequantize_iq2_xxs(blocks: Bytes) -> Floats:
    """IQ2_XXS superblocks, uint8 (n, 66), to float32 (n, 256): w = d*(0.5 + scale)/4*point*sign, per 32 weights.

    Bytes 0-1 d (f16); 2-65 eight times: four points of eight weights, then a word of four times seven signs and, in its top
    four bits, the scale. Source: ggml block_iq2_xxs.
    """
    pairs = words(blocks[:, 2:66], "<u4").reshape(-1, 8, 2)
    db = half(blocks[:, 0:2]) * (np.float32(0.5) + (pairs[..., 1] >> 28).astype(np.float32)) * np.float32(0.25)
    points = grid("IQ2_XXS")[np.ascontiguousarray(pairs[..., 0]).view(np.uint8).reshape(-1, 32)]
    signs = seven_bits_as_signs((pairs[..., 1, None] >> np.array([0, 7, 14, 21], np.uint32)).reshape(-1, 32))
    return signed_points(db, points, signs)


@defines("IQ2_XS")
def dequantize_iq2_xs(blocks: Bytes) -> Floats:
    """IQ2_XS superblocks, uint8 (n, 74), to float32 (n, 256): w = d*(0.5 + scale)/4*point*sign, per 16 weights.

    Bytes 0-1 d (f16); 2-65 words of a point (nine bits) and seven signs; 66-73 sixteen scales, low nibbles first. Source: ggml
    block_iq2_xs.
    """
    q = words(blocks[:, 2:66], "<u2")
    db = half(blocks[:, 0:2]) * (np.float32(0.5) + fields(blocks[:, 66:74], 4, 1)) * np.float32(0.25)
    return signed_points(db, grid("IQ2_XS")[q & 511], seven_bits_as_signs((q >> 9).astype(np.uint16)))


@defines("IQ2_S")
def dequantize_iq2_s(blocks: Bytes) -> Floats:
    """IQ2_S superblocks, uint8 (n, 82), to float32 (n, 256): w = d*(0.5 + scale)/4*point*sign, per 16 weights.

    Bytes 0-1 d (f16); 2-33 the points' low eight bits; 34-65 signs; 66-73 the points' high two bits, lowest first; 74-81
    sixteen scales. Source: ggml block_iq2_s.
    """
    index = blocks[:, 2:34].astype(np.uint16) | (fields(blocks[:, 66:74], 2, 1).astype(np.uint16) << 8)
    db = half(blocks[:, 0:2]) * (np.float32(0.5) + fields(blocks[:, 74:82], 4, 1)) * np.float32(0.25)
    return signed_points(db, grid("IQ2_S")[index], bits_as_signs(blocks[:, 34:66]))


@defines("IQ3_XXS")
def dequantize_iq3_xxs(blocks: Bytes) -> Floats:
    """IQ3_XXS superblocks, uint8 (n, 98), to float32 (n, 256): w = d*(0.5 + scale)/2*point*sign, per 32 weights.

    Bytes 0-1 d (f16); 2-65 points of four weights; 66-97 eight words of four times seven signs and, in the top four bits, the
    scale. Source: ggml block_iq3_xxs.
    """
    last = words(blocks[:, 66:98], "<u4")
    db = half(blocks[:, 0:2]) * (np.float32(0.5) + (last >> 28).astype(np.float32)) * np.float32(0.5)
    signs = seven_bits_as_signs((last[..., None] >> np.array([0, 7, 14, 21], np.uint32)).reshape(-1, 32))
    return signed_points(db, grid("IQ3_XXS")[blocks[:, 2:66]], signs)


@defines("IQ3_S")
def dequantize_iq3_s(blocks: Bytes) -> Floats:
    """IQ3_S superblocks, uint8 (n, 110), to float32 (n, 256): w = d*(1 + 2*scale)*point*sign, per 32 weights.

    Bytes 0-1 d (f16); 2-65 the points' low eight bits, of four weights each; 66-73 their ninth bits; 74-105 signs; 106-109
    eight scales, low nibbles first. Source: ggml block_iq3_s.
    """
    index = blocks[:, 2:66].astype(np.uint16) | (fields(blocks[:, 66:74], 1, 1).astype(np.uint16) << 8)
    db = half(blocks[:, 0:2]) * (1 + 2 * fields(blocks[:, 106:110], 4, 1)).astype(np.float32)
    return signed_points(db, grid("IQ3_S")[index], bits_as_signs(blocks[:, 74:106]))


@defines("IQ1_S")
def dequantize_iq1_s(blocks: Bytes) -> Floats:
    """IQ1_S superblocks, uint8 (n, 50), to float32 (n, 256): w = d*(2*scale + 1)*(point + delta), per 32 weights.

    Bytes 0-1 d (f16); 2-33 the low eight bits of points of eight weights; 34-49 eight words: three high bits of four points,
    the scale in bits 12-14, and delta's sign. Source: ggml block_iq1_s.
    """
    high = words(blocks[:, 34:50], "<u2")
    dl = half(blocks[:, 0:2]) * (2 * (high >> 12 & 7) + 1).astype(np.float32)
    delta = np.where(high >> 15, -DELTA, DELTA)
    more = (high[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(-1, 32)
    points = grid("IQ1_S")[blocks[:, 2:34] | (more << 8)].reshape(-1, 8, 32)
    w: Floats = dl[..., None] * (points + delta[..., None])
    return w.reshape(-1, 256)


@defines("IQ1_M")
def dequantize_iq1_m(blocks: Bytes) -> Floats:
    """IQ1_M superblocks, uint8 (n, 56), to float32 (n, 256): w = d*(2*scale + 1)*(point + delta), per 16 weights.

    Bytes 0-31 the low eight bits of points of eight weights; 32-47 a nibble a point: three high bits and delta's sign; 48-55
    four words of four 3-bit scales, whose top nibbles are d (f16), lowest first. Source: ggml block_iq1_m.
    """
    last = words(blocks[:, 48:56], "<u2")
    d = np.bitwise_or.reduce(last >> 12 << np.array([0, 4, 8, 12], np.uint16), axis=1)
    scales = (last[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(-1, 16)
    dl = d.view(np.float16).astype(np.float32)[:, None] * (2 * scales + 1).astype(np.float32)
    high = fields(blocks[:, 32:48], 4, 1)
    points = grid("IQ1_S")[blocks[:, 0:32] | (high & 7).astype(np.uint16) << 8].reshape(-1, 16, 2, 8)
    delta = np.where(high & 8, -DELTA, DELTA).reshape(-1, 16, 2, 1)
    w: Floats = dl[..., None, None] * (points + delta)
    return w.reshape(-1, 256)
