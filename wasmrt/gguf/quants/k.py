"""What the K-quants mean: superblocks of 256 weights, with scales that are small integers times a number of the superblock."""

import numpy as np

from wasmrt.gguf.quants.block import Bytes, Floats, defines, fields, half, scaled


def k_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The eight 6-bit scales and eight 6-bit mins of Q4_K and Q5_K: uint8 (n, 12) to two uint8 (n, 8).

    Bytes 0-3: scales 0-3, bytes 4-7: mins 0-3, in the low six bits; their top two bits are the top bits of scales and mins 4-7,
    whose low four bits are the low and high nibbles of bytes 8-11. Source: ggml get_scale_min_k4.
    """
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=1)
    mins = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], axis=1)
    return scales, mins


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


@defines("Q8_K")
def dequantize_q8_k(blocks: Bytes) -> Floats:
    """Q8_K superblocks, uint8 (n, 292), to float32 (n, 256): w = d*q. What ggml rounds activations to.

    Bytes 0-3 d (f32); 4-259 q, signed; 260-291 sums of 16 q. Source: ggml block_q8_K.
    """
    return scaled(blocks[:, 4:260].view(np.int8), np.ascontiguousarray(blocks[:, 0:4]).view("<f4").astype(np.float32))
