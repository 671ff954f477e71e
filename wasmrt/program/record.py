"""The recorder: a model file calls its methods, `finish` gives the Program.

Methods check shapes, so that a program that was recorded can run. Values are single-assignment while recording; `finish` puts
them into as few arena slots as their lifetimes allow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wasmrt.gguf.types import QuantType
from wasmrt.program.ops import (
    FUNCTIONS,
    KERNELS,
    N_OUT,
    POS,
    SCORES,
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

    def rms_norm(self, x: Operand, w: Operand | None, eps: float, group: int = 0) -> Operand:
        """group: elements that are normalized together (0: the row). A weight has as many, for all groups, or the row's."""
        group = self._group("rms_norm", x, group, w)
        return self._op("rms_norm", (x, w), self._value(x.width, x.rows), eps, group)

    def layer_norm(self, x: Operand, w: Operand | None, eps: float, b: Operand | None = None, group: int = 0) -> Operand:
        """As rms_norm, of what is left when the mean is taken away; then b is added."""
        group = self._group("layer_norm", x, group, w, b)
        return self._op("layer_norm", (x, w, b), self._value(x.width, x.rows), eps, group)

    def softmax(self, x: Operand) -> Operand:
        return self._op("softmax", (x,), self._value(x.width, x.rows))

    def matmul(self, w: Operand, x: Operand) -> Operand:
        weight = self._weight_of(w)
        _require(len(weight.shape) < 3 and w.width == x.width, f"matmul of {weight.shape} with rows of {x.width}")
        n_rows = weight.shape[1] if len(weight.shape) == 2 else 1
        out = self._value(n_rows, x.rows)
        for first in range(0, n_rows, weight.rows_per_entry):
            self._op("matmul", (w, x), out, first, min(weight.rows_per_entry, n_rows - first))
        return out

    def head_matmul(self, w: Operand, x: Operand, n_heads: int) -> Operand:
        """Each head's part of x times its own matrix. w: (n, m, n_heads), x: (T, n_heads * n). Returns (T, n_heads * m)."""
        weight = self._weight_of(w)
        fits = len(weight.shape) == 3 and weight.shape[2] == n_heads and x.width == n_heads * w.width
        _require(fits, f"head_matmul of {weight.shape} by {n_heads} heads with rows of {x.width}")
        self._weights[weight.name] = replace(weight, routed=False), w
        return self._op("head_matmul", (w, x), self._value(weight.shape[1] * n_heads, x.rows), n_heads)

    def add(self, x: Operand, y: Operand) -> Operand:
        return self._elementwise("add", x, y)

    def mul(self, x: Operand, y: Operand) -> Operand:
        return self._elementwise("mul", x, y)

    def div(self, x: Operand, y: Operand) -> Operand:
        return self._elementwise("div", x, y)

    def swiglu(self, gate: Operand, up: Operand) -> Operand:
        return self._elementwise("swiglu", gate, up)

    def geglu(self, gate: Operand, up: Operand) -> Operand:
        return self._elementwise("geglu", gate, up)

    def swiglu_oai(self, gate: Operand, up: Operand, alpha: float, limit: float) -> Operand:
        return self._elementwise("swiglu_oai", gate, up, alpha, limit)

    def unary(self, x: Operand, function: str, a: float = 0.0, b: float = 0.0, c: float = 0.0, d: float = 0.0) -> Operand:
        """A function of each element: one of FUNCTIONS, of which some take numbers."""
        _require(function in FUNCTIONS, f"unary {function!r}")
        return self._op("unary", (x,), self._value(x.width, x.rows), function, a, b, c, d)

    def scale(self, x: Operand, factor: float) -> Operand:
        return self.unary(x, "scale", factor)

    def softcap(self, x: Operand, cap: float) -> Operand:
        """cap * tanh(x / cap)."""
        _require(cap > 0, f"softcap at {cap}")
        return self.unary(x, "softcap", cap)

    def clamp(self, x: Operand, low: float, high: float) -> Operand:
        return self.unary(x, "clamp", low, high)

    def columns(self, x: Operand, start: int, n: int, group: int = 0) -> Operand:
        """Of each group of columns (0: the row is one) the n from `start` on."""
        group = group or x.width
        fits = x.width % group == 0 and start >= 0 and n > 0 and start + n <= group
        _require(fits, f"columns {start} to {start + n} of each {group} of {x.width}")
        return self._op("columns", (x,), self._value(x.width // group * n, x.rows), group, start, n)

    def concat(self, x: Operand, y: Operand, n_groups: int = 1) -> Operand:
        """Of each group of columns x's and then y's."""
        fits = x.rows == y.rows and x.width % n_groups == 0 and y.width % n_groups == 0
        _require(fits, f"concat of {x.width} and {y.width} columns in {n_groups} groups")
        return self._op("concat", (x, y), self._value(x.width + y.width, x.rows), x.width // n_groups, y.width // n_groups)

    def add_position(self, x: Operand, w: Operand) -> Operand:
        """x plus the row of w for each token's position."""
        shape = self._weight_of(w).shape
        _require(len(shape) == 2 and w.width == x.width, f"add_position of {shape} to rows of {x.width}")
        return self._op("add_position", (x, w, POS), self._value(x.width))

    def temper(self, x: Operand, length: float, scale: float, offset: float = 0.0) -> Operand:
        """Rows grow with the logarithm of their position: x * (1 + scale * log(1 + floor((position + offset) / length)))."""
        _require(length > 0, f"temper over {length} positions")
        return self._op("temper", (x, POS), self._value(x.width), length, scale, offset)

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

    def attention(
        self,
        q: Operand,
        n_heads: int,
        n_kv_heads: int,
        scale: float,
        sinks: Operand | None = None,
        window: int = 0,
        chunked: bool = False,
        softcap: float = 0.0,
        max_bias: float = 0.0,
    ) -> Operand:
        """window: positions that a query sees, itself the last (0: all before it); if chunked, those of its chunk of as many.

        sinks: a logit for each head that takes part in the softmax and has no value. softcap: of scores, or 0. max_bias: of
        ALiBi, or 0.
        """
        _require(bool(self._kv), "attention before store_kv")
        _require(window >= 0 and softcap >= 0 and max_bias >= 0, f"attention: {window=} {softcap=} {max_bias=}")
        _require(sinks is None or self._weight_of(sinks).shape == (n_heads,), "attention: a sink for each head")
        heads_fit = q.width % n_heads == 0 and n_heads % n_kv_heads == 0 and q.width // n_heads == self._kv[0] // n_kv_heads
        _require(heads_fit, f"{n_heads} query heads in {q.width}, {n_kv_heads} key heads in {self._kv[0]}")
        out = self._value(self._kv[1] // n_kv_heads * n_heads)
        ins = (q, self._cache(0), self._cache(1), sinks, POS)
        return self._op("attention", ins, out, n_heads, n_kv_heads, scale, window, int(chunked), softcap, max_bias)

    def last_rows(self, x: Operand) -> Operand:
        """The rows whose logits are wanted: the last `n_out` of the call."""
        return self._op("last_rows", (x, N_OUT), self._value(x.width, "out"))

    def route(
        self,
        logits: Operand,
        n_used: int,
        bias: Operand | None = None,
        score: str = "softmax",
        normalize: bool = True,
        scale: float = 1.0,
        n_groups: int = 1,
        n_groups_used: int = 1,
    ) -> tuple[Operand, Operand]:
        """The experts of each token, i32 (T, n_used), and their weights, f32 (T, n_used).

        score: what a logit weighs: its "softmax" or "sigmoid", or "chosen", its softmax among those that are chosen. bias: for
        choosing alone. normalize: weights add to 1, before `scale`. Of n_groups of experts, n_groups_used take part.
        """
        _require(1 <= n_used <= logits.width, f"route to {n_used} of {logits.width} experts")
        _require(score in SCORES, f"route by {score!r}")
        _require(bias is None or self._weight_of(bias).shape == (logits.width,), "route: a bias for each expert")
        per_group = logits.width // n_groups
        fits = logits.width % n_groups == 0 and 1 <= n_groups_used <= n_groups and n_used <= n_groups_used * per_group
        _require(fits, f"route to {n_used} of {logits.width} experts in {n_groups_used} of {n_groups} groups")
        experts = replace(self._value(n_used), dtype="i32")
        self._values[experts.index] = experts
        weights = self._value(n_used)
        params = n_used, score, int(normalize), scale, n_groups, n_groups_used
        self._ops.append(_make("route", (experts, weights), (logits, bias), *params))
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

    def expert_add(self, x: Operand, w: Operand, experts: Operand) -> Operand:
        """Adds row e of w to what expert e gave. x: (T, n_used * m), w: (m, n_experts)."""
        shape = self._weight_of(w).shape
        fits = len(shape) == 2 and x.width == shape[0] * experts.width
        _require(fits, f"expert_add of {shape} to rows of {x.width} from {experts.width} experts")
        return self._op("expert_add", (x, w, experts), self._value(x.width))

    def expert_spread(self, x: Operand, weights: Operand) -> Operand:
        """A copy of the row for each expert, times its weight: (T, n), (T, n_used) to (T, n_used * n)."""
        return self._op("expert_spread", (x, weights), self._value(x.width * weights.width))

    def expert_sum(self, x: Operand, weights: Operand | None, n_used: int = 0) -> Operand:
        """The weighted sum of what n_used experts gave, without weights the plain one."""
        n_used = n_used if weights is None else weights.width
        _require(n_used > 0 and x.width % n_used == 0, f"expert_sum of rows of {x.width} from {n_used} experts")
        return self._op("expert_sum", (x, weights), self._value(x.width // n_used), n_used)

    def causal_conv(self, x: Operand, w: Operand) -> Operand:
        """A depthwise convolution over time; the layer keeps the last rows in a recurrent state."""
        n_taps, width = self._weight_of(w).shape
        _require(width == x.width and n_taps > 1, f"causal_conv of {(n_taps, width)} on rows of {x.width}")
        return self._stateful("causal_conv", (n_taps - 1) * width, (x, w), width)

    def ssm_scan(
        self, x: Operand, dt: Operand, b: Operand, c: Operand, a: Operand, n_groups: int = 1, d: Operand | None = None
    ) -> Operand:
        """A selective state space over time; the layer keeps its state.

        x: (T, n_heads * p), dt: (T, n_heads), b and c: (T, n_groups * n). a: (1 or n, n_heads), d: n_heads numbers.
        """
        n_heads, n = dt.width, b.width // n_groups
        shape = self._weight_of(a).shape
        fits = x.width % n_heads == 0 and n_heads % n_groups == 0 and b.width == c.width == n_groups * n
        a_fits = len(shape) == 2 and shape[1] == n_heads and shape[0] in (1, n)
        _require(fits and a_fits, f"ssm_scan of {x.width} in {n_heads} heads, {b.width} in {n_groups} groups, by {shape}")
        _require(d is None or math.prod(self._weight_of(d).shape) == n_heads, f"ssm_scan: a skip for each of {n_heads} heads")
        return self._stateful("ssm_scan", x.width * n, (x, dt, b, c, a, d), x.width, n_heads, n_groups)

    def delta_net(
        self, q: Operand, k: Operand, v: Operand, g: Operand, beta: Operand, n_k_heads: int, scale: float, tiled: bool
    ) -> Operand:
        """The gated delta rule over time; the layer keeps its state.

        q and k: (T, n_k_heads * d), v: (T, n_heads * d_v), g and beta: (T, n_heads). Head h has the keys of h % n_k_heads if
        `tiled`, else of h // (n_heads / n_k_heads). Returns (T, n_heads * d_v).
        """
        n_heads = g.width
        fits = q.width == k.width and q.width % n_k_heads == 0 and v.width % n_heads == 0 and n_heads % n_k_heads == 0
        _require(fits and beta.width == n_heads, f"delta_net of {n_heads} heads, {n_k_heads} of keys: {q.width}, {v.width}")
        n_state = q.width // n_k_heads * v.width
        return self._stateful("delta_net", n_state, (q, k, v, g, beta), v.width, n_heads, n_k_heads, scale, int(tiled))

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

    def _stateful(self, kernel: str, n_state: int, ins: tuple[Operand | None, ...], width: int, *params: Param) -> Operand:
        """An op with n_state numbers of the layer's recurrent state."""
        state = Operand(Space.STATE, STATE_SLOTS + len(self._state), width)
        self._state.append(n_state)
        out = self._value(width)
        self._ops.append(_make(kernel, (out, state), ins, *params))
        return out

    def _group(self, kernel: str, x: Operand, group: int, *weights: Operand | None) -> int:
        """How many elements are normalized together, if the weights fit."""
        group = group or x.width
        shapes = [self._weight_of(w).shape for w in weights if w is not None]
        fits = x.width % group == 0 and all(shape in ((group,), (x.width,), (group, x.width // group)) for shape in shapes)
        _require(fits, f"{kernel} of {x.width} elements, {group} together, with weights of {shapes}")
        return group

    def _elementwise(self, kernel: str, x: Operand, y: Operand, *params: Param) -> Operand:
        if y.space is Space.WEIGHT:
            fits = self._weight_of(y).shape in ((1,), (x.width,))
        else:
            fits = (y.width, y.rows) == (x.width, x.rows)
        _require(fits, f"{kernel} of rows of {x.width} and {y.width}")
        return self._op(kernel, (x, y), self._value(x.width, x.rows), *params)


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
