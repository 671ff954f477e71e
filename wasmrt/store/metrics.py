"""What the store did: counters that prove an effect, kept by the store and shown in stats and bench."""

import time
from dataclasses import dataclass, fields
from typing import Any


@dataclass(slots=True)
class StoreMetrics:
    """Counts since the model was opened."""

    bytes_read: int = 0  # all of the following
    streamed_bytes: int = 0  # of weights that had been read before, or will be again: what a budget costs
    row_bytes_read: int = 0  # of the embedding
    reads: int = 0
    read_seconds: float = 0.0  # added up over reads, of which several are in flight
    retries: int = 0
    hits: int = 0  # segments whose tensors were in memory when they were wanted
    stalls: int = 0  # segments for which compute waited
    demand_loads: int = 0  # of these, segments with a tensor that nobody had begun to read
    stalled_seconds: float = 0.0  # time that compute waited for bytes
    evictions: int = 0
    high_water_bytes: int = 0  # the most that frames of weights took at once

    _in_flight: int = 0
    _busy_since: float = 0.0
    _busy_before: float = 0.0

    @property
    def reading_seconds(self) -> float:
        """Time with at least one read in flight."""
        return self._busy_before + (time.perf_counter() - self._busy_since if self._in_flight else 0.0)

    def began(self) -> float:
        """A read begins; returns when."""
        now = time.perf_counter()
        if self._in_flight == 0:
            self._busy_since = now
        self._in_flight += 1
        return now

    def ended(self, began: float, n_bytes: int) -> None:
        """A read has ended, with this many bytes: 0 if it failed."""
        now = time.perf_counter()
        self._in_flight -= 1
        if self._in_flight == 0:
            self._busy_before += now - self._busy_since
        self.read_seconds += now - began
        if n_bytes:
            self.bytes_read += n_bytes
            self.reads += 1

    def as_dict(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in fields(self) if not field.name.startswith("_")}
        return {**plain, "reading_seconds": self.reading_seconds}
