"""SplitSource: the shards of a split model, one behind the other as if they were one file."""

import asyncio
import functools
import operator
from collections.abc import Sequence

from wasmrt.store.memory import Frame, clear, flat
from wasmrt.store.source import Fetched, Source, check_arguments, closed_error, fetched_of

# Each shard starts at a multiple of it, so that what is aligned in a shard (see Source.block) is aligned in the whole.
SHARD_ALIGNMENT = 4096


class SplitSource:
    """Bytes of shard i start at bases[i]. Between shards lie zeros, which are in no file."""

    def __init__(self, shards: Sequence[Source]) -> None:
        """Takes the sources over: closing this closes them."""
        self.shards = tuple(shards)
        self.name = self.shards[0].name
        bases, end = [], 0
        for shard in self.shards:
            bases.append(-(-end // SHARD_ALIGNMENT) * SHARD_ALIGNMENT)
            end = bases[-1] + shard.size
        self.bases = tuple(bases)
        self.size = end
        self.block = self._common_block()
        self._closed = False

    @property
    def fetched(self) -> Fetched | None:
        """Of all shards."""
        found = [one for shard in self.shards if (one := fetched_of(shard)) is not None]
        return functools.reduce(operator.add, found) if found else None

    async def bypass_cache(self) -> None:
        for shard in self.shards:
            await shard.bypass_cache()
        self.block = self._common_block()

    async def read_into(self, offset: int, view: Frame) -> None:
        view = flat(view)
        check_arguments(self, offset, view)
        if self._closed:
            raise closed_error(self)
        end = offset + len(view)
        for shard, base, next_base in zip(self.shards, self.bases, (*self.bases[1:], self.size), strict=True):
            start, stop = max(offset, base), min(end, base + shard.size)
            if start < stop:
                await shard.read_into(start - base, view[start - offset : stop - offset])
            start, stop = max(offset, base + shard.size), min(end, next_base)
            if start < stop:
                clear(view[start - offset : stop - offset])

    async def close(self) -> None:
        self._closed = True
        ended = await asyncio.gather(*(shard.close() for shard in self.shards), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    def _common_block(self) -> int:
        """The largest: blocks are powers of two, so it is a multiple of all. 1 where the bases are no multiples of it."""
        block = max(shard.block for shard in self.shards)
        return block if SHARD_ALIGNMENT % block == 0 else 1
