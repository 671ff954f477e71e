"""Steps: what an op becomes on a GPU. Each gpu_*.py beside this lowers some ops to dispatches; gpu.py replays them.

    def lower_add(op: Op, site: Site) -> Iterator[Step]: ...

A Site says where an op's operands lie: slots, weights, cache. Steps are made once for each place that an op's weights have, and
once for narrow passes (a few tokens) and wide ones.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from wasmrt.device.gpu_host import Limits, Range
from wasmrt.device.gpu_layout import Layout
from wasmrt.device.gpu_tune import Tuning
from wasmrt.program.ops import Op, Operand, Weight

NARROW = 4  # tokens of a pass, at most, that go through matrix-vector kernels


class Pass(NamedTuple):
    """What a run is about, as shaders have it in `state`."""

    n_tokens: int
    pos: int
    n_out: int
    n_split: int  # parts that attention cuts the keys into

    def rows(self, operand: Operand) -> int:
        """Of an activation."""
        return self.n_tokens if operand.rows == "T" else self.n_out


Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Step:
    """A dispatch. ranges: of the storage bindings in their order, from 2 on."""

    files: tuple[str, ...]  # of shaders/, behind common.wgsl
    params: bytes
    ranges: tuple[Range, ...]
    grid: Callable[[Pass], Grid]  # workgroups; an x of 0: not in this pass
    constants: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of a matrix in one binding: `n_rows` from `first` on, which the binding has from `at` on."""

    first: int
    n_rows: int
    at: int
    layout: Layout
    a: Range
    b: Range


class Site(Protocol):
    """Where the operands of an op lie."""

    limits: Limits
    features: frozenset[str]
    wide: bool  # more than NARROW tokens may come
    max_tokens: int
    max_out: int
    context: int  # positions of the cache
    f16_cache: bool
    dummy: Range  # 16 bytes, for bindings that a step does not use
    tokens: Range  # u32 ids of the pass
    kv_heads: int  # of this layer's cache
    tuning: Tuning

    def slot(self, operand: Operand) -> Range:
        """All rows of an activation."""

    def kv(self, index: int) -> Range:
        """The keys (0) or values (1) of this layer."""

    def recurrent(self, operand: Operand) -> Range: ...

    def weight(self, operand: Operand) -> Weight: ...

    def constant(self, data: bytes) -> Range:
        """Bytes that no pass changes; the same bytes are kept once."""

    def host_vector(self, operand: Operand) -> Sequence[float]:
        """The values of a small F32 weight."""

    def vector(self, operand: Operand) -> Range:
        """A weight that is no matrix of a matmul, as f32, whatever its format; padded with zeros to whole units of 32 a row."""

    def spans(self, *operands: Operand) -> Sequence[Span]:
        """Where matrices lie that are computed with as one: the rows of the first, then those of the second, and so on."""

    def scratch(self, name: str, n_bytes: int) -> Range:
        """Memory that one op's steps hand on; every op may have it."""


Lower = Callable[[Op, Site], Iterator[Step]]


def fold(n: int, limits: Limits) -> Grid:
    """n workgroups in one dimension, or in two where that has too few: kernels use group_index and leave past the end."""
    if n <= limits.workgroups:
        return n, 1, 1
    rows = -(-n // limits.workgroups)
    return -(-n // rows), rows, 1


def words(*values: int | float) -> bytes:
    """The params of a shader: u32 for an int, f32 for a float."""
    return b"".join(struct.pack("<f" if isinstance(v, float) else "<I", v) for v in values)


def ceil_div(n: int, by: int) -> int:
    return -(-n // by)
