"""What tests of the plan and the store share: layer tables made by hand or at random, files for them, and a store on these."""

import asyncio
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from wasmrt.store.layers import Entry, LayerTable, Segment
from wasmrt.store.memory import HostMemory, aligned
from wasmrt.store.plan import Plan, Sizes, make_plan
from wasmrt.store.source import MemorySource
from wasmrt.store.store import LayerStore

SIZES = Sizes(kv_frames=(40, 40, 24), state_frames=(100,), activation_frames=(5000,))


def segment(name: str, *entries: tuple[str, int, int]) -> Segment:
    """entries: (tensor, offset, bytes). Every op reads one."""
    return Segment(name, tuple(Entry(*e) for e in entries), tuple((i,) for i in range(len(entries))))


def layers(*sizes: int, ops: int = 1) -> LayerTable:
    """A small embedding, then layers with tensors of these sizes, one for each of `ops` ops."""
    at, segments = 200, [segment("embedding", ("token_embd", 64, 128))]
    for i, size in enumerate(sizes):
        segments.append(segment(f"blk.{i}", *((f"blk.{i}.{op}", at + op * size, size) for op in range(ops))))
        at += ops * size + 7
    return LayerTable(tuple(segments), row_bytes=16, n_rows=8)


@st.composite
def tables(draw: Any, most: int = 3000, tied: bool | None = None, with_experts: bool | None = None) -> LayerTable:
    """Any model's shape: an embedding in chunks, layers of unequal tensors, experts, a tensor that all layers share, a head.

    most: bytes of a tensor.
    """
    end = 64
    shared: tuple[str, int, int] | None = None

    def place(n_bytes: int) -> int:
        nonlocal end
        offset = end
        end += n_bytes + draw(st.integers(0, 40))
        return offset

    row_bytes, n_rows = draw(st.integers(1, 40)), draw(st.integers(1, 60))
    rows = [n_rows]
    if n_rows > 8 and draw(st.booleans()):
        rows = [8] * (n_rows // 8) + [n_rows % 8] * (n_rows % 8 > 0)
    embedding = [("token_embd", place(n * row_bytes), n * row_bytes) for n in rows]
    if draw(st.booleans()):
        shared = "rope_freqs", place(24), 24
    n_experts = draw(st.integers(2, 5)) if (draw(st.booleans()) if with_experts is None else with_experts) else 0
    segments = [segment("embedding", *embedding)]
    for i in range(draw(st.integers(1, 5))):
        sizes = draw(st.lists(st.integers(1, most), min_size=1, max_size=4))
        entries = [(f"blk.{i}.{j}", place(n), n) for j, n in enumerate(sizes)]
        uses: list[tuple[int, ...]] = [(j,) for j in range(len(entries))]
        uses.insert(draw(st.integers(0, len(uses))), ())         # an op without weights
        if shared:
            entries.append(shared)
            uses.append((len(entries) - 1,))
        routes: frozenset[int] = frozenset()
        experts: frozenset[int] = frozenset()
        if n_experts:
            routes = frozenset({len(uses)})
            uses.append(())
            first = len(entries)
            for name in ("up", "down"):
                if draw(st.booleans()):
                    uses.append((0,))                            # as that of an expert that all tokens use
                n = draw(st.integers(1, most))
                uses.append(tuple(range(len(entries), len(entries) + n_experts)))
                at = [place(n) for _ in range(n_experts)]
                entries += [(f"blk.{i}.{name}_exps", offset, n) for offset in at]
            experts = frozenset(range(first, len(entries)))
            uses.append(())
        segments.append(Segment(f"blk.{i}", tuple(Entry(*e) for e in entries), tuple(uses), experts, routes))
    n = draw(st.integers(1, most))
    norm = ("output_norm", place(24), 24)
    tie = draw(st.booleans()) if tied is None else tied
    segments.append(segment("head", norm, *(embedding if tie else [("output", place(n), n)])))
    return LayerTable(tuple(segments), row_bytes, n_rows)


def size_of(table: LayerTable) -> int:
    """Of a file that has all of a table's ranges."""
    return max(entry.offset + entry.n_bytes for entry in table.ranges()) + 3


def file_of(n_bytes: int = 2400) -> bytes:
    return np.random.default_rng(5).bytes(n_bytes)


class Counting(MemorySource):
    """A file in memory that notes its reads, gives the event loop a turn in each, and can stop at one of them."""

    def __init__(self, data: bytes, block: int = 1) -> None:
        super().__init__(data)
        self.block = block
        self.reads: list[tuple[int, int]] = []
        self.at_read: Callable[[int], None] = lambda n: None

    async def read_into(self, offset: int, view: Any) -> None:
        self.reads.append((offset, memoryview(view).nbytes))
        self.at_read(len(self.reads))
        await asyncio.sleep(0)
        await super().read_into(offset, view)


class Opened:
    """A store with its memory, address tables and plan; weights get `room` bytes, or all that they need."""

    def __init__(
        self, table: LayerTable, source: Any, room: int | None = None, chunk: int = 4, block: int = 1, policy: str = "plan",
        kept: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        self.table, self.source = table, source
        none = Sizes((), (), ())
        # What a prompt of several chunks would keep takes no room here, or more than there is.
        whole = none if kept else Sizes((), (), (1 << 60,))
        budget = sum(aligned(e.n_bytes) for e in table.ranges()) if room is None else room
        context = 10 * chunk
        sizes = (none, whole)
        self.plan: Plan = make_plan(
            table, lambda rows: sizes[rows > 0], budget, context, context, policy=policy, block=block, chunk=chunk
        )
        self.memory = HostMemory(self.plan.total_bytes)
        self.tables = [array("Q", bytes(8 * len(segment.entries))) for segment in table.segments]
        self.store = LayerStore(source, table, self.memory, self.tables, self.plan, **options)

    def entry_bytes(self, segment: int, entry: int) -> bytes:
        return bytes(self.memory.view(self.tables[segment][entry], self.table.segments[segment].entries[entry].n_bytes))


def wanted_bytes(data: bytes, table: LayerTable, segment: int, entry: int) -> bytes:
    found = table.segments[segment].entries[entry]
    return data[found.offset : found.offset + found.n_bytes]
