"""Fetcher: what somebody waits for begins at once, failures end one read alone, and closing waits for what still writes."""

import asyncio

import pytest

from wasmrt.errors import SourceError
from wasmrt.store import fetcher as module
from wasmrt.store.fetcher import ATTEMPTS, Fetcher
from wasmrt.store.metrics import StoreMetrics


class Slow:
    """A source whose reads wait until they are let go, one by one; `script` says how each of an offset ends."""

    name, size, block = "slow.gguf", 1 << 40, 1

    def __init__(self):
        self.began = []
        self.writing = set()
        self.script = {}
        self._gates = {}

    async def read_into(self, offset, view):
        self.began.append(offset)
        self.writing.add(offset)
        try:
            await self._gates.setdefault(offset, asyncio.Event()).wait()
            outcomes = self.script.get(offset)
            if outcomes and (outcome := outcomes.pop(0)):
                raise outcome
            view[:] = bytes([offset % 251]) * len(view)
        finally:
            self.writing.discard(offset)

    def let(self, *offsets):
        for offset in offsets:
            self._gates.setdefault(offset, asyncio.Event()).set()


class Rig:
    def __init__(self, at_once=2):
        self.source, self.metrics = Slow(), StoreMetrics()
        self.fetcher = Fetcher(self.source, self.metrics, at_once)
        self.ended = []

    def read(self, offset, demand=False, n_bytes=4):
        return self.fetcher.read(offset, memoryview(bytearray(n_bytes)), demand, lambda read: self.ended.append(read.offset))


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_SECONDS", 0.0001)


def run(main):
    """Bounded, so that a hang fails."""
    return asyncio.run(asyncio.wait_for(main(), 20))


async def turns(n=20):
    """Let everything that can go on do so."""
    for _ in range(n):
        await asyncio.sleep(0)


def test_reads_ahead_go_in_turn_a_few_at_once():
    async def main():
        rig = Rig(at_once=2)
        reads = [rig.read(offset) for offset in range(5)]
        await turns()
        assert rig.source.began == [0, 1]
        assert rig.fetcher.in_flight == 2
        rig.source.let(1)
        await reads[1].done
        await turns()
        assert rig.source.began == [0, 1, 2]
        rig.source.let(0, 2, 3, 4)
        await asyncio.gather(*(read.done for read in reads))
        assert rig.source.began == [0, 1, 2, 3, 4]
        assert all(bytes(read.view) == bytes([read.offset]) * 4 for read in reads)
        await turns()
        assert rig.fetcher.in_flight == 0
        assert (rig.metrics.bytes_read, rig.metrics.reads, rig.metrics.retries) == (20, 5, 0)
        assert rig.metrics.read_seconds >= rig.metrics.reading_seconds > 0

    run(main)


def test_what_somebody_waits_for_begins_at_once():
    """Beside what is read ahead; one that is queued already does not wait for its turn, and is not read twice."""

    async def main():
        rig = Rig(at_once=2)
        reads = [rig.read(offset) for offset in range(4)]
        demanded = rig.read(100, demand=True)
        await turns()
        assert rig.source.began == [0, 1, 100]
        rig.fetcher.hurry(reads[3])
        rig.fetcher.hurry(reads[3])
        rig.fetcher.hurry(demanded)
        await turns()
        assert rig.source.began == [0, 1, 100, 3]
        rig.source.let(*range(4), 100)
        await asyncio.gather(*(read.done for read in reads), demanded.done)
        await turns()
        assert rig.source.began == [0, 1, 100, 3, 2]

    run(main)


def test_then_is_called_before_whoever_waits_goes_on():
    async def main():
        rig = Rig()
        read = rig.read(7, demand=True)
        rig.source.let(7)
        await read.done
        assert rig.ended == [7]

    run(main)


def test_transient_errors_are_retried():
    """While one waits for its next attempt others pass."""

    async def main():
        rig = Rig(at_once=1)
        rig.source.script = {1: [SourceError("broken", transient=True)] * (ATTEMPTS - 1)}
        rig.source.let(1)
        read = rig.read(1)
        await read.done
        assert rig.source.began == [1] * ATTEMPTS
        assert bytes(read.view) == b"\x01" * 4
        assert (rig.metrics.retries, rig.metrics.reads, rig.metrics.bytes_read) == (ATTEMPTS - 1, 1, 4)

    run(main)


