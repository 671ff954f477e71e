"""Fusing: a recorded program with several ops in one, for devices on which starting an op takes longer than most ops do.

    qkv         rms_norm and products of the same rows with up to three matrices of one format
    gate_up     rms_norm, two products and their activation
    matmul_add  a product and the residual stream that it is added to
    rope_kv     the rotation of queries and keys, and storing keys and values

A Llama layer of 16 ops becomes one of 6. Pure: programs in, programs out, on any machine. The program is lifted back to values
that are written once, with each product in one op; rules replace ops; and the values are placed in slots again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

from wasmrt.program.ops import KERNELS, Op, Operand, Param, Program, Space, Weight
from wasmrt.program.record import overwritable, place

MOST_MATRICES = 3  # that a qkv takes

# What a rule wants: ops to drop (None) and ops to put in the place of others.
Change = Mapping[Op, Op | None]

AnyOperand = TypeVar("AnyOperand", Operand, Operand | None)


def fuse(program: Program, whole: bool) -> Program:
    """The same computation in fewer ops; equal where there is nothing to fuse, so fusing twice is fusing once.

    whole: all weights of the segment are in memory, so that an op takes all entries of a matrix, and matrices of the same rows
    are taken together. Otherwise an op needs one entry of each of its matrices at once, and matrices that are not needed
    together stay apart. Each element of each value is computed from the same numbers in the same order either way.
    """
    page = _lift(program)
    if not whole and any(len(_matrices(page, op)) > 1 for op in page.ops if op.kernel == "qkv"):
        raise ValueError(f"{program.name!r} was fused for weights that are all in memory, and cannot be streamed")
    before = None
    while page is not before:  # what one rule does may make room for another
        before = page
        for kernel, rule in RULES.items():
            for op in page.ops:
                if op.kernel == kernel and op in page.ops:
                    page = page.changed(rule(page, op, whole))
    ops = page.ops if whole else tuple(part for op in page.ops for part in _by_entries(page, op))
    placed, slots, result = place(ops, page.residual, page.result)
    return replace(program, ops=placed, slots=slots, result=result)


@dataclass(frozen=True, slots=True)
class _Page:
    """A program's ops on values that are written once, as they were recorded; a product is one op, however many entries."""

    ops: tuple[Op, ...]
    weights: tuple[Weight, ...]
    residual: Operand | None
    result: Operand

    def readers(self, value: Operand) -> list[Op]:
        """The ops that read a value, each as often as it does."""
        return [op for op in self.ops for o in op.ins if o == value]

    def maker(self, value: Operand | None, kernel: str) -> Op | None:
        """The op of this kernel that gives a value."""
        return next((op for op in self.ops if op.kernel == kernel and value in op.out), None)

    def between(self, value: Operand | None, kernel: str, reader: Op) -> Op | None:
        """The op of this kernel that gives a value, if one op needs it alone, once."""
        maker = self.maker(value, kernel)
        return maker if maker and value and value != self.result and self.readers(value) == [reader] else None

    def changed(self, change: Change) -> "_Page":
        """With a rule's change, if the residual stream can still leave where it entered."""
        if not change:
            return self
        page = replace(self, ops=tuple(new for op in self.ops if (new := change.get(op, op)) is not None))
        return page if page._stream_leaves() else self

    def _stream_leaves(self) -> bool:
        """Whether the old stream is no longer needed where the new one is written: a fused op reads early what it adds late."""
        if self.residual is None or self.result.rows != "T" or self.result == self.residual:
            return True
        at = next(i for i, op in enumerate(self.ops) if self.result in op.out)
        needed = any(self.residual in op.ins for op in self.ops[at:])
        return not needed or self.residual.index in overwritable(self.ops, at, self.result)


def _lift(program: Program) -> _Page:
    """Back from slots to values."""
    numbers = count()
    holds: dict[int, Operand] = {}  # slot -> the value in it
    residual = None
    if _takes_stream(program):
        residual = holds[0] = Operand(Space.ACTIVATION, next(numbers), program.slots[0].width)
    ops: list[Op] = []
    for op in program.ops:
        if op.weight_rows and op.weight_rows.start:  # more columns of a value that an op before began
            begun = next(i for i, other in enumerate(ops) if other.out == _values_in(holds, op.out))
            ops[begun] = ops[begun].with_rows(range(op.weight_rows.stop))
            continue
        ins = _values_in(holds, op.ins)
        for o in op.out:
            if o.space is Space.ACTIVATION:
                holds[o.index] = replace(o, index=next(numbers))
        ops.append(replace(op, ins=ins, out=_values_in(holds, op.out)))
    return _Page(tuple(ops), program.weights, residual, holds[program.result.index])


def _values_in(holds: Mapping[int, Operand], operands: tuple[AnyOperand, ...]) -> tuple[AnyOperand, ...]:
    return tuple(holds[o.index] if o is not None and o.space is Space.ACTIVATION else o for o in operands)


def _takes_stream(program: Program) -> bool:
    """Whether slot 0 has a content before the first op: it is read before it is written, or left alone."""
    for op in program.ops:
        if any(o is not None and o.space is Space.ACTIVATION and o.index == 0 for o in op.ins):
            return True
        if any(o.space is Space.ACTIVATION and o.index == 0 for o in op.out):
            return False
    return True


