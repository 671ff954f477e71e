"""What the ternary formats mean: weights of -1, 0 and 1 times a scale for 256 of them."""

import numpy as np

from wasmrt.gguf.quants.block import Bytes, Floats, defines, fields, half, scaled

THIRDS = np.array([1, 3, 9, 27, 81], np.uint8)


@defines("TQ1_0")
def dequantize_tq1_0(blocks: Bytes) -> Floats:
    """TQ1_0 superblocks, uint8 (n, 54), to float32 (n, 256): w = d*(t - 1), t a digit of base 3.

    Bytes 0-31 five digits each, of weights i, 32 + i, ...; 32-47 five each, of weights 160 + i, 176 + i, ...; 48-51 four each,
    of weights 240 + i, 244 + i, ...; 52-53 d (f16). A byte is its digits as a fraction of 256, so a digit is the upper part of
    three times what is left. Source: ggml block_tq1_0.
    """
    left = np.concatenate(
        [
            (blocks[:, None, a:b] * THIRDS[:digits, None]).reshape(len(blocks), digits * (b - a))
            for a, b, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4))
        ],
        axis=1,
    )
    q = (left.astype(np.uint16) * 3 >> 8).astype(np.int8) - np.int8(1)
    return scaled(q, half(blocks[:, 52:54]))


@defines("TQ2_0")
def dequantize_tq2_0(blocks: Bytes) -> Floats:
    """TQ2_0 superblocks, uint8 (n, 66), to float32 (n, 256): w = d*(q - 1).

    Bytes 0-63 q: each 32 bytes hold 128 weights, lowest two bits first; 64-65 d (f16). Source: ggml block_tq2_0.
    """
    return scaled(fields(blocks[:, 0:64], 2, 32).view(np.int8) - np.int8(1), half(blocks[:, 64:66]))
