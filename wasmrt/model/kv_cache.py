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

    def reuse(self, tokens: Sequence[int], n_out: int = 1) -> int:
        """Wind back to what `tokens` share with the cache, leaving at least n_out to compute; returns how many were kept."""
        kept = min(len(self.tokens), len(tokens) - n_out)
        if self.tokens[:kept] != list(tokens[:kept]):
            kept = next(i for i in range(kept) if self.tokens[i] != tokens[i])
        if self.recurrent and kept < len(self.tokens):
            kept = 0
        del self.tokens[kept:]
        return kept

    def chunks(self, tokens: Sequence[int], size: int, n_out: int = 1) -> Iterator[tuple[int, Sequence[int]]]:
        """What is not cached yet, in chunks: (position, ids). The last holds at least n_out, which is at most `size`."""
        start = len(self.tokens)
        while start < len(tokens):
            end = start + size
            if 0 < len(tokens) - end < n_out:
                end = len(tokens) - n_out
            yield start, tokens[start:end]
            start = end
