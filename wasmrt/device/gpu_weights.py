"""Weights on the GPU: which an op needs as one matrix, where they lie, and how they get there.

A Group is what an op computes with as one: a matrix, matrices of one format joined by rows (q, k and v), or a vector. It lies
in a Region. Bytes of the file are copied as they are into a raw buffer, from where a kernel lays them out (gpu_layout.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wasmrt.device.gpu_host import GpuHost, Limits, Range
from wasmrt.device.gpu_layout import Layout, layout_of
from wasmrt.device.gpu_steps import Span, Step, ceil_div, fold, words
from wasmrt.program.ops import Op, Program, Space
from wasmrt.store.layers import LayerTable
from wasmrt.store.memory import Frame

# The weights of these ops that are matrices; joined: that are computed with as one. All others are vectors.
MATRICES = {"embed": ("w",), "matmul": ("w",), "matmul_add": ("w",), "expert_matmul": ("w",), "head_matmul": ("w",)}
JOINED = {"qkv": (2, 5), "gate_up": (2, 4)}  # ins from, to
ON_HOST = {"rope": 1, "rope_kv": 3}  # the input whose values are wanted on the host
SMALL_BYTES = 4096
ALIGNMENT = 256  # of a binding's offset, on any adapter


@dataclass(frozen=True, slots=True)
class Part:
    """An entry of the address table that a group is made of: n_rows rows, the first of which is row `first` of the group."""

    entry: int
    first: int
    n_rows: int


@dataclass(frozen=True, slots=True)
class Group:
    """What an op computes with as one."""

    operands: tuple[int, ...]  # indices of the program's weights
    layout: Layout
    n: int  # elements a row
    n_rows: int
    parts: tuple[Part, ...]
    file_row_bytes: int
    is_vector: bool
    is_expert: bool

    @property
    def row_bytes(self) -> tuple[int, int]:
        """Of the two streams of its layout."""
        return self.layout.a_row_bytes(self.n), self.layout.b_row_bytes(self.n)

    def bytes_of(self, n_rows: int) -> int:
        """Of a buffer with so many of its rows."""
        return sum(padded(n_bytes * n_rows) for n_bytes in self.row_bytes)

    @property
    def f32_bytes(self) -> int:
        """Of what a vector in another format becomes, in a buffer of its own: none is read and written by one dispatch."""
        return padded(unit_bytes(self.n) * self.n_rows) if self.is_vector and self.layout.name != "F32" else 0


def padded(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def unit_bytes(n: int) -> int:
    """Of a row as f32, padded to whole units of 32."""
    return -(-n // 32) * 128


def groups_of(program: Program, op: Op) -> tuple[Group, ...]:
    """What an op needs on the GPU; of experts all."""
    at = [(i, o.index) for i, o in enumerate(op.ins) if o is not None and o.space is Space.WEIGHT]
    at = [(i, w) for i, w in at if ON_HOST.get(op.kernel) != i]
    joined = [w for i, w in at if op.kernel in JOINED and i in range(*JOINED[op.kernel])]
    single = [w for i, w in at if op.kernel in MATRICES and i == 0]
    matrices = [tuple(joined)] if joined else [(w,) for w in single]
    inside = {w for m in matrices for w in m}
    found = [_group(program, op, m, False) for m in matrices]
    return (*found, *(_group(program, op, (w,), True) for _, w in at if w not in inside))


def _group(program: Program, op: Op, operands: tuple[int, ...], is_vector: bool) -> Group:
    parts: list[Part] = []
    wanted = set(program.entries_of(op))
    first = 0
    for index in operands:
        w = program.weights[index]
        total = w.shape[1] if len(w.shape) > 1 else 1
        for i in range(w.n_entries):
            stacked = len(w.shape) > 2  # an entry is a matrix
            n_rows = w.rows_per_entry if stacked else min(w.rows_per_entry, total - i * w.rows_per_entry)
            if w.first + i in wanted:
                parts.append(Part(w.first + i, first, n_rows))
                first += n_rows
    w = program.weights[operands[0]]
    n, row_bytes = w.shape[0], w.type.row_bytes(w.shape[0])
    return Group(operands, layout_of(w.type), n, first, tuple(parts), row_bytes, is_vector, w.is_expert)


@dataclass(frozen=True, slots=True)
class Region:
    """Rows of one format in a buffer. f32: of a vector in another format, what it becomes."""

    layout: Layout
    n: int
    n_rows: int
    a: Range
    b: Range
    f32: Range | None
    is_vector: bool

    @property
    def vector(self) -> Range:
        return self.f32 or self.a


def region_in(buffer: Any, at: int, group: Group, n_rows: int, dummy: Range, f32: Range | None) -> Region:
    """A region for n_rows of a group's rows, from byte `at` of a buffer on. f32: for what a vector becomes."""
    a_bytes, b_bytes = (row * n_rows for row in group.row_bytes)
    a = buffer, at, a_bytes
    b = (buffer, at + padded(a_bytes), b_bytes) if b_bytes else dummy
    return Region(group.layout, group.n, n_rows, a, b, f32 if group.f32_bytes else None, group.is_vector)


