"""EmbeddingRows: of an embedding that is not resident, the rows that tokens ask for, the latest kept."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence

from wasmrt.errors import SourceError
from wasmrt.store.fetcher import Read
from wasmrt.store.frames import Frames
from wasmrt.store.layers import LayerTable
from wasmrt.store.plan import row_slots


class EmbeddingRows:
    """Rows of the embedding one after another, and its table entries as if these were the first of it."""

    def __init__(self, table: LayerTable, frames: Frames) -> None:
        self._table, self._frames = table, frames
        self._row_of: OrderedDict[int, int] = OrderedDict()  # token -> row, the least recently used first
        n_bytes = frames.plan.parts.row_bytes
        self._start = at = frames.memory.allocate(n_bytes)
        for e, entry in enumerate(table.segments[0].entries):
            frames.tables[0][e] = at if at < self._start + n_bytes else 0
            at += entry.n_bytes
        self._by_offset = {held.extent.offset: held for held in frames.held}

    async def bring(self, tokens: Sequence[int], chunk: int) -> Sequence[int]:
        """Bring the rows of at most `chunk` tokens; returns the ids by which the embedding has them now."""
        try:
            return await self._bring(tokens, chunk)
        except Exception as error:  # once more, as Frames.bring does
            if isinstance(error, SourceError) and not error.transient:
                raise
        self._frames.metrics.retries += 1
        return await self._bring(tokens, chunk)

    async def _bring(self, tokens: Sequence[int], chunk: int) -> Sequence[int]:
        self._frames.fetcher.check_open()
        n_slots, row_of = row_slots(self._table, chunk), self._row_of
        distinct = dict.fromkeys(tokens)
        for token in distinct:
            if token in row_of:
                row_of.move_to_end(token)
        missing = [token for token in distinct if token not in row_of]
        free = sorted(set(range(n_slots)).difference(row_of.values()))
        reads: list[tuple[int, Read]] = []
        started = time.perf_counter()
        try:
            for token in missing:
                row = free.pop(0) if free else row_of.popitem(last=False)[1]
                read = self._read_row(token, row)
                row_of[token] = row
                if read is not None:
                    reads.append((token, read))
            for _, read in reads:
                await asyncio.wait([read.done])
        finally:
            await self._arrived(reads)
            self._frames.metrics.stalled_seconds += time.perf_counter() - started
        for _, read in reads:
            read.done.result()
        return [row_of[token] for token in tokens]

    def _read_row(self, token: int, row: int) -> Read | None:
        """Begin to read a row, or copy it if the head, which may be the same matrix, has it in memory."""
        n_bytes = self._table.row_bytes
        entries = self._table.segments[0].entries
        per_entry = max(1, entries[0].n_bytes // n_bytes)
        entry = entries[token // per_entry]
        within = token % per_entry * n_bytes
        memory, at = self._frames.memory, self._start + row * n_bytes
        held = self._by_offset.get(entry.offset)
        if held is not None and held.there:
            memory.copy(self._frames.address(held) + within, at, n_bytes)
            return None
        self._frames.metrics.row_bytes_read += n_bytes
        return self._frames.fetcher.read(entry.offset + within, memory.place(at, n_bytes), True, lambda _: None)

    async def _arrived(self, reads: Sequence[tuple[int, Read]]) -> None:
        """Forget the rows that did not come: only once nothing writes to them. What is still under way is given up."""
        cancelled = False
        for _, read in reads:
            self._frames.fetcher.cancel(read)
        for token, read in reads:
            while not read.done.done():
                try:
                    await asyncio.wait([read.done])
                except asyncio.CancelledError:
                    cancelled = True
            if read.done.cancelled() or read.done.exception() is not None:
                self._row_of.pop(token, None)
        if cancelled:
            raise asyncio.CancelledError
