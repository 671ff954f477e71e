"""What the formats of 32 weights mean that have one scale, and perhaps a minimum."""

import numpy as np

from wasmrt.gguf.quants.block import Bytes, Floats, defines, fields, half, scaled


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
