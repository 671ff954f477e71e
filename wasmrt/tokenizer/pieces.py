"""Which of many texts stand at a place of another: what a trie is for, in the memory of one entry a text."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

S = TypeVar("S", str, bytes)

# SentencePiece trains none beyond 512 characters. A longer one is never found: the time a place takes must have a bound.
LONGEST = 512
PREFIX = 2


class Pieces(Generic[S]):
    """Texts by their first two characters (or bytes): the lengths that there are."""

    def __init__(self, texts: Iterable[S]) -> None:
        self._texts: frozenset[S] = frozenset(text for text in texts if 0 < len(text) <= LONGEST)
        lengths: defaultdict[S, set[int]] = defaultdict(set)
        for text in self._texts:
            lengths[text[:PREFIX]].add(len(text))
        self._lengths: dict[S, tuple[int, ...]] = {prefix: tuple(sorted(found)) for prefix, found in lengths.items()}

    def at(self, text: S, start: int) -> Iterator[S]:
        """The texts that stand at `start`, the shortest first."""
        one = text[start : start + 1]
        if one in self._texts:
            yield one
        two = text[start : start + PREFIX]
        if len(two) < PREFIX:
            return
        for length in self._lengths.get(two, ()):
            piece = text[start : start + length]
            if piece in self._texts and len(piece) == length:
                yield piece
