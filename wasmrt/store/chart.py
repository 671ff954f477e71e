"""What of a model is where at this moment, segment by segment: what a live map shows.

It is looked at several times a second while a pass runs, so that it is a loop over the extents and plain values, no copies.
"""

from collections.abc import Sequence
from typing import Any

from wasmrt.store.frames import Held
from wasmrt.store.layers import Kind, LayerTable


class Chart:
    """The extents of each segment: LayerTable.owned says whose a shared one is."""

    def __init__(self, table: LayerTable, held: Sequence[Held]) -> None:
        self._segments = [
            (segment.name, sum(held[i].extent.n_bytes for i in mine), [(held[i], held[i].extent.n_bytes) for i in mine])
            for segment, mine in zip(table.segments, table.owned, strict=True)
        ]

    def segments(self, running: range) -> list[dict[str, Any]]:
        """Bytes of each in the file, and of these what is in memory, on a GPU and on its way. running: those that compute."""
        found = []
        for number, (name, n_bytes, mine) in enumerate(self._segments):
            resident = gpu = arriving = 0
            for held, size in mine:
                if held.read is not None:
                    arriving += size
                elif held.there and held.extent.kind is Kind.DEVICE:
                    gpu += size
                elif held.there:
                    resident += size
            parts = {"name": name, "bytes": n_bytes, "resident": resident, "gpu": gpu, "arriving": arriving}
            found.append({**parts, "in_use": number in running})
        return found
