"""Which segments come next: what is read ahead, and what `belady` keeps, follows a predictor."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

FAR = float("inf")


class Predictor(Protocol):
    """Told of each segment that is used, it says which follow."""

    def observe(self, segment: int) -> None:
        """This segment is being used now."""

    def predict_next(self, n: int) -> Sequence[int]:
        """At most n segments that follow the last one observed, the next first."""

    def until(self, segment: int) -> float:
        """How many segments are used before this one is again: 1 or more, or FAR where nothing is known."""


class Cyclic:
    """A model's pass: all segments, over and over."""

    def __init__(self, n_segments: int) -> None:
        self.end = n_segments  # the pass that runs ends before this one; a part of a prompt has no need of the head
        self._n = n_segments
        self._now = n_segments - 1

    def observe(self, segment: int) -> None:
        self._now = segment

    def predict_next(self, n: int) -> Sequence[int]:
        rest = range(self._now + 1, self.end)
        turns = -(-max(0, n - len(rest)) // self._n)
        return [*rest, *(list(range(self._n)) * turns)][:n]

    def until(self, segment: int) -> float:
        ahead = segment - self._now
        return ahead if ahead > 0 else ahead + self._n


class Learned:
    """Any pattern: after the same few segments as before comes what came then most often, the latest of equals.

    Three of them tell 0 1 2 1 2 3 2 3 4 apart, a scan that goes back in every turn. Where it is wrong more often than not, it
    predicts nothing: what is read ahead in vain holds up what is wanted.
    """

    HORIZON = 64
    MEMORY = 3  # segments by which a place in the pattern is known
    TRUSTED = 0.5  # of recent predictions that were right, at least
    RECENT = 8

    def __init__(self) -> None:
        self._right = 1.0  # share of recent predictions
        self._followed: dict[tuple[int, ...], Counter[int]] = {}
        self._recent: tuple[int, ...] = ()
        self._predicted: list[int] = []

    def observe(self, segment: int) -> None:
        if self._predicted:
            self._right += ((self._predicted[0] == segment) - self._right) / self.RECENT
        for start in range(len(self._recent)):
            counts = self._followed.setdefault(self._recent[start:], Counter())
            n = counts.pop(segment, 0)
            counts[segment] = n + 1  # at the end, where _walk looks for the latest of equals
        self._recent = (*self._recent, segment)[-self.MEMORY :]
        self._predicted = self._walk()

    def _walk(self) -> list[int]:
        found: list[int] = []
        recent = self._recent
        while len(found) < self.HORIZON:
            known = (self._followed.get(recent[start:]) for start in range(len(recent)))
            counts = next((counts for counts in known if counts), None)
            if counts is None:
                break
            best = max(reversed(counts), key=counts.__getitem__)
            found.append(best)
            recent = (*recent, best)[-self.MEMORY :]
        return found

    def predict_next(self, n: int) -> Sequence[int]:
        return self._predicted[:n] if self._right >= self.TRUSTED else []

    def until(self, segment: int) -> float:
        known = segment in self._predicted and self._right >= self.TRUSTED
        return self._predicted.index(segment) + 1 if known else FAR
