"""KVCache: which tokens the devices' key and value buffers hold, position by position."""

from collections.abc import Iterator, Sequence


class KVCache:
    """Bookkeeping only; the buffers are the device's. `tokens[i]` is the token at position i.

    A model with recurrent state cannot be wound back to a position: for it only a full match or a fresh start counts.
    """

    def __init__(self, context: int, recurrent: bool = False) -> None:
        self.context = context
        self.tokens: list[int] = []
        self.recurrent = recurrent

    def reuse(self, tokens: Sequence[int]) -> int:
        """Wind back to what `tokens` share with the cache, leaving at least one to compute; returns how many were kept."""
        kept = min(len(self.tokens), len(tokens) - 1)
        if self.tokens[:kept] != list(tokens[:kept]):
            kept = next(i for i in range(kept) if self.tokens[i] != tokens[i])
        if self.recurrent and kept < len(self.tokens):
            kept = 0
        del self.tokens[kept:]
        return kept

    def chunks(self, tokens: Sequence[int], size: int) -> Iterator[tuple[int, Sequence[int]]]:
        """What is not cached yet, in chunks: (position, ids)."""
        for start in range(len(self.tokens), len(tokens), size):
            yield start, tokens[start : start + size]