BROKEN, CHANGED = SourceError("broken", transient=True), SourceError("the file has changed")


@pytest.mark.parametrize(("error", "attempts"), [(BROKEN, ATTEMPTS), (CHANGED, 1), (ZeroDivisionError("odd"), 1)])
def test_what_lasts_ends_its_own_read_alone(error, attempts):
    async def main():
        rig = Rig(at_once=1)
        rig.source.script = {1: [error] * ATTEMPTS}
        rig.source.let(1, 2)
        bad, good = rig.read(1), rig.read(2)
        with pytest.raises(type(error), match=str(error)):
            await bad.done
        await good.done
        assert rig.source.began == [1] * attempts + [2]
        assert rig.ended == [1, 2]
        assert (rig.metrics.reads, rig.metrics.bytes_read) == (1, 4)
        await turns()
        assert rig.fetcher.in_flight == 0

    run(main)


def test_what_took_long_to_fail_is_not_tried_again(monkeypatch):
    """A source over HTTP has tried for a while by itself: attempts would multiply."""
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)

    async def main():
        rig = Rig()
        rig.source.script[1] = [SourceError("gone", transient=True)] * ATTEMPTS
        rig.source.let(1)
        read = rig.read(1)
        await asyncio.wait([read.done])
        assert str(read.done.exception()) == "gone"
        assert rig.source.began == [1]

    run(main)


def test_a_worker_that_is_cancelled_ends_its_own_read_alone():
    """By whoever finds the task, say a framework that cancels all: its read fails as one that may work next time."""

    async def main():
        rig = Rig(at_once=1)
        bad, good = rig.read(1), rig.read(2)
        await turns()
        (task,) = rig.fetcher._running
        task.cancel()
        with pytest.raises(SourceError, match="cancelled") as error:
            await bad.done
        assert error.value.transient
        rig.source.let(2)
        await good.done
        assert rig.ended == [1, 2]
        assert rig.source.writing == set()

    run(main)


def test_failures_that_nobody_asks_for_are_not_reported_by_the_loop():
    async def main():
        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        rig = Rig()
        rig.source.script = {1: [ValueError("nobody asks")]}
        rig.source.let(1)
        rig.read(1)
        await turns()
        assert rig.ended == [1]
        del rig
        await turns()
        assert complaints == []

    run(main)


@pytest.mark.parametrize("n_cancels", [0, 1, 3])
def test_closing_waits_for_what_still_writes(monkeypatch, n_cancels):
    """The memory goes after it. Whoever waits, for a read that runs or one that is queued, is told; so is who comes later."""

    async def main():
        rig = Rig(at_once=1)
        release = asyncio.Event()

        async def stubborn(offset, view):
            """As a thread in a system call: it leaves late."""
            rig.source.writing.add(offset)
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await release.wait()
                raise
            finally:
                rig.source.writing.discard(offset)

        monkeypatch.setattr(rig.source, "read_into", stubborn)
        running, queued = rig.read(1), rig.read(2)
        await turns()
        closing = asyncio.create_task(rig.fetcher.close())
        for _ in range(1 + n_cancels):
            await turns()
            assert not closing.done()
            assert rig.source.writing == {1}
            if n_cancels:
                closing.cancel()
        release.set()
        await asyncio.wait([closing])
        assert rig.source.writing == set()
        await asyncio.wait([running.done, queued.done])
        assert queued.done.cancelled()
        assert isinstance(running.done.exception(), SourceError)
        for demand in (True, False):
            with pytest.raises(SourceError, match="is closed; open it again"):
                rig.read(3, demand)
        rig.fetcher.hurry(queued)
        await rig.fetcher.close()
        assert rig.ended == [2, 1]
        assert rig.fetcher.in_flight == 0

    run(main)


def test_metrics_as_dict_has_every_counter():
    metrics = StoreMetrics()
    first, second = metrics.began(), metrics.began()
    metrics.ended(first, 10)
    metrics.ended(second, 0)                                     # it failed
    metrics.stalls = 3
    as_dict = metrics.as_dict()
    assert (as_dict["bytes_read"], as_dict["reads"], as_dict["stalls"], as_dict["hits"]) == (10, 1, 3, 0)
    assert as_dict["read_seconds"] > as_dict["reading_seconds"] > 0
    assert not any(name.startswith("_") for name in as_dict)
