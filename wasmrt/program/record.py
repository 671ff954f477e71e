"""The recorder: a model file calls its methods, `finish` gives the Program.

Methods check shapes, so that a program that was recorded can run. Values are single-assignment while recording; `finish` puts
them into as few arena slots as their lifetimes allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wasmrt.gguf.types import QuantType
from wasmrt.program.ops import (
    KERNELS,
    N_OUT,
    POS,
    STATE_SLOTS,
    TOKENS,
    Op,
    Operand,
    Param,
    Program,
    Rows,
    Slot,
    Space,
    Weight,
)

# A tensor above this size is addressed in row chunks, so that streaming never needs a frame as large as an output head.
CHUNK_BYTES = 8 << 20
ROW_STEP = 8  # rows that kernels take together: no entry but the last should end within them


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding. Source: Su et al., arXiv 2104.09864; YaRN: Peng et al., arXiv 2309.00071, in ggml's form.

    style: "pairs" rotates (2i, 2i+1), "halves" (i, i + n_dims/2). scale: 1/factor of a linear or YaRN scaling. extrapolation:
    0, or YaRN's mix, which goes from 1 at pair `ramp_low` to 0 at `ramp_high`. magnitude multiplies sine and cosine.
    """

    n_dims: int
    head_dim: int
    base: float = 10000.0
    style: str = "pairs"
    scale: float = 1.0
    magnitude: float = 1.0
    extrapolation: float = 0.0
    ramp_low: float = 0.0
    ramp_high: float = 0.0


