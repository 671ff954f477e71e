"""Op, Operand, Program: what a forward pass is made of. Start reading here.

A model file (wasmrt/model/llama.py) writes one layer as calls on a Recorder; what it recorded is a Program: a tuple of ops over
operands in four spaces. A device compiles a program once and replays it for every token and layer of the same kind.

    WEIGHT      a tensor of the file. The program holds its format, its shape and its entries in the segment's address table:
                one 64-bit address a tensor, a row chunk of a large one, or an expert. 0 means: not in memory.
    ACTIVATION  f32 or i32 (rows, width) in a slot of the device's arena; slot 0 carries the residual stream between segments
    KV          the layer's own key and value buffers, f32 (n_ctx, width)
    STATE       what a pass is about (token ids, first position, rows wanted), and the layer's recurrent state

Rows are symbolic: "T" is every token of the call, "out" those at its end whose logits are wanted.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Literal

from wasmrt.gguf.types import QuantType

Rows = Literal["T", "out"]
Param = int | float | str


class Space(IntEnum):
    WEIGHT = 0
    ACTIVATION = 1
    KV = 2
    STATE = 3


@dataclass(frozen=True, slots=True)
class Operand:
    """One argument of an op. width: elements a row. index: which weight, slot, cache buffer (keys, values) or state."""

    space: Space
    index: int
    width: int
    rows: Rows = "T"
    dtype: Literal["f32", "i32"] = "f32"


# The state that every pass has; a layer's recurrent state starts at index STATE_SLOTS.
TOKENS = Operand(Space.STATE, 0, 1, dtype="i32")  # (T,) ids
POS = Operand(Space.STATE, 1, 1, dtype="i32")  # position of the first of them
N_OUT = Operand(Space.STATE, 2, 1, dtype="i32")  # rows wanted at the end
STATE_SLOTS = 3


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor as ops see it; entries [first, first + n_entries) of the address table hold `rows_per_entry` rows each."""

    name: str
    type: QuantType
    shape: tuple[int, ...]  # as in the file: row length, rows, experts
    first: int
    n_entries: int
    rows_per_entry: int

    @property
    def n_bytes(self) -> int:
        return self.type.row_bytes(self.shape[0]) * math.prod(self.shape[1:])

    routed: bool = True  # of a stack of matrices: whether a pass uses the few that `route` names, or all of them

    @property
    def is_expert(self) -> bool:
        """Whether its entries are experts, of which a pass uses the few that `route` names."""
        return len(self.shape) == 3 and self.routed


@dataclass(frozen=True, slots=True)
class Kernel:
    """What an op takes. An operand whose role ends in "?" may be absent (None)."""

    ins: tuple[str, ...]
    params: tuple[str, ...] = ()
    elementwise: bool = False  # element i of the output needs element i of the inputs alone, so it may overwrite one
    mutates: tuple[str, ...] = ()  # KV or state that it updates, passed before the ins
    overwrites: tuple[str, ...] = ()  # inputs that the output may overwrite, though the op is not elementwise in all of them
    fused: bool = False  # several ops in one: made of them by program/fuse.py, for devices that ask for it; never recorded


# Every op that exists. The meaning of each is the function of the same name in device/reference.py.
KERNELS: Mapping[str, Kernel] = {
    "embed": Kernel(("w", "tokens")),
    "rms_norm": Kernel(("x", "w?"), ("eps", "group")),
    "matmul": Kernel(("w", "x"), ("first_row", "n_rows")),
    "add": Kernel(("x", "y"), elementwise=True),
    "mul": Kernel(("x", "y"), elementwise=True),
    "swiglu": Kernel(("gate", "up"), elementwise=True),
    "rope": Kernel(
        ("x", "factors?", "pos"),
        ("head_dim", "n_dims", "style", "base", "scale", "magnitude", "extrapolation", "ramp_low", "ramp_high"),
    ),
    "store_kv": Kernel(("k", "v", "pos"), mutates=("keys", "values")),
    "attention": Kernel(
        ("q", "keys", "values", "sinks?", "pos"),
        ("n_heads", "n_kv_heads", "scale", "window", "chunked", "softcap", "max_bias"),
    ),
    "last_rows": Kernel(("x", "n_out")),
    "route": Kernel(("logits", "bias?"), ("n_used", "score", "normalize", "scale", "n_groups", "n_groups_used")),
    "expert_matmul": Kernel(("w", "x", "experts")),
    "expert_mul": Kernel(("x", "w", "experts")),
    "expert_sum": Kernel(("x", "weights?"), ("n_used",)),
    "causal_conv": Kernel(("x", "w"), mutates=("window",)),
    "layer_norm": Kernel(("x", "w?", "b?"), ("eps", "group")),
    "softmax": Kernel(("x",)),
    "unary": Kernel(("x",), ("function", "a", "b", "c", "d"), elementwise=True),
    "geglu": Kernel(("gate", "up"), elementwise=True),
    "swiglu_oai": Kernel(("gate", "up"), ("alpha", "limit"), elementwise=True),
    "columns": Kernel(("x",), ("group", "start", "n")),
    "concat": Kernel(("x", "y"), ("group_x", "group_y")),
    "add_position": Kernel(("x", "w", "pos")),
    "temper": Kernel(("x", "pos"), ("length", "scale", "offset")),
    "head_matmul": Kernel(("w", "x"), ("n_heads",)),
    "expert_add": Kernel(("x", "w", "experts")),
    "expert_spread": Kernel(("x", "weights")),
    "ssm_scan": Kernel(("x", "dt", "b", "c", "a", "d?"), ("n_heads", "n_groups"), mutates=("state",)),
    "delta_net": Kernel(
        ("q", "k", "v", "g", "beta"), ("n_heads", "n_k_heads", "scale", "tiled"), mutates=("state",)
    ),
    "div": Kernel(("x", "y"), elementwise=True),
    "qkv": Kernel(("x", "norm?", "w1", "w2?", "w3?"), ("eps", "first_row", "n_rows"), fused=True),
    "gate_up": Kernel(("x", "norm?", "w_gate", "w_up"), ("eps", "activation", "first_row", "n_rows"), fused=True),
    "matmul_add": Kernel(("w", "x", "r"), ("first_row", "n_rows"), overwrites=("r",), fused=True),
    "rope_kv": Kernel(
        ("q", "k", "v", "factors?", "pos"),
        ("head_dim", "n_dims", "style", "base", "scale", "magnitude", "extrapolation", "ramp_low", "ramp_high"),
        mutates=("keys", "values"),
        overwrites=("q",),
        fused=True,
    ),
}