def _matrices(page: _Page, op: Op) -> list[Weight]:
    """What an op multiplies with; a matrix of one row may have the shape of a vector, as the weight of a norm has."""
    roles = zip(KERNELS[op.kernel].ins, op.ins, strict=True)
    return [page.weights[o.index] for role, o in roles if o is not None and o.space is Space.WEIGHT and role.startswith("w")]


def _by_entries(page: _Page, op: Op) -> Iterator[Op]:
    """An op for each entry of its matrices."""
    if op.weight_rows is None:
        yield op
        return
    per_entry = _matrices(page, op)[0].rows_per_entry
    for first in range(0, op.weight_rows.stop, per_entry):
        yield op.with_rows(range(first, min(first + per_entry, op.weight_rows.stop)))


# The rules: what an op becomes with those around it, or {}. A matmul's ins are (w, x), its params its rows.


def _gate_up(page: _Page, activation: Op, whole: bool) -> Change:
    """Two products with the same rows and matrices of one kind, in the place of their activation."""
    gate, up = (page.between(value, "matmul", activation) for value in activation.ins)
    if gate is None or up is None or gate.ins[1] != up.ins[1]:
        return {}
    kinds = {(w.type, w.shape) for op in (gate, up) for w in _matrices(page, op)}
    if len(kinds) > 1:
        return {}
    ins = gate.ins[1], None, gate.ins[0], up.ins[0]
    fused = Op("gate_up", activation.out, ins, (0.0, activation.kernel, *gate.params))
    return {gate: None, up: None, activation: fused}


def _norm(page: _Page, norm: Op, whole: bool) -> Change:
    """A norm goes into all products with what it gives; if anything else reads that, it stays."""
    (h,), (x, w) = norm.out, norm.ins
    eps, group = norm.params
    readers = page.readers(h)
    if w is None or group != h.width or not readers or h == page.result or not all(map(_takes_norm, readers)):
        return {}
    change: dict[Op, Op | None] = {norm: None}
    for op in readers:
        if op.kernel != "matmul":
            change[op] = replace(op, ins=(x, w, *op.ins[2:]), params=(eps, *op.params[1:]))
    matmuls = [op for op in readers if op.kernel == "matmul"]
    while matmuls:
        some = _of_one_format(page, matmuls) if whole else matmuls[:1]
        change |= _qkv(some, x, w, eps)
        matmuls = [op for op in matmuls if op not in some]
    return change


def _takes_norm(op: Op) -> bool:
    return op.kernel == "matmul" or (op.kernel in ("qkv", "gate_up") and op.ins[1] is None)


def _matmul_add(page: _Page, add: Op, whole: bool) -> Change:
    """A product and what it is added to, in the place of the sum."""
    for product, r in (add.ins[::-1], add.ins):
        matmul = page.between(product, "matmul", add)
        if matmul and r and r.space is Space.ACTIVATION:
            return {matmul: None, add: Op("matmul_add", add.out, (*matmul.ins, r), matmul.params)}
    return {}


def _joined(page: _Page, matmul: Op, whole: bool) -> Change:
    """Products with the same rows, where no norm was before them or it stays."""
    x, later = matmul.ins[1], page.ops[page.ops.index(matmul) :]
    same = _of_one_format(page, [op for op in later if op.kernel == "matmul" and op.ins[1] == x])
    return _qkv(same, x, None, 0.0) if whole and len(same) > 1 else {}


def _rope_kv(page: _Page, store: Op, whole: bool) -> Change:
    """Keys that are rotated to be stored, and queries that are rotated alike before that, in the place of storing."""
    k, v, _ = store.ins
    of_k = page.between(k, "rope", store)
    if of_k is None:
        return {}
    before = page.ops[: page.ops.index(store)]
    for of_q in reversed(before):
        alike = of_q.kernel == "rope" and (of_q.ins[1:], of_q.params) == (of_k.ins[1:], of_k.params)
        if alike and of_q.out[0].rows == "T" and not any(of_q.out[0] in op.ins for op in (*before, store)):
            fused = Op("rope_kv", (*of_q.out, *store.out), (of_q.ins[0], of_k.ins[0], v, *of_k.ins[1:]), of_k.params)
            return {of_q: None, of_k: None, store: fused}
    return {}


def _of_one_format(page: _Page, matmuls: list[Op]) -> list[Op]:
    """The first of them, and those that one op takes with it."""
    types = [_matrices(page, op)[0].type for op in matmuls]
    return [op for op, type in zip(matmuls, types, strict=True) if type == types[0]][:MOST_MATRICES]


def _qkv(matmuls: list[Op], x: Operand | None, norm: Operand | None, eps: Param) -> Change:
    """These products in the place of the first."""
    weights = [op.ins[0] for op in matmuls]
    absent = [None] * (MOST_MATRICES - len(weights))
    n_rows = max(op.weight_rows.stop for op in matmuls if op.weight_rows)
    fused = Op("qkv", tuple(o for op in matmuls for o in op.out), (x, norm, *weights, *absent), (eps, 0, n_rows))
    return {**dict.fromkeys(matmuls), matmuls[0]: fused}


# In this order: a product that can take its norm or its activation does so first.
RULES: Mapping[str, Callable[[_Page, Op, bool], Change]] = {
    "swiglu": _gate_up,
    "geglu": _gate_up,
    "rms_norm": _norm,
    "add": _matmul_add,
    "matmul": _joined,
    "store_kv": _rope_kv,
}