@dataclass(frozen=True, slots=True)
class Placed:
    """Rows of a group: those from `first` on are the rows from `at` on of a region."""

    first: int
    n_rows: int
    at: int
    region: Region

    @property
    def span(self) -> Span:
        r = self.region
        return Span(self.first, self.n_rows, self.at, r.layout, r.a, r.b)


def merged(placed: Sequence[Placed]) -> tuple[Placed, ...]:
    """Neighbours in one region as one."""
    found: list[Placed] = []
    for p in placed:
        last = found[-1] if found else None
        if last and last.region is p.region and last.first + last.n_rows == p.first and last.at + last.n_rows == p.at:
            found[-1] = Placed(last.first, last.n_rows + p.n_rows, last.at, p.region)
        else:
            found.append(p)
    return tuple(found)


def split_rows(group: Group, limits: Limits) -> Iterator[tuple[int, int]]:
    """A group's rows in pieces that fit in a binding and a buffer: (first, n_rows), whole parts each."""
    most = min(limits.binding, limits.buffer // 2) // max(group.row_bytes)
    start = end = 0
    for part in group.parts:
        if part.first + part.n_rows - start > most and end > start:
            yield start, end - start
            start = end
        end = part.first + part.n_rows
    yield start, end - start


class Uploader:
    """Lays out raw bytes anew. constant: keeps bytes on the GPU, the same ones once."""

    def __init__(self, host: GpuHost, constant: Callable[[bytes], Range]) -> None:
        self._host, self._constant = host, constant

    def reserve(self, programs: Sequence[Program]) -> None:
        """Take what laying out these programs' weights will take, beside their own room."""
        for layout in {w.type.name: layout_of(w.type) for program in programs for w in program.weights}.values():
            if layout.points:
                self._constant(layout.points)

    def write(self, buffer: Any, at: int, data: bytes | Frame) -> None:
        """Bytes of any number, of which WebGPU takes fours."""
        whole = len(data) & ~3
        if whole:
            self._host.write(buffer, at, data[:whole])
        if whole < len(data):
            self._host.write(buffer, at + whole, bytes(data[whole:]).ljust(4, b"\0"))

    def steps(self, raw: Range, region: Region, at: int, n_rows: int) -> Iterator[Step]:
        """From raw bytes to rows [at, at + n_rows) of a region; a vector also to f32."""
        layout, limits = region.layout, self._host.limits
        repack = layout.repack(region.n, n_rows, at)
        streams = (region.a, region.b) if layout.b_row_bytes(region.n) else (region.a,)
        points = (self._constant(repack.points),) if repack.points else ()
        grid = fold(repack.workgroups, limits)
        yield Step(repack.files, repack.params, (raw, *streams, *points), lambda _: grid, repack.constants)
        if region.f32 is not None:
            units = layout.units(region.n)
            threads = fold(ceil_div(units * region.n_rows, 64), limits)
            files = (*layout.files, "expand")
            yield Step(files, words(units, region.n_rows), (region.a, region.b, region.f32), lambda _: threads)


Placement = Mapping[tuple[int, ...], tuple[Placed, ...]]  # of an op: where each group lies, by its operands


class Regions:
    """The weights that stay."""

    def __init__(self, host: GpuHost, dummy: Range) -> None:
        self._host, self._dummy = host, dummy
        self._placed: dict[tuple[int, Group], tuple[Placed, ...]] = {}  # by segment
        self._extent_at: dict[tuple[int, int], int] = {}  # of (segment, entry)
        self._on_host: dict[int, bytes] = {}  # by extent: small weights whose values the host wants, too
        self._rows_at: dict[int, list[tuple[Region, int, int]]] = {}  # of an extent: region, first row, rows

    def place(self, groups: Sequence[Sequence[Sequence[Group]]], table: LayerTable, resident: frozenset[int]) -> None:
        """groups: of each op of each segment. What segments share, as a tied head the embedding, lies in one place."""
        self._extent_at = {place: i for i, extent in enumerate(table.extents) for place in extent.places}
        shared: dict[tuple[Any, ...], tuple[Placed, ...]] = {}
        found = [(s, group) for s, ops in enumerate(groups) for op in ops for group in op]
        # Fewer parts first: a table of embeddings is then made of what a head's chunks have.
        for s, group in sorted(found, key=lambda pair: len(pair[1].parts)):
            extents = tuple(self._extent_at[s, part.entry] for part in group.parts)
            if (s, group) in self._placed or not resident.issuperset(extents):
                continue
            key = group.is_vector, group.layout.name, extents
            if key not in shared:
                shared[key] = self._found(group, extents) or self._new(group, extents)
            self._placed[s, group] = shared[key]

    def _found(self, group: Group, extents: Sequence[int]) -> tuple[Placed, ...]:
        """Where all of a matrix lies already, if it does."""
        placed = []
        for part, extent in zip(group.parts, extents, strict=True):
            regions = [(r, at) for r, at, _ in self._rows_at.get(extent, ()) if r.is_vector == group.is_vector]
            if not regions:
                return ()
            placed.append(Placed(part.first, part.n_rows, regions[0][1], regions[0][0]))
        return merged(placed)

    def _new(self, group: Group, extents: Sequence[int]) -> tuple[Placed, ...]:
        placed = []
        for first, n_rows in split_rows(group, self._host.limits):
            buffer, f32_bytes = self._host.buffer(group.bytes_of(n_rows)), group.f32_bytes
            f32 = (self._host.buffer(f32_bytes), 0, f32_bytes) if f32_bytes else None
            region = region_in(buffer, 0, group, n_rows, self._dummy, f32)
            placed.append(Placed(first, n_rows, 0, region))
            for part, extent in zip(group.parts, extents, strict=True):
                if first <= part.first < first + n_rows:
                    self._rows_at.setdefault(extent, []).append((region, part.first - first, part.n_rows))
        return tuple(placed)

    def has(self, segment: int, group: Group) -> bool:
        return (segment, group) in self._placed

    def extents_of(self, segment: int, group: Group) -> tuple[int, ...]:
        return tuple(self._extent_at[segment, part.entry] for part in group.parts)

    def bytes_of(self, extents: Sequence[int]) -> int:
        regions = [region for i in extents for region, _, _ in self._rows_at.get(i, ())]
        buffers = {id(r[0]): r[0].size for region in regions for r in (region.a, region.f32) if r}
        return sum(buffers.values())

    def placed(self, segment: int, groups: Sequence[Group]) -> Placement:
        return {group.operands: self._placed[segment, group] for group in groups if (segment, group) in self._placed}

    def rows_of(self, places: Sequence[tuple[int, int]]) -> Sequence[tuple[Region, int, int]]:
        """What the bytes behind an entry fill: (region, first row, rows)."""
        return self._rows_at.get(self._extent_at[places[0]], ())

    def keep_on_host(self, places: Sequence[tuple[int, int]], data: Frame) -> None:
        """Remember the bytes of a weight if it is small."""
        if len(data) <= SMALL_BYTES:
            self._on_host[self._extent_at[places[0]]] = bytes(data)

    def host_bytes(self, segment: int, entry: int) -> bytes | None:
        return self._on_host.get(self._extent_at.get((segment, entry), -1))
