"""Intervals: a set of byte positions, kept as sorted ranges that neither overlap nor touch. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Intervals:
    """Ranges are half-open: (2, 5) is the bytes 2, 3 and 4."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(list(self._starts), list(self._ends), strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervals) and self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Intervals({list(self)})"

    @property
    def n_bytes(self) -> int:
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Ranges that overlap or touch it become one with it."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int) -> None:
        if start >= end:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        rests = [(self._starts[first], start), (end, self._ends[last - 1])]
        rests = [(a, b) for a, b in rests if a < b]
        self._starts[first:last] = [a for a, _ in rests]
        self._ends[first:last] = [b for _, b in rests]

    def run_end(self, position: int) -> int:
        """Where the range that holds `position` ends; `position` itself if none does."""
        i = bisect_right(self._starts, position) - 1
        return max(position, self._ends[i]) if i >= 0 else position

    def next_start(self, position: int, otherwise: int) -> int:
        """The first start of a range after `position`."""
        i = bisect_right(self._starts, position)
        return self._starts[i] if i < len(self._starts) else otherwise

    def gaps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges between `start` and `end` that are not in it, as it is now."""
        for a, b in self:
            if b <= start:
                continue
            if a >= end:
                break
            if a > start:
                yield start, a
            start = b
        if start < end:
            yield start, end