# What `unary` computes of an element; device/reference.py says how. scale, softcap, clamp and xielu take the numbers a to d.
FUNCTIONS = (
    "scale", "softcap", "clamp", "gelu", "gelu_erf", "gelu_quick", "silu", "relu", "relu2", "sigmoid", "softplus", "tanh",
    "exp", "xielu",
)  # fmt: skip
SCORES = ("softmax", "sigmoid", "chosen")  # of `route`


@dataclass(frozen=True, slots=True)
class Op:
    """One kernel call. `params` are in the order of the kernel's table row.

    out: what it writes, first values, then what it updates of KV and state.
    A matmul with a weight of several entries is several ops, one an entry, that each write their columns of the same output: so
    that no op needs more in memory than one entry of each of its weights.
    """

    kernel: str
    out: tuple[Operand, ...]
    ins: tuple[Operand | None, ...]
    params: tuple[Param, ...] = ()

    @property
    def weight_rows(self) -> range | None:
        """The rows that it takes of its matrices, which are the columns of the outputs that it writes; None: all of everything.

        Of matrices with different numbers of rows, each gives those of them that it has.
        """
        names = KERNELS[self.kernel].params
        if "first_row" not in names:
            return None
        at = names.index("first_row")
        first, n_rows = int(self.params[at]), int(self.params[at + 1])
        return range(first, first + n_rows)

    def with_rows(self, rows: range) -> "Op":
        """The same for other rows of its matrices."""
        at = KERNELS[self.kernel].params.index("first_row")
        return replace(self, params=(*self.params[:at], rows.start, len(rows), *self.params[at + 2 :]))


@dataclass(frozen=True, slots=True)
class Slot:
    """An arena buffer of `width` 4-byte elements for each of the pass's "T" or "out" rows."""

    rows: Rows
    width: int


@dataclass(frozen=True)
class Program:
    """The ops of one kind of segment. Layers with equal shapes and formats share one program; a binding gives it addresses."""

    name: str
    ops: tuple[Op, ...]
    weights: tuple[Weight, ...]
    slots: tuple[Slot, ...]
    kv: tuple[int, ...]  # widths of the key and value rows, or ()
    state: tuple[int, ...]  # f32 elements of each recurrent state
    result: Operand  # the residual stream (slot 0), or the logits

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Computed once: of some thousand numbers, it would be most of what opening a model takes."""
        return hash((self.name, self.ops, self.weights, self.slots, self.kv, self.state, self.result))

    @property
    def n_entries(self) -> int:
        """Length of the address table."""
        return sum(w.n_entries for w in self.weights)

    def entries_of(self, op: Op) -> tuple[int, ...]:
        """The table entries that an op may read: of an expert tensor all, though a pass needs only those that were routed."""
        entries: list[int] = []
        rows = op.weight_rows
        for index in dict.fromkeys(o.index for o in op.ins if o is not None and o.space is Space.WEIGHT):
            w = self.weights[index]
            used = range(w.n_entries)
            if rows is not None and len(w.shape) == 2:
                used = used[rows.start // w.rows_per_entry : -(-rows.stop // w.rows_per_entry)]
            entries += (w.first + i for i in used)
        return tuple(entries)
