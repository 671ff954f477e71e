"""Programs in the form that the C kernels read: the Python side of the structs in device/c/kernels.h."""

import struct
from array import array
from collections.abc import Iterator
from typing import Any

from wasmrt.device.device import check_formats
from wasmrt.errors import UnsupportedError
from wasmrt.program.ops import FUNCTIONS, KERNELS, SCORES, Op, Operand, Param, Program, Space, Weight

VERSION = 3
HEADER = struct.Struct("<8I")
OPERAND = struct.Struct("<BBBxII")
OP = struct.Struct("<II96s9d")
WEIGHT = struct.Struct("<8I")
ABSENT = OPERAND.pack(4, 0, 0, 0, 0)
MAX_OUT, MAX_IN, MAX_PARAMS = 2, 6, 9

KERNEL_IDS = {name: i for i, name in enumerate(name for name, row in KERNELS.items() if not row.fused)}
NAMES = {"style": ("pairs", "halves"), "function": FUNCTIONS, "score": SCORES}  # what a parameter that is a name can be
PRODUCTS = ("matmul", "expert_matmul", "head_matmul")  # ops whose x is quantized

QUANTIZED = 1  # Op.flags

# Bytes of 256 elements of x, quantized for a kind of weight format: of one row, and of a tile of eight. Source: quantize.h.
OF_256, OF_256_WIDE, OF_32, OF_32_WIDE = (320, 2496), (320, 4128), (8 * 48, 8 * 320), (8 * 80, 8 * 544)
TILE_TOKENS = 8


def serialize(program: Program) -> bytes:
    """A program as bytes: header, ops, weights, constants. Raises UnsupportedError for a weight that no kernel takes, and
    ValueError for a fused op: the C kernels are those of the plain ops."""
    check_formats([program])
    if fused := {op.kernel for op in program.ops} - set(KERNEL_IDS):
        raise ValueError(f"{', '.join(sorted(fused))} in {program.name!r}: the CPU takes programs as they were recorded")
    constants = array("d")
    weights_at = HEADER.size + OP.size * len(program.ops)
    constants_at = weights_at + WEIGHT.size * len(program.weights)
    constants_at += -constants_at % 8
    ops = b"".join(_op(op, flags, constants, constants_at) for op, flags in zip(program.ops, _flags(program), strict=True))
    weights = b"".join(map(_weight, program.weights))
    header = HEADER.pack(VERSION, len(program.ops), len(program.weights), constants_at, HEADER.size, weights_at, 0, 0)
    return (header + ops + weights).ljust(constants_at, b"\0") + constants.tobytes()


def quantized_bytes(weight: Weight, n_rows: int, n_tiles: int) -> int:
    """Bytes of x, quantized as a matmul with this weight wants it, by rows or by tiles; 0 for weights that take f32."""
    row, tile = _kind_of(weight) or (0, 0)
    return max(n_rows * row, n_tiles * tile) * weight.shape[0] // 256


def _kind_of(weight: Weight) -> tuple[int, int] | None:
    if weight.type.block == 1:
        return None
    if weight.type.block == 32:
        return OF_32_WIDE if weight.type.name in ("Q8_0", "IQ4_NL") else OF_32
    return OF_256 if weight.type.name.startswith("Q") else OF_256_WIDE


def _flags(program: Program) -> Iterator[int]:
    """For each op, QUANTIZED where the last matmul has already quantized the same x in the same way."""
    ready: tuple[Any, ...] = ()  # what the buffer holds: kernel, kind and length of rows, operands
    for op in program.ops:
        flags = 0
        if op.kernel in PRODUCTS and op.ins[0] is not None:
            weight = program.weights[op.ins[0].index]
            kind = _kind_of(weight)
            if kind is not None:
                wanted = (op.kernel, (*kind, weight.shape[0]), *op.ins[1:])
                flags = QUANTIZED if ready == wanted else 0
                ready = wanted
        written = {o.index for o in op.out if o.space is Space.ACTIVATION}
        if any(operand.index in written for operand in ready[2:]):
            ready = ()
        yield flags


def _op(op: Op, flags: int, constants: "array[float]", constants_at: int) -> bytes:
    named = {name: _number(name, p) for name, p in zip(KERNELS[op.kernel].params, op.params, strict=True)}
    numbers, at = list(named.values()), constants_at + 8 * len(constants)
    if op.kernel == "rope":
        constants.extend(rope_angles(**named))
        numbers = [*(named[name] for name in ("head_dim", "n_dims", "style", "magnitude")), at]
    if op.kernel == "attention" and named["max_bias"]:
        constants.extend(alibi_slopes(int(named["n_heads"]), named["max_bias"]))
        numbers[-1] = at
    outs = [_operand(o) for o in op.out] + [ABSENT] * (MAX_OUT - len(op.out))
    ins = [_operand(o) for o in op.ins] + [ABSENT] * (MAX_IN - len(op.ins))
    return OP.pack(KERNEL_IDS[op.kernel], flags, b"".join(outs + ins), *numbers, *[0.0] * (MAX_PARAMS - len(numbers)))


def _number(name: str, param: Param) -> float:
    return float(NAMES[name].index(param) if isinstance(param, str) else param)


def _operand(o: Operand | None) -> bytes:
    return ABSENT if o is None else OPERAND.pack(o.space, o.rows == "out", o.dtype == "i32", o.index, o.width)


def _weight(w: Weight) -> bytes:
    n = w.shape[0]
    n_rows = w.shape[1] if len(w.shape) > 1 else 1
    n_experts = w.shape[2] if w.is_expert else 0
    row_bytes = w.type.row_bytes(n)
    if row_bytes >> 32:
        raise UnsupportedError(f"tensor {w.name!r} has rows of {row_bytes} bytes; the kernels take rows below 4 GiB")
    return WEIGHT.pack(w.type.id, w.first, w.n_entries, w.rows_per_entry, n, n_rows, n_experts, row_bytes)


def alibi_slopes(n_heads: int, max_bias: float) -> list[float]:
    """What a position of distance costs a score of each head: device/reference.py alibi_slopes."""
    n = 1 << (n_heads.bit_length() - 1)
    first = [2.0 ** (-max_bias * (h + 1) / n) for h in range(n)]
    return first + [2.0 ** (-max_bias * (2 * h + 1) / (2 * n)) for h in range(n_heads - n)]


def rope_angles(
    n_dims: float, base: float, scale: float, extrapolation: float, ramp_low: float, ramp_high: float, **_: float
) -> list[float]:
    """The angle of each pair at position 1, before rope factors: device/reference.py rope."""
    angles = []
    for pair in range(int(n_dims) // 2):
        steep = (pair - ramp_low) / max(0.001, ramp_high - ramp_low)
        ramp = extrapolation * (1 - min(max(steep, 0.0), 1.0))
        angles.append(base ** (-2.0 * pair / n_dims) * (scale * (1 - ramp) + ramp))
    return angles
