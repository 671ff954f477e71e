"""Weights: the tensors of one segment, by their names in the file, as a model page uses them."""

from collections.abc import Mapping

from wasmrt.errors import FormatError
from wasmrt.gguf.reader import TensorInfo
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

SHARED = ("rope_freqs",)
Shapes = Mapping[str, tuple[int, ...]]


class Weights:
    """`w.attn_q` is the operand of the tensor "blk.N.attn_q.weight"; its shape is held against the family's table.

    What all layers share (SHARED) is looked up without the prefix. `used` collects what was asked for.
    """

    def __init__(self, t: Recorder, tensors: Mapping[str, TensorInfo], prefix: str, shapes: Shapes) -> None:
        self._t, self._tensors, self._prefix, self._shapes = t, tensors, prefix, shapes
        self.used: dict[str, TensorInfo] = {}

    def __getattr__(self, name: str) -> Operand:
        operand = self.get(name)
        if operand is None:
            raise FormatError(f"tensor {self._prefix + name + '.weight'!r} is missing: the file is incomplete or was cut apart")
        return operand

    def get(self, name: str, part: str = "weight") -> Operand | None:
        """The operand of a tensor that may be absent: its "weight", "bias" or "scale"."""
        short = f"{name}.{part}"
        info = self._tensors.get(short if name in SHARED else self._prefix + short)
        if info is None:
            return None
        self._check(info, name, part)
        self.used[short] = info
        return self._t.weight(short, info.type, info.shape)

    def _check(self, info: TensorInfo, name: str, part: str) -> None:
        weight = self._shapes[name]
        per_row = weight[1:] or weight
        expected = {"weight": (weight,), "bias": (per_row,), "scale": ((1,), weight[2:])}[part]
        if info.shape not in expected:
            raise FormatError(
                f"tensor {info.name!r} has shape {list(info.shape)}, but the file's metadata asks for {list(expected[0])}: "
                "the metadata or the tensor belongs to another model"
            )
