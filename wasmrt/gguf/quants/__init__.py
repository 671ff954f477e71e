"""What each block format means: GGUF tensor bytes to float32, in numpy.

One function a format, from uint8 (n, bytes per block) to float32 (n, weights per block), in the files beside this one; block.py
has their rules.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wasmrt.errors import UnsupportedError
from wasmrt.gguf.quants import iq, k, legacy, plain, ternary  # noqa: F401  they fill the table
from wasmrt.gguf.quants.block import DEQUANTIZE, Floats
from wasmrt.gguf.types import BY_NAME, QuantType

__all__ = ["DEQUANTIZE", "dequantize"]


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
