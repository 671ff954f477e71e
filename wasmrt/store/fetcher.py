"""Fetcher: reads ranges of a source into frames, a few at a time: what somebody waits for now, what is read ahead in turn."""

import asyncio
import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from wasmrt.errors import SourceError
from wasmrt.store.memory import Frame
from wasmrt.store.metrics import StoreMetrics
from wasmrt.store.source import Queueing, Source, Turn, closed_error

# Drives and links reach their speed with a few large reads in flight.
AT_ONCE = 8
ATTEMPTS = 3
PATIENCE_SECONDS = 5.0  # what fails only after this long has been tried by the source itself, as over HTTP: that is enough
BACKOFF_SECONDS = 0.05  # before the second attempt, twice as much before the third, give or take half


@dataclass(eq=False, slots=True)
class Read:
    """One range on its way. `done` ends with None, a SourceError, or whatever broke the worker."""

    offset: int
    view: Frame
    then: "Callable[[Read], None]"
    turn: Turn
    done: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    started: bool = False


class Fetcher:
    """Each read is a task of its own, so that one which dies takes nothing with it: its end lets the next begin."""

    def __init__(self, source: Source, metrics: StoreMetrics, at_once: int = AT_ONCE) -> None:
        self.at_once = at_once
        self._source = source
        self._metrics = metrics
        self._queue: list[tuple[bool, int, Read]] = []
        self._order = count()
        self._running: dict[asyncio.Task[None], Read] = {}
        self._closed = False

    @property
    def in_flight(self) -> int:
        return len(self._running)

    def read(self, offset: int, view: Frame, demand: bool, then: Callable[[Read], None]) -> Read:
        """Begin to read, or queue behind what is being read ahead; `then` is called at the end, before whoever waits goes on.

        demand: somebody waits for it, so it begins now. When `done` is done, nothing writes to the view.
        """
        self.check_open()
        read = Read(offset, view, then, Turn(demand))
        if demand:
            self._start(read)
        else:
            heapq.heappush(self._queue, (demand, next(self._order), read))
            self._start_queued()
        return read

    def hurry(self, read: Read) -> None:
        """Somebody waits for it now."""
        read.turn.hurry()
        if not read.started and not self._closed:
            self._start(read)

    def cancel(self, read: Read) -> None:
        """Nobody waits for it any more. It ends soon, not at once: see `done`."""
        for task, running in self._running.items():
            if running is read:
                task.cancel()

    def check_open(self) -> None:
        if self._closed:
            raise closed_error(self._source)

    async def close(self) -> None:
        """Cancel all reads and wait until none writes any more. Later ones fail."""
        self._closed = True
        for _, _, read in self._queue:
            if not read.started:
                read.done.cancel()
                read.then(read)
        self._queue.clear()
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        cancelled = False
        while not all(task.done() for task in tasks):
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError:  # the reads write to a memory that is about to go: they end first
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    def _start_queued(self) -> None:
        while self._queue and len(self._running) < self.at_once and not self._closed:
            read = heapq.heappop(self._queue)[2]
            if not read.started:
                self._start(read)

    def _start(self, read: Read) -> None:
        read.started = True
        task = asyncio.get_running_loop().create_task(self._work(read))
        self._running[task] = read
        task.add_done_callback(partial(self._ended, read))

    def _ended(self, read: Read, task: "asyncio.Task[None]") -> None:
        self._running.pop(task, None)
        if not read.done.done():
            if task.cancelled() and self._closed:
                read.done.set_exception(closed_error(self._source))
            elif task.cancelled():
                read.done.set_exception(SourceError(f"reading {self._source.name!r} was cancelled; try again", transient=True))
            elif (error := task.exception()) is not None:
                read.done.set_exception(error)
            else:
                read.done.set_result(None)
        if not read.done.cancelled():
            read.done.exception()  # looked at: of what was read ahead nobody may ever ask
        try:
            read.then(read)
        finally:
            if not self._closed:
                self._start_queued()

    async def _work(self, read: Read) -> None:
        """With a few attempts; between two of them others may pass."""
        for attempt in range(ATTEMPTS):
            began, n_bytes = self._metrics.began(), 0
            try:
                if isinstance(self._source, Queueing):
                    await self._source.read_in_turn(read.offset, read.view, read.turn)
                else:
                    await self._source.read_into(read.offset, read.view)
                n_bytes = len(read.view)
                return
            except SourceError as error:
                waited = time.perf_counter() - began
                if not error.transient or attempt == ATTEMPTS - 1 or waited > PATIENCE_SECONDS:
                    raise
                self._metrics.retries += 1
            finally:
                self._metrics.ended(began, n_bytes)
            await asyncio.sleep(BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.5))
