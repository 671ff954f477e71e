"""The ring: weights that do not stay on the GPU go through it, from the store's memory.

A slot has a raw buffer for bytes as the file has them, and one where they are laid out anew. Slots are filled in turn; when all
are, what reads them is submitted before the first is filled again, and the queue keeps the order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from wasmrt.device.gpu_host import GpuHost, Range
from wasmrt.device.gpu_steps import Step
from wasmrt.device.gpu_weights import Group, Placed, Placement, Uploader, padded, region_in
from wasmrt.store.memory import Frame

RING_BYTES = 64 << 20  # at most, unless two slots need more
MOST_SLOTS = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the store's memory and the rows of a group that they become. Fewer bytes than rows: the last are garbage."""

    data: bytes | Frame
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


class SlotBytes(NamedTuple):
    """Of the buffers of a slot."""

    raw: int = 0
    laid_out: int = 0
    f32: int = 0  # of vectors in other formats


class Ring:
    """Slots of one size, made when the first is wanted."""

    def __init__(self, host: GpuHost, dummy: Range, uploader: Uploader) -> None:
        self._host, self._dummy, self._uploader = host, dummy, uploader
        self._slots: list[tuple[Any, Any, Any]] = []  # raw, laid out, f32
        self._used = 0

    def make(self, sizes: SlotBytes, n_slots: int | None = None) -> None:
        """Slots for loads of at most these sizes; None: as many as help."""
        for _ in range(n_slots or most_slots(sizes)):
            raw, laid_out, f32 = (self._host.buffer(n_bytes) for n_bytes in sizes)
            self._slots.append((raw, laid_out, f32))

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
        found, at, f32_at = {}, 0, 0
        for group, first, n_rows in load.rows:
            f32 = self._slots[slot][2], f32_at, group.f32_bytes
            region = region_in(self._slots[slot][1], at, group, n_rows, self._dummy, f32)
            found[group.operands] = (Placed(first, n_rows, 0, region),)
            at += group.bytes_of(n_rows)
            f32_at += group.f32_bytes
        return found

    def steps(self, slot: int, load: Load, placement: Placement) -> Iterator[Step]:
        """What lays a load's bytes out."""
        at = 0
        for piece in load.pieces:
            region = placement[piece.group.operands][0].region
            raw = self._slots[slot][0], at, piece.n_bytes
            yield from self._uploader.steps(raw, region, piece.at, piece.n_rows)
            at += padded(piece.n_bytes)


def most_slots(sizes: SlotBytes) -> int:
    return max(2, min(MOST_SLOTS, RING_BYTES // max(1, sum(sizes))))
