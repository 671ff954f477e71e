"""LayerTable: the segments of a pass, and for each the byte ranges of the file that its address table stands for."""

from collections.abc import Iterator
from dataclasses import dataclass


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


@dataclass(frozen=True, slots=True)
class LayerTable:
    """All segments in the order of the pass."""

    segments: tuple[Segment, ...]

    def ranges(self) -> Iterator[Entry]:
        """Every byte range once, in first-use order; a tied head shares the embedding's."""
        seen: set[int] = set()
        for segment in self.segments:
            for entry in segment.entries:
                if entry.offset not in seen:
                    seen.add(entry.offset)
                    yield entry

    @property
    def n_bytes(self) -> int:
        """Bytes of all weights together."""
        return sum(entry.n_bytes for entry in self.ranges())

    @property
    def touched_bytes(self) -> int:
        """Weight bytes that one pass touches at most: all but the embedding, of which a pass reads a row a token."""
        rest = LayerTable(self.segments[1:])
        return sum(entry.n_bytes for entry in rest.ranges())
