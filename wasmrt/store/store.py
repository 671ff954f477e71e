"""LayerStore: brings a model's byte ranges into memory and fills each segment's address table."""

import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TypeAlias

from wasmrt.store.layers import LayerTable
from wasmrt.store.memory import Memory
from wasmrt.store.metrics import StoreMetrics
from wasmrt.store.source import Source

Addresses: TypeAlias = "array[int] | memoryview[int]"  # 64-bit
Progress = Callable[[int, int], None]  # bytes read so far, bytes in all


class LayerStore:
    """Weights of one model. `tables[i]` is segment i's address table, a device's; 0 marks an entry that is not in memory."""

    def __init__(self, source: Source, table: LayerTable, memory: Memory, tables: Sequence[Addresses]) -> None:
        self.metrics = StoreMetrics()
        self.tables = tables
        self._source = source
        self._table = table
        self._memory = memory
        self._address_of: dict[int, int] = {}  # file offset -> address of its frame, so that tied tensors are read once
        self._filled: set[int] = set()  # offsets whose bytes are there; a read that was cut short leaves its frame

    async def load(self, progress: Progress | None = None) -> None:
        """Read every segment into memory, in the order of use. May be cancelled; what was read so far stays."""
        done, total = self.metrics.bytes_read, self._table.n_bytes
        for index, segment in enumerate(self._table.segments):
            for entry in range(len(segment.entries)):
                done += await self.fetch(index, (entry,))
                if progress:
                    progress(done, total)

    async def fetch(self, index: int, entries: Iterable[int]) -> int:
        """Bring entries of a segment into memory; returns the bytes that had to be read."""
        n_bytes = 0
        for i in entries:
            entry = self._table.segments[index].entries[i]
            if entry.offset not in self._address_of:
                self._address_of[entry.offset] = self._memory.allocate(entry.n_bytes)
            address = self._address_of[entry.offset]
            if entry.offset not in self._filled:
                started = time.perf_counter()
                await self._source.read_into(entry.offset, self._memory.view(address, entry.n_bytes))
                self.metrics.read(entry.n_bytes, time.perf_counter() - started)
                self._filled.add(entry.offset)
                n_bytes += entry.n_bytes
            self.tables[index][i] = address
        return n_bytes

    async def ready(self, n_segments: int) -> AsyncIterator[tuple[range, range]]:
        """The pass through the first n_segments, in parts that may run now: (consecutive segments, ops).

        ops: from an op of the first of these segments to before one of the last. All at once, since everything is resident.
        """
        self.metrics.hits += n_segments
        yield range(n_segments), range(len(self._table.segments[n_segments - 1].uses))
