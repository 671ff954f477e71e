"""Weights: the tensors of one segment, by their names in the file, as a model page uses them."""

from collections.abc import Mapping

from wasmrt.errors import FormatError
from wasmrt.gguf.reader import TensorInfo
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

# What layers take from the file as a whole, without their prefix.
SHARED = ("rope_freqs", "rope_factors_long", "rope_factors_short", "position_embd", "token_embd_norm")
Shapes = Mapping[str, tuple[int, ...]]


class Weights:
    """`w.attn_q` is the operand of the tensor "blk.N.attn_q.weight"; its shape is held against the family's table.

    What all layers share (SHARED) is looked up without the prefix. `used` collects what was asked for, `skipped` what a page
    leaves out knowingly. unscaled, unbiased: how the names of matrices begin whose scales or biases the family leaves out.
    """

    def __init__(
        self,
        t: Recorder,
        tensors: Mapping[str, TensorInfo],
        prefix: str,
        shapes: Shapes,
        unscaled: tuple[str, ...] = (),
        unbiased: tuple[str, ...] = (),
    ) -> None:
        self._t, self._tensors, self._prefix, self._shapes = t, tensors, prefix, shapes
        self._left_out = {"scale": unscaled, "bias": unbiased}
        self.used: dict[str, TensorInfo] = {}
        self.skipped: set[str] = set()

    def __getattr__(self, name: str) -> Operand:
        return self.need(name)

    def need(self, name: str, part: str = "weight") -> Operand:
        """The operand of a tensor that must be there. FormatError if it is not."""
        operand = self.get(name, part)
        if operand is None:
            whole = self._name(name, part)
            raise FormatError(f"tensor {whole!r} is missing: the file is incomplete or was cut apart")
        return operand

    def get(self, name: str, part: str = "weight") -> Operand | None:
        """The operand of a tensor that may be absent: its "weight", "bias" or "scale", or "" for one without such an ending."""
        if name.startswith(self._left_out.get(part, ())):
            self.skip(name, part)
            return None
        whole = self._name(name, part)
        info = self._tensors.get(whole)
        if info is None or whole in self.skipped:
            return None
        shape = self._checked(info, name, part)
        short = f"{name}.{part}".rstrip(".")
        self.used[short] = info
        return self._t.weight(short, info.type, shape)

    def skip(self, name: str, *parts: str) -> None:
        """Leave out what a tensor of this name may say: a part of it, or its weight and bias."""
        self.skipped.update(self._name(name, part) for part in parts or ("weight", "bias"))

    def has(self, name: str, part: str = "weight") -> bool:
        """Whether the file has a tensor; it is not used by asking."""
        return self._name(name, part) in self._tensors

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape that the family's table gives a tensor."""
        return self._shapes[name]

    def _name(self, name: str, part: str) -> str:
        return ("" if name in SHARED else self._prefix) + f"{name}.{part}".rstrip(".")

    def _checked(self, info: TensorInfo, name: str, part: str) -> tuple[int, ...]:
        """The shape, which differs from the file's in dimensions of 1 at most."""
        weight = self._shapes[name]
        per_row = weight[1:] or weight
        whole = (weight,)
        expected = {"weight": whole, "": whole, "scales": whole, "bias": (per_row,), "scale": ((1,), weight[2:])}[part]
        fitting = [trimmed(shape) for shape in expected if bare(shape) == bare(info.shape)]
        if not fitting:
            raise FormatError(
                f"tensor {info.name!r} has shape {list(info.shape)}, but the file's metadata asks for {list(expected[0])}: "
                "the metadata or the tensor belongs to another model"
            )
        return fitting[0]


def bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without dimensions of 1, which files may have or leave out."""
    return tuple(n for n in shape if n != 1)


def trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as files have it, which say nothing of dimensions of 1 at its end."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
