"""Pool: frames of any size in one part of a memory, given and taken back, with a limit that may be lowered."""

from bisect import bisect_left, insort


class Pool:
    """Frames in [start, start + n_bytes).

    The next frame is looked for behind the last one: used first in, first out, the pool is a ring and never fragments. Adjacent
    free parts become one at once.
    """

    def __init__(self, start: int, n_bytes: int) -> None:
        self.start = start
        self.limit = n_bytes  # bytes that frames may take in all
        self.used = 0
        # (begin, end), sorted, apart from each other
        self._free: list[tuple[int, int]] = [(start, start + n_bytes)] if n_bytes else []
        self._sizes: dict[int, int] = {}
        self._next = start  # where the next frame is looked for

    def allocate(self, n_bytes: int) -> int | None:
        """The address of a frame, or None if no free part is large enough, or the limit too low."""
        if self.used + n_bytes > self.limit:
            return None
        first = int(bisect_left(self._free, (self._next, 0)))
        for i in (*range(first, len(self._free)), *range(first)):
            begin, end = self._free[i]
            if begin + n_bytes <= end:
                self._free[i : i + 1] = [(begin + n_bytes, end)] if begin + n_bytes < end else []
                self._sizes[begin] = n_bytes
                self.used += n_bytes
                self._next = begin + n_bytes
                return int(begin)
        return None

    def free(self, address: int) -> None:
        """Take a frame back."""
        n_bytes = self._sizes.pop(address)
        self.used -= n_bytes
        begin, end = address, address + n_bytes
        i = bisect_left(self._free, (begin, end))
        if i < len(self._free) and self._free[i][0] == end:
            end = self._free.pop(i)[1]
        if i and self._free[i - 1][1] == begin:
            begin = self._free.pop(i - 1)[0]
        insort(self._free, (begin, end))

    def hand_over(self, address: int) -> None:
        """A frame's bytes are another's from now on; they are not given out again."""
        self.used -= self._sizes.pop(address)

    def cut(self, n_bytes: int) -> int:
        """Make an empty pool smaller; returns the bytes that are cut off its end."""
        if self.used:
            raise ValueError(f"{self.used} bytes are in use")
        cut, self.limit = self.limit - n_bytes, n_bytes
        self._free, self._next = [(self.start, self.start + n_bytes)] if n_bytes else [], self.start
        return cut