class Recorder:
    """Records ops on symbolic operands. One method per op of program/ops.py, of the same name."""

    def __init__(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._name = name
        self._chunk_bytes = chunk_bytes
        self._ops: list[Op] = []
        self._weights: dict[str, tuple[Weight, Operand]] = {}
        self._values: list[Operand] = []
        self._kv: tuple[int, ...] = ()
        self._state: list[int] = []
        self._residual: Operand | None = None

    # Operands

    def weight(self, name: str, type: QuantType, shape: tuple[int, ...]) -> Operand:
        """A tensor of the file by its name within the segment; the same name gives the same operand."""
        if name not in self._weights:
            n_rows = shape[1] if len(shape) > 1 else 1
            n_experts = shape[2] if len(shape) > 2 else 1
            rows = n_rows
            if len(shape) < 3:
                most = max(1, self._chunk_bytes // type.row_bytes(shape[0]))
                even = -(-n_rows // -(-n_rows // most))  # as many in each entry
                rows = min(most, n_rows, -(-even // ROW_STEP) * ROW_STEP)
            first = sum(w.n_entries for w, _ in self._weights.values())
            weight = Weight(name, type, shape, first, n_experts * -(-n_rows // rows), rows)
            self._weights[name] = weight, Operand(Space.WEIGHT, len(self._weights), shape[0])
        return self._weights[name][1]

    def residual(self, width: int) -> Operand:
        """The residual stream as the segment before left it: f32 (T, width)."""
        _require(self._residual is None and not self._values, "the residual stream is taken first and once")
        self._residual = self._value(width)
        return self._residual

    # Ops

    def embed(self, w: Operand) -> Operand:
        _require(len(self._weight_of(w).shape) == 2, f"embed from {self._weight_of(w).shape}")
        return self._op("embed", (w, TOKENS), self._value(w.width))

    def rms_norm(self, x: Operand, w: Operand, eps: float) -> Operand:
        shape = self._weight_of(w).shape
        _require(shape == (x.width,), f"rms_norm of {x.width} elements with a weight of {shape}")
        return self._op("rms_norm", (x, w), self._value(x.width, x.rows), eps)

    def layer_norm(self, x: Operand, w: Operand, eps: float, b: Operand | None = None) -> Operand:
        shapes = [self._weight_of(o).shape for o in (w, b) if o is not None]
        _require(set(shapes) == {(x.width,)}, f"layer_norm of {x.width} elements with weights of {shapes}")
        return self._op("layer_norm", (x, w, b), self._value(x.width, x.rows), eps)

    def softmax(self, x: Operand) -> Operand:
        return self._op("softmax", (x,), self._value(x.width, x.rows))

    def matmul(self, w: Operand, x: Operand) -> Operand:
        weight = self._weight_of(w)
        _require(len(weight.shape) == 2 and w.width == x.width, f"matmul of {weight.shape} with rows of {x.width}")
        out = self._value(weight.shape[1], x.rows)
        for first in range(0, weight.shape[1], weight.rows_per_entry):
            self._op("matmul", (w, x), out, first, min(weight.rows_per_entry, weight.shape[1] - first))
        return out

    def add(self, x: Operand, y: Operand) -> Operand:
        return self._elementwise("add", x, y)

    def mul(self, x: Operand, y: Operand) -> Operand:
        return self._elementwise("mul", x, y)

    def swiglu(self, gate: Operand, up: Operand) -> Operand:
        return self._elementwise("swiglu", gate, up)

    def rope(self, x: Operand, rope: Rope, factors: Operand | None = None) -> Operand:
        _require(x.width % rope.head_dim == 0, f"rope heads of {rope.head_dim} in {x.width}")
        _require(rope.n_dims % 2 == 0 and rope.n_dims <= rope.head_dim, f"rope of {rope.n_dims} of {rope.head_dim} elements")
        _require(factors is None or factors.width == rope.n_dims // 2, "one rope factor a rotated pair")
        out = self._value(x.width, x.rows)
        params = (rope.head_dim, rope.n_dims, rope.style, rope.base, rope.scale, rope.magnitude)
        return self._op("rope", (x, factors, POS), out, *params, rope.extrapolation, rope.ramp_low, rope.ramp_high)

    def store_kv(self, k: Operand, v: Operand) -> None:
        _require(not self._kv, "a layer stores keys and values once")
        self._kv = (k.width, v.width)
        self._ops.append(_make("store_kv", (self._cache(0), self._cache(1)), (k, v, POS)))

    def attention(self, q: Operand, n_heads: int, n_kv_heads: int, scale: float) -> Operand:
        _require(bool(self._kv), "attention before store_kv")
        heads_fit = q.width % n_heads == 0 and n_heads % n_kv_heads == 0 and q.width // n_heads == self._kv[0] // n_kv_heads
        _require(heads_fit, f"{n_heads} query heads in {q.width}, {n_kv_heads} key heads in {self._kv[0]}")
        out = self._value(self._kv[1] // n_kv_heads * n_heads)
        return self._op("attention", (q, self._cache(0), self._cache(1), POS), out, n_heads, n_kv_heads, scale)

    def last_rows(self, x: Operand) -> Operand:
        """The rows whose logits are wanted: the last `n_out` of the call."""
        return self._op("last_rows", (x, N_OUT), self._value(x.width, "out"))

    def route(self, logits: Operand, n_used: int) -> tuple[Operand, Operand]:
        """The experts of each token, i32 (T, n_used), and their weights, f32 (T, n_used), which add to 1."""
        _require(1 <= n_used <= logits.width, f"route to {n_used} of {logits.width} experts")
        experts = replace(self._value(n_used), dtype="i32")
        self._values[experts.index] = experts
        weights = self._value(n_used)
        self._ops.append(_make("route", (experts, weights), (logits,), n_used))
        return experts, weights

    def expert_matmul(self, w: Operand, x: Operand, experts: Operand) -> Operand:
        """x: (T, n), or (T, n_used * n) where each expert has rows of its own. Returns (T, n_used * m)."""
        weight = self._weight_of(w)
        _require(weight.is_expert, f"expert_matmul of {weight.shape}")
        _require(x.width in (w.width, w.width * experts.width), f"expert_matmul of {weight.shape} with rows of {x.width}")
        return self._op("expert_matmul", (w, x, experts), self._value(weight.shape[1] * experts.width))

    def expert_mul(self, x: Operand, w: Operand, experts: Operand) -> Operand:
        """Multiplies what expert e gave by w[e]."""
        fits = len(self._weight_of(w).shape) == 1 and x.width % experts.width == 0
        _require(fits, f"expert_mul of rows of {x.width} from {experts.width} experts by {self._weight_of(w).shape}")
        return self._op("expert_mul", (x, w, experts), self._value(x.width))

    def expert_sum(self, x: Operand, weights: Operand) -> Operand:
        _require(x.width % weights.width == 0, f"expert_sum of rows of {x.width} from {weights.width} experts")
        return self._op("expert_sum", (x, weights), self._value(x.width // weights.width))

    def causal_conv(self, x: Operand, w: Operand) -> Operand:
        """A depthwise convolution over time; the layer keeps the last rows in a recurrent state."""
        n_taps, width = self._weight_of(w).shape
        _require(width == x.width and n_taps > 1, f"causal_conv of {(n_taps, width)} on rows of {x.width}")
        window = Operand(Space.STATE, STATE_SLOTS + len(self._state), width)
        self._state.append((n_taps - 1) * width)
        out = self._value(width)
        self._ops.append(_make("causal_conv", (out, window), (x, w)))
        return out

    # The end

    def finish(self, result: Operand) -> Program:
        """The program, with values placed in slots. `result` is the residual stream, or what the head gives."""
        ops, slots, placed = place(self._ops, self._residual, result)
        weights = tuple(w for w, _ in self._weights.values())
        return Program(self._name, ops, weights, slots, self._kv, tuple(self._state), placed)

    def _value(self, width: int, rows: Rows = "T") -> Operand:
        self._values.append(Operand(Space.ACTIVATION, len(self._values), width, rows))
        return self._values[-1]

    def _cache(self, index: int) -> Operand:
        return Operand(Space.KV, index, self._kv[index])

    def _weight_of(self, operand: Operand) -> Weight:
        _require(operand.space is Space.WEIGHT, "a weight is wanted here")
        return list(self._weights.values())[operand.index][0]

    def _op(self, kernel: str, ins: tuple[Operand | None, ...], out: Operand, *params: Param) -> Operand:
        self._ops.append(_make(kernel, (out,), ins, *params))
        return out

    def _elementwise(self, kernel: str, x: Operand, y: Operand) -> Operand:
        if y.space is Space.WEIGHT:
            fits = self._weight_of(y).shape in ((1,), (x.width,))
        else:
            fits = (y.width, y.rows) == (x.width, x.rows)
        _require(fits, f"{kernel} of rows of {x.width} and {y.width}")
        return self._op(kernel, (x, y), self._value(x.width, x.rows))


def _make(kernel: str, out: tuple[Operand, ...], ins: tuple[Operand | None, ...], *params: Param) -> Op:
    row = KERNELS[kernel]
    _require(len(ins) == len(row.ins) and len(params) == len(row.params), f"{kernel} takes {row.ins} and {row.params}")
    return Op(kernel, out, ins, params)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"this cannot be recorded: {what}")


def place(
    ops: Sequence[Op], residual: Operand | None, result: Operand
) -> tuple[tuple[Op, ...], tuple[Slot, ...], Operand]:
    """Give every value a slot: a linear scan over lifetimes. The residual stream enters in slot 0, and a new one leaves there.

    A value takes the slot of an input that dies in the same op only if the kernel allows that: others read as they write.
    """
    last_use = {o.index: i for i, op in enumerate(ops) for o in op.ins if o is not None and o.space is Space.ACTIVATION}
    last_use[result.index] = len(ops)
    slots: list[Slot] = []
    slot_of: dict[int, int] = {}
    free: set[int] = set()
    stream = residual is not None or result.rows == "T"
    if stream:
        slots.append(Slot("T", result.width if residual is None else residual.width))
        if residual is None:
            free.add(0)
        else:
            slot_of[residual.index] = 0

    def take(value: Operand, usable: set[int]) -> int:
        wanted = Slot(value.rows, value.width)
        if stream and value.index == result.index and result.rows == "T":
            _require(0 in usable and slots[0] == wanted, "the op that gives the residual stream must be able to overwrite it")
            slot = 0
        else:
            fitting = [s for s in sorted(usable) if slots[s] == wanted and not (stream and s == 0)]
            slot = fitting[0] if fitting else len(slots)
            if not fitting:
                slots.append(wanted)
        free.discard(slot)
        usable.discard(slot)
        return slot

    placed: list[Op] = []
    for i, op in enumerate(ops):
        read = {o.index for o in op.ins if o is not None and o.space is Space.ACTIVATION}
        ins = tuple(_at(o, slot_of) for o in op.ins)
        dead = {slot_of[v] for v in read if last_use[v] == i}
        usable = free | {slot_of[v] for v in overwritable(ops, i, result)}
        for out in op.out:
            if out.space is Space.ACTIVATION and out.index not in slot_of:  # a matmul of several ops fills one value
                slot_of[out.index] = take(out, usable)
        outs = tuple(_at(o, slot_of) for o in op.out)
        placed.append(Op(op.kernel, tuple(o for o in outs if o is not None), ins, op.params))
        free |= dead - {slot_of[o.index] for o in op.out if o.space is Space.ACTIVATION}
        free |= {slot_of[o.index] for o in op.out if o.space is Space.ACTIVATION and o.index not in last_use}
    return tuple(placed), tuple(slots), replace(result, index=slot_of[result.index])


def overwritable(ops: Sequence[Op], i: int, result: Operand) -> set[int]:
    """The values whose slot op i may write to: inputs that its kernel lets it overwrite, and that nothing reads later.

    Of an op for a part of the rows of its weights, the ops for the other rows may still read them: each its own columns.
    """
    op, row = ops[i], KERNELS[ops[i].kernel]
    roles = row.ins if row.elementwise else row.overwrites
    if not roles:
        return set()
    ins = [(role, o.index) for role, o in zip(row.ins, op.ins, strict=True) if o is not None and o.space is Space.ACTIVATION]
    read = {result.index} | {v for role, v in ins if role not in roles}
    others = (later for later in ops[i + 1 :] if later.out != op.out)
    read.update(o.index for other in others for o in other.ins if o is not None and o.space is Space.ACTIVATION)
    return {v for _, v in ins} - read


def _at(operand: Operand | None, slot_of: dict[int, int]) -> Operand | None:
    if operand is None or operand.space is not Space.ACTIVATION:
        return operand
    return replace(operand, index=slot_of[operand.index])
