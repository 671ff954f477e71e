"""Tensor types of GGUF: id, name, weights per block, bytes per block.

Source: ggml's type table (ids are part of the file format and never change). A type that stands here can be located in a file;
whether it can be computed with is the devices' matter.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QuantType:
    """One storage type: `block` consecutive weights of a row take `block_bytes` bytes."""

    id: int
    name: str
    block: int
    block_bytes: int

    def row_bytes(self, n: int) -> int:
        """Bytes of a row of n weights; n must be a multiple of the block."""
        return n // self.block * self.block_bytes


TYPES: dict[int, QuantType] = {
    t.id: t
    for t in (
        QuantType(0, "F32", 1, 4),
        QuantType(1, "F16", 1, 2),
        QuantType(2, "Q4_0", 32, 18),
        QuantType(3, "Q4_1", 32, 20),
        QuantType(6, "Q5_0", 32, 22),
        QuantType(7, "Q5_1", 32, 24),
        QuantType(8, "Q8_0", 32, 34),
        QuantType(9, "Q8_1", 32, 36),
        QuantType(10, "Q2_K", 256, 84),
        QuantType(11, "Q3_K", 256, 110),
        QuantType(12, "Q4_K", 256, 144),
        QuantType(13, "Q5_K", 256, 176),
        QuantType(14, "Q6_K", 256, 210),
        QuantType(15, "Q8_K", 256, 292),
        QuantType(16, "IQ2_XXS", 256, 66),
        QuantType(17, "IQ2_XS", 256, 74),
        QuantType(18, "IQ3_XXS", 256, 98),
        QuantType(19, "IQ1_S", 256, 50),
        QuantType(20, "IQ4_NL", 32, 18),
        QuantType(21, "IQ3_S", 256, 110),
        QuantType(22, "IQ2_S", 256, 82),
        QuantType(23, "IQ4_XS", 256, 136),
        QuantType(24, "I8", 1, 1),
        QuantType(25, "I16", 1, 2),
        QuantType(26, "I32", 1, 4),
        QuantType(27, "I64", 1, 8),
        QuantType(28, "F64", 1, 8),
        QuantType(29, "IQ1_M", 256, 56),
        QuantType(30, "BF16", 1, 2),
        QuantType(34, "TQ1_0", 256, 54),
        QuantType(35, "TQ2_0", 256, 66),
        QuantType(39, "MXFP4", 32, 17),
    )
}

# What general.file_type says of the mix of formats that a quantizer chose: llama.cpp's llama_ftype.
FILE_TYPES: dict[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip

BY_NAME: dict[str, QuantType] = {t.name: t for t in TYPES.values()}
