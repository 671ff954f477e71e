"""The ring: weights that do not stay on the GPU go through it, from the store's memory.

A slot has a raw buffer for bytes as the file has them, and one where they are laid out anew. Slots are filled in turn; when all
are, what reads them is submitted before the first is filled again, and the queue keeps the order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wasmrt.device.gpu_host import GpuHost, Range
from wasmrt.device.gpu_steps import Step
from wasmrt.device.gpu_weights import Group, Placed, Placement, Uploader, padded, region_in

RING_BYTES = 64 << 20  # at most, unless two slots need more
MOST_SLOTS = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the store's memory and the rows of a group that they become. Fewer bytes than rows: the last are garbage."""

    data: bytes | memoryview
    n_bytes: int
    group: Group
    at: int  # among the rows that are loaded
    n_rows: int


@dataclass(frozen=True, slots=True)
class Load:
    """What an op, or a part of it, wants in a slot: for each group the rows that come, and where they belong."""

    rows: tuple[tuple[Group, int, int], ...]  # group, its first row here, rows
    pieces: tuple[Piece, ...]
    name: tuple[int, ...] = ()  # tells loads of one op apart

    @property
    def raw_bytes(self) -> int:
        return sum(padded(piece.n_bytes) for piece in self.pieces)

    @property
    def n_bytes(self) -> int:
        return sum(group.bytes_of(n_rows) for group, _, n_rows in self.rows)


class Ring:
    """Slots of one size, made when the first is wanted."""

    def __init__(self, host: GpuHost, dummy: Range) -> None:
        self._host, self._dummy = host, dummy
        self._uploader = Uploader(host)
        self._slots: list[tuple[Any, Any]] = []  # raw, laid out
        self._used = 0

    def make(self, raw_bytes: int, n_bytes: int, n_slots: int | None = None) -> None:
        """Slots for loads of at most these sizes; None: as many as help."""
        for _ in range(n_slots or most_slots(raw_bytes, n_bytes)):
            self._slots.append((self._host.buffer(raw_bytes), self._host.buffer(n_bytes)))

    @property
    def is_made(self) -> bool:
        return bool(self._slots)

    def take(self) -> int | None:
        """The next slot, or None once after all have been taken: what was encoded is to be submitted then."""
        if self._used == len(self._slots):
            self._used = 0
            return None
        self._used += 1
        return self._used - 1

    def write(self, slot: int, load: Load) -> None:
        """Copy a load's bytes to the GPU, to be laid out by `steps`."""
        at = 0
        for piece in load.pieces:
            self._uploader.write(self._slots[slot][0], at, piece.data)
            at += padded(piece.n_bytes)

    def placement(self, slot: int, load: Load) -> Placement:
        """Where a load's rows are."""
        found, at = {}, 0
        for group, first, n_rows in load.rows:
            region = region_in(self._slots[slot][1], at, group, n_rows, self._dummy)
            found[group.operands] = (Placed(first, n_rows, 0, region),)
            at += group.bytes_of(n_rows)
        return found

    def steps(self, slot: int, load: Load, placement: Placement) -> Iterator[Step]:
        """What lays a load's bytes out."""
        at = 0
        for piece in load.pieces:
            region = placement[piece.group.operands][0].region
            raw = self._slots[slot][0], at, piece.n_bytes
            yield from self._uploader.steps(raw, region, piece.at, piece.n_rows)
            at += padded(piece.n_bytes)


def most_slots(raw_bytes: int, n_bytes: int) -> int:
    return max(2, min(MOST_SLOTS, RING_BYTES // max(1, raw_bytes + n_bytes)))
