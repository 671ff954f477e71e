"""LayerTable: the segments of a pass, and for each the byte ranges of the file that its address table stands for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from itertools import accumulate, pairwise


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a segment's address table: a tensor, a row chunk of a large one, or an expert."""

    tensor: str
    offset: int  # absolute in the file
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A unit of the pass: the embedding, a layer, or the head."""

    name: str
    entries: tuple[Entry, ...]
    uses: tuple[tuple[int, ...], ...]  # for each op, the entries that it may read
    experts: frozenset[int] = frozenset()  # entries of which an op reads only those that a router chose
    routes: frozenset[int] = frozenset()  # ops that choose experts


class Kind(Enum):
    """How a pass reads an extent."""

    DENSE = "dense"  # whole, in every pass
    EXPERT = "expert"  # whole, if a router chose it
    ROWS = "rows"  # of the embedding, a row for each token
    DEVICE = "device"  # never: it is in a GPU's own memory, where it is brought once


@dataclass(frozen=True, slots=True)
class Extent:
    """A byte range of the file that is in memory whole or not at all, with all entries that stand for it.

    A tied head has the embedding's ranges, and every layer the rope factors.
    """

    tensor: str
    offset: int
    n_bytes: int
    kind: Kind
    places: tuple[tuple[int, int], ...]  # (segment, entry)


@dataclass(frozen=True, slots=True)
class Stage:
    """Ops of one segment whose weights are in memory together."""

    segment: int
    ops: range


@dataclass(frozen=True)
class LayerTable:
    """All segments in the order of the pass. The first is the embedding, of which rows may be read one by one."""

    segments: tuple[Segment, ...]
    row_bytes: int = 0  # of a row of the embedding
    n_rows: int = 0
    device: frozenset[int] = frozenset()  # extents that stay on a GPU

    def part(self, segments: range) -> "LayerTable":
        """Some consecutive segments as a table of their own, of which nothing is on a GPU; its extents have other numbers."""
        return replace(self, segments=self.segments[segments.start : segments.stop], device=frozenset())

    def ranges(self) -> Iterator[Entry]:
        """Every byte range once, in first-use order; a tied head shares the embedding's."""
        seen: set[int] = set()
        for segment in self.segments:
            for entry in segment.entries:
                if entry.offset not in seen:
                    seen.add(entry.offset)
                    yield entry

    @cached_property
    def extents(self) -> tuple[Extent, ...]:
        """Every byte range once, in first-use order."""
        places: dict[int, list[tuple[int, int]]] = {}
        for s, segment in enumerate(self.segments):
            for e, entry in enumerate(segment.entries):
                places.setdefault(entry.offset, []).append((s, e))
        return tuple(self._extent(i, entry, tuple(places[entry.offset])) for i, entry in enumerate(self.ranges()))

    def _extent(self, i: int, entry: Entry, places: tuple[tuple[int, int], ...]) -> Extent:
        kind = Kind.DEVICE if i in self.device else self._kind(places)
        return Extent(entry.tensor, entry.offset, entry.n_bytes, kind, places)

    def _kind(self, places: tuple[tuple[int, int], ...]) -> Kind:
        if all(segment == 0 for segment, _ in places) and len(self.segments) > 1:
            return Kind.ROWS
        return Kind.EXPERT if all(entry in self.segments[segment].experts for segment, entry in places) else Kind.DENSE

    @cached_property
    def owned(self) -> tuple[tuple[int, ...], ...]:
        """Each extent once, with the segment that it counts for: the first of a pass that reads all of it.

        A tied head has the embedding's, of which the embedding itself reads a few rows; the first layer has the rope factors.
        """
        mine: list[list[int]] = [[] for _ in self.segments]
        for i, extent in enumerate(self.extents):
            mine[next((s for s, _ in extent.places if s), 0)].append(i)
        return tuple(map(tuple, mine))

    @cached_property
    def needs(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """For each segment and op, the extents that it reads: of experts all that it may read, of the embedding none."""
        index = {extent.offset: i for i, extent in enumerate(self.extents)}
        embedding = tuple(() for _ in self.segments[0].uses)
        return embedding, *(
            tuple(tuple(index[segment.entries[entry].offset] for entry in used) for used in segment.uses)
            for segment in self.segments[1:]
        )

    @property
    def n_bytes(self) -> int:
        """Bytes of all weights together."""
        return sum(entry.n_bytes for entry in self.ranges())

    @property
    def touched_bytes(self) -> int:
        """Weight bytes that one pass touches at most: all but the embedding, of which a pass reads a row a token."""
        rest = LayerTable(self.segments[1:])
        return sum(entry.n_bytes for entry in rest.ranges())


def shares(sizes: Sequence[int], budgets: Sequence[int | None]) -> list[range]:
    """Consecutive segments of these sizes for each of several memories, in proportion to their budgets; None: all alike.

    Each gets one at the least. ValueError for more memories than segments.
    """
    if len(budgets) > len(sizes):
        raise ValueError(f"{len(sizes)} segments cannot be divided among {len(budgets)}")
    known = [budget or 1 for budget in budgets] if all(budgets) else [1] * len(budgets)
    starts, lines = [0], [sum(sizes) * line / sum(known) for line in accumulate(known)]
    for left, line in zip(range(len(budgets) - 1, 0, -1), lines, strict=False):
        at = starts[-1] + 1
        # A segment that lies across the line is its who has more than half of it.
        while at < len(sizes) - left and sum(sizes[:at]) + sizes[at] / 2 <= line:
            at += 1
        starts.append(at)
    return [range(*ends) for ends in pairwise([*starts, len(sizes)])]
