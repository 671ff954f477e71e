"""What stays in memory and what leaves it: pure functions.

A pass reads its weights in the same order every time. Of such a cycle the least recently used is what is needed next, so that
an LRU cache misses always; what is needed last should leave (Belady 1966), or better, some should never leave and the others
pass by them. `plan` does the latter. Experts are the opposite case: a few are used much more often than others.
"""

from collections.abc import Callable, Iterable, Sequence

SMALL = 256 << 10  # bytes; smaller reads cost more than their bytes, so what is smaller stays first
HALF_LIFE = 1000  # routings after which a use of an expert counts half


def spread(sizes: Sequence[int]) -> list[int]:
    """Indices in the order in which they should get a place in memory; whatever the budget, those with one are spread evenly.

    Evenly, so that while some compute the others arrive. sizes: bytes, in the order of use. Small ones come first, then the
    others by the radical inverse of their place in the pass (van der Corput 1935): of that sequence every beginning is spread.
    """
    small = [i for i, size in enumerate(sizes) if size < SMALL]
    large = [i for i, size in enumerate(sizes) if size >= SMALL]
    return small + [large[rank] for rank in sorted(range(len(large)), key=lambda rank: radical_inverse(rank, len(large)))]


def radical_inverse(n: int, count: int) -> float:
    """The bits of n < count, mirrored behind the point: 0, 1/2, 1/4, 3/4, 1/8..."""
    bits = max(1, (count - 1).bit_length())
    return int(f"{n:0{bits}b}"[::-1], 2) / (1 << bits)


def fill(order: Iterable[int], sizes: Sequence[int], n_bytes: int) -> list[int]:
    """Indices that fit together into n_bytes: each in its turn, if it still fits."""
    chosen = []
    for i in order:
        if sizes[i] <= n_bytes:
            chosen.append(i)
            n_bytes -= sizes[i]
    return chosen


def least_recent(candidates: Iterable[int], last_use: Callable[[int], int]) -> int | None:
    """What was used longest ago."""
    return min(candidates, key=last_use, default=None)


def farthest(candidates: Iterable[int], next_use: Callable[[int], tuple[float, int]]) -> int | None:
    """What is needed last."""
    return max(candidates, key=next_use, default=None)


def least_popular(candidates: Iterable[int], score: Callable[[int], float], last_use: Callable[[int], int]) -> int | None:
    """What is used least often; among equals what was used last, as a prompt uses all of them in turn."""
    return min(candidates, key=lambda i: (score(i), -last_use(i)), default=None)


class Popularity:
    """How often each of n things is used, where a use fades with the number of routings since."""

    def __init__(self, n: int) -> None:
        self._scores = [0.0] * n
        self._at = [0] * n
        self._now = 0

    def used(self, things: Iterable[int]) -> None:
        """One routing that used these."""
        self._now += 1
        for i in things:
            self._scores[i] = self.score(i) + 1
            self._at[i] = self._now

    def score(self, i: int) -> float:
        fading: float = 0.5 ** ((self._now - self._at[i]) / HALF_LIFE)
        return self._scores[i] * fading
