"""What the store did: counters that prove an effect, kept by the store and shown in stats and bench."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class StoreMetrics:
    """Counts since the model was opened."""

    bytes_read: int = 0
    reads: int = 0
    read_seconds: float = 0.0
    hits: int = 0  # segments whose tensors were in memory when they were wanted
    stalled_seconds: float = 0.0  # time that compute waited for bytes

    def read(self, n_bytes: int, seconds: float) -> None:
        self.bytes_read += n_bytes
        self.reads += 1
        self.read_seconds += seconds

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
