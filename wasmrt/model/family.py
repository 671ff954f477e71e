"""Family: what a model file defines of an architecture."""

from collections.abc import Callable
from dataclasses import dataclass

from wasmrt.model import blocks
from wasmrt.model.config import Keys, ModelConfig
from wasmrt.model.shapes import shapes
from wasmrt.model.weights import Shapes, Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder

Page = Callable[[Recorder, ModelConfig, Weights], Operand]
Layer = Callable[[Recorder, ModelConfig, Weights, Operand], Operand]


def as_read(c: ModelConfig, keys: Keys) -> ModelConfig:
    """What needs nothing beyond the keys that all architectures share."""
    return c


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture, by its name in a file.

    layer: the page of one layer, on the residual stream; its config is that of the layer. rope: which elements turn together:
    "pairs", "halves", or "" where positions come in another way. configure: adds what the file's other keys say. Of these,
    only those are read that the architecture is known to use: files keep keys that mean nothing to it. unscaled: how the names
    of matrices begin whose scale tensors mean nothing either: llama.cpp, which writes them, computes without. unbiased: the
    same of biases.
    """

    layer: Layer
    rope: str = "pairs"
    norm: str = "rms"
    activation: str = "swiglu"
    configure: Callable[[ModelConfig, Keys], ModelConfig] = as_read
    unscaled: tuple[str, ...] = ()
    unbiased: tuple[str, ...] = ()
    shapes: Callable[[ModelConfig], Shapes] = shapes
    embedding: Page = blocks.embedding
    head: Layer = blocks.head
