"""Several GPUs as one device: each has some consecutive segments of a model, and hands the residual stream to the next.

The stream crosses by way of this process, a row for each token of a pass: a few KiB where weights would be GiB.
"""

from collections.abc import Sequence
from dataclasses import replace

from wasmrt.device.device import KEPT_NONE, Bound, Candidates, Kept, Stop
from wasmrt.device.gpu import GpuDevice
from wasmrt.errors import DeviceError
from wasmrt.program.ops import Program
from wasmrt.store.layers import LayerTable
from wasmrt.store.memory import Frame
from wasmrt.store.plan import OnGpu


class SplitGpu:
    """GPUs in the order in which they compute."""

    name = "gpu"
    batch_invariant = False
    n_threads = 1

    def __init__(self, parts: Sequence[GpuDevice], ranges: Sequence[range]) -> None:
        """ranges: the segments of each."""
        self.parts = tuple(parts)
        self._ranges = tuple(ranges)
        self._owner: dict[int, int] = {}  # by the id of a segment's table, which its Bound keeps alive
        self._bounds: list[Bound] = []
        self._closed = False

    @property
    def kernel_seconds(self) -> float:
        return sum(part.kernel_seconds for part in self.parts)

    def compile(self, programs: Sequence[Program], max_tokens: int, max_out: int, kept: Kept = KEPT_NONE) -> None:
        for part, segments in zip(self.parts, self._ranges, strict=True):
            part.compile(programs[segments.start : segments.stop], max_tokens, max_out, kept)

    def bind(self, program: Program, context: int) -> Bound:
        owner = next(i for i, segments in enumerate(self._ranges) if len(self._bounds) in segments)
        bound = self.parts[owner].bind(program, context)
        self._owner[id(bound.table)] = owner
        self._bounds.append(bound)
        return bound

    def settle(self, table: LayerTable, homes: Sequence[OnGpu]) -> None:
        for part, segments, one in zip(self.parts, self._ranges, homes, strict=True):
            part.settle(table.part(segments), [one])

    def upload(self, places: Sequence[tuple[int, int]], data: Frame) -> None:
        for part, segments in zip(self.parts, self._ranges, strict=True):
            mine = [(segment - segments.start, entry) for segment, entry in places if segment in segments]
            if mine:
                part.upload(mine, data)

    async def uploaded(self, everything: bool) -> None:
        for part in self.parts:
            await part.uploaded(everything)

    def begin(self, ids: Sequence[int], pos: int, n_out: int, row: int = 0) -> None:
        for part in self.parts:
            part.begin(ids, pos, n_out, row)

    async def run(self, bounds: Sequence[Bound], ops: range, partial: bool = False) -> Stop:
        self._check_open()
        at = 0
        while at < len(bounds):
            owner = self._owner[id(bounds[at].table)]
            end = at
            while end < len(bounds) and self._owner[id(bounds[end].table)] == owner:
                end += 1
            first = ops.start if at == 0 else 0
            last = ops.stop if end == len(bounds) else len(bounds[end - 1].program.ops)
            if owner and bounds[at].address == 0 and first == 0:
                await self.parts[owner].take_stream(self.parts[owner - 1])
                self._check_open()
            stop = await self.parts[owner].run(bounds[at:end], range(first, last), partial)
            self._check_open()
            if (stop.segment, stop.next_op) != (end - at - 1, last) or stop.missing:
                return replace(stop, segment=stop.segment + at)
            at = end
        return Stop(len(bounds) - 1, ops.stop)

    def _of(self, bound: Bound) -> GpuDevice:
        return self.parts[self._owner[id(bound.table)]]

    def chosen(self, bound: Bound, route: int) -> set[int]:
        return self._of(bound).chosen(bound, route)

    def clear_state(self, bound: Bound) -> None:
        self._of(bound).clear_state(bound)

    async def logits(self, head: Bound) -> "memoryview[float]":
        return await self._of(head).logits(head)

    async def candidates(
        self, head: Bound, k: int, recent: Sequence[int], penalty: float, temperature: float, row: int = -1
    ) -> Candidates:
        return await self._of(head).candidates(head, k, recent, penalty, temperature, row)

    def close(self) -> None:
        for part in self.parts:
            part.close()
        self._closed = True
        self._owner.clear()
        self._bounds.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise DeviceError("the device was closed, so this pass was not finished; open the model again")
