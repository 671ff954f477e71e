"""The copy on disk: every byte is fetched once, a failing disk costs only that, and nothing stale or torn is served."""

import asyncio
import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import PureWindowsPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasmrt.errors import SourceError
from wasmrt.store import cache as module
from wasmrt.store import disk_copy
from wasmrt.store import lock as lock_module
from wasmrt.store.cache import CachedFile, CachedSource, file_name, open_cached, place_of, url_key
from wasmrt.store.disk_copy import Identity
from wasmrt.store.file import FileSource
from wasmrt.store.intervals import Intervals
from wasmrt.store.lock import FileLock
from wasmrt.store.room import Room, copies
from wasmrt.store.source import check_arguments

DATA = random.Random(1).randbytes(10_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
URL = "http://example.org/models/m.gguf"
PIECE = 256


class Fake:
    """A remote file in memory that counts what is read; `before` may wait or raise."""

    block = 1

    def __init__(self, data=DATA, url=URL, etag='"1"', sha256=None, last_modified=None):
        self.name = self.url = url
        self.size = len(data)
        self.etag, self.sha256, self.last_modified = etag, sha256, last_modified
        self.data = data
        self.reads = []
        self.closed = 0
        self.bypassed = False
        self.before = None

    async def bypass_cache(self):
        self.bypassed = True

    async def read_into(self, offset, view):
        check_arguments(self, offset, view)
        assert not self.closed
        self.reads.append((offset, offset + len(view)))
        if self.before:
            await self.before(offset)
        view[:] = self.data[offset : offset + len(view)]

    async def close(self):
        self.closed += 1

    @property
    def counts(self):
        """How often each byte was asked for."""
        return Counter(i for a, b in self.reads for i in range(a, b))


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


async def read(source, offset, n_bytes):
    buffer = bytearray(n_bytes)
    await source.read_into(offset, memoryview(buffer))
    buffer.append(0)                                             # nobody holds it any more
    return bytes(buffer[:-1])


async def read_all(source):
    got = await read(source, 0, source.size)
    await source.close()
    return got


async def until(condition):
    while not condition():  # noqa: ASYNC110  a condition of what is not ours
        await asyncio.sleep(0.005)


async def fetch(folder, spans, **of):
    """Open, read some ranges, close; the fake that was asked."""
    fake = Fake(**of)
    source = await open_cached(fake, folder, keep_free=0)
    for start, end in spans:
        assert await read(source, start, end - start) == fake.data[start:end]
    await source.close()
    return fake


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(module, "PIECE_BYTES", PIECE)


@pytest.fixture
def place(tmp_path):
    return place_of(tmp_path, URL)


SPANS = st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, 2000)), max_size=12)


# Every byte once


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(sessions=st.lists(SPANS, min_size=1, max_size=3), together=st.booleans())
def test_every_byte_is_fetched_once(tmp_path, sessions, together):
    """Whatever is read, in which order, one after another or at once, and however often it is opened anew."""
    folder = tmp_path / "cache"
    shutil.rmtree(folder, ignore_errors=True)

    async def check():
        total = Counter()
        for spans in sessions:
            spans = [(a, min(n, len(DATA) - a)) for a, n in spans]
            fake = Fake()
            source = await open_cached(fake, folder, keep_free=0)
            if together:
                got = await asyncio.gather(*(read(source, a, n) for a, n in spans))
            else:
                got = [await read(source, a, n) for a, n in spans]
            assert got == [DATA[a : a + n] for a, n in spans]
            await source.close()
            total += fake.counts
        wanted = {i for spans in sessions for a, n in spans for i in range(a, min(a + n, len(DATA)))}
        assert total == Counter(wanted)

    run(check())


def test_reads_of_the_same_bytes_wait_for_each_other(tmp_path):
    async def check():
        fake, gate = Fake(), asyncio.Event()
        fake.before = lambda _: gate.wait()
        source = await open_cached(fake, tmp_path, keep_free=0)
        reads = [asyncio.create_task(read(source, a, 300)) for a in (0, 100, 0, 250)]
        await asyncio.sleep(0.02)
        gate.set()
        assert await asyncio.gather(*reads) == [DATA[a : a + 300] for a in (0, 100, 0, 250)]
        assert fake.counts == Counter(range(550))
        await source.close()

    run(check())


def test_who_waits_fetches_itself_if_the_other_fails(tmp_path):
    async def check():
        fake, gate, failures = Fake(), asyncio.Event(), [SourceError("the link broke")]

        async def before(_):
            await gate.wait()
            if failures:
                raise failures.pop()

        fake.before = before
        source = await open_cached(fake, tmp_path, keep_free=0)
        first, second = (asyncio.create_task(read(source, 0, 100)) for _ in range(2))
        await asyncio.sleep(0.02)
        gate.set()
        with pytest.raises(SourceError, match="link broke"):
            await first
        assert await second == DATA[:100]
        await source.close()

    run(check())


@pytest.mark.parametrize("missing", [(), ("preadv", "pwrite")])
def test_with_and_without_positioned_calls(tmp_path, monkeypatch, missing):
    """Windows has one position a file."""
    for name in missing:
        monkeypatch.delattr(os, name, raising=False)

    async def check():
        fake = Fake()
        source = await open_cached(fake, tmp_path, keep_free=0)
        await asyncio.gather(*(read(source, a, 500) for a in range(0, 9000, 300)))
        assert await asyncio.gather(*(read(source, a, 500) for a in range(0, 9000, 300))) == [
            DATA[a : a + 500] for a in range(0, 9000, 300)]
        assert max(fake.counts.values()) == 1
        await source.close()

    run(check())


def test_an_empty_file(tmp_path):
    for sha256 in (None, hashlib.sha256(b"").hexdigest(), SHA256):
        for _ in range(3):
            assert set(run(fetch(tmp_path / str(sha256), [(0, 0)], data=b"", sha256=sha256)).reads) <= {(0, 0)}


def test_arguments_are_checked(tmp_path):
    async def check():
        source = await open_cached(Fake(), tmp_path, keep_free=0)
        with pytest.raises(ValueError, match="are not all in"):
            await read(source, len(DATA), 1)
        with pytest.raises(ValueError, match="read-only"):
            await source.read_into(0, memoryview(b"x"))
        await source.close()
        with pytest.raises(SourceError, match="closed"):
            await read(source, 0, 1)
        await source.close()

    run(check())


# Whole files


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_whole_copy_is_a_plain_file(tmp_path, place, sha256):
    """At a path that follows from the URL, read as a FileSource with nothing in between."""

    async def check():
        await fetch(tmp_path, [(0, len(DATA))], sha256=sha256)
        fake = Fake(sha256=sha256)
        source = await open_cached(fake, tmp_path)
        assert isinstance(source, FileSource)
        assert (source.name, source.path) == (URL, place.path)
        assert fake.closed
        assert await read_all(source) == DATA
        assert not fake.reads
        assert place.path.read_bytes() == DATA
        assert not place.part.exists()

    run(check())


def test_wrong_bytes_are_noticed_by_the_hash(tmp_path, place, caplog):
    """A server, or something between, flipped a bit while the length was right."""
    wrong = bytearray(DATA)
    wrong[5000] ^= 1

    async def check():
        source = await open_cached(Fake(sha256=SHA256), tmp_path, keep_free=0)
        source._inner.data = bytes(wrong)
        await read_all(source)
        fake = Fake(sha256=SHA256)
        source = await open_cached(fake, tmp_path, keep_free=0)
        assert isinstance(source, CachedSource)
        assert "SHA-256" in caplog.text
        assert await read_all(source) == DATA
        assert fake.counts == Counter(range(len(DATA)))
        source = await open_cached(Fake(sha256=SHA256), tmp_path)
        assert isinstance(source, CachedFile)
        await source.close()

    run(check())


def test_complete_says_that_the_hash_is_wrong(tmp_path, place):
    async def check():
        source = await open_cached(Fake(sha256="0" * 64), tmp_path, keep_free=0)
        await read(source, 0, len(DATA))
        with pytest.raises(SourceError, match=r"m\.gguf.*SHA-256.*deleted"):
            await source.complete()
        await source.close()
        assert not place.path.exists()
        assert not place.part.exists()
        assert not place.map.exists()

    run(check())


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_crash_between_the_map_and_the_rename(tmp_path, place, sha256):
    run(fetch(tmp_path, [(0, len(DATA))], sha256=sha256))
    assert run(fetch(tmp_path, [(0, 10)], sha256=sha256)).reads == []
    place.path.rename(place.part)
    assert run(fetch(tmp_path, [(0, len(DATA))], sha256=sha256)).reads == []
    assert place.path.exists()


def test_a_whole_copy_that_was_touched(tmp_path, place):
    """Its hash is computed again where it is known; otherwise it is fetched again."""
    run(fetch(tmp_path, [(0, len(DATA))], sha256=SHA256))
    run(fetch(tmp_path, [], sha256=SHA256))
    os.utime(place.path, (1, 1))
    assert run(fetch(tmp_path, [(0, len(DATA))], sha256=SHA256)).reads == []
    place.path.write_bytes(DATA[::-1])
    assert run(fetch(tmp_path, [(0, len(DATA))], sha256=SHA256)).counts == Counter(range(len(DATA)))
    run(fetch(tmp_path, [(0, len(DATA))], url=URL.replace("m.gguf", "n.gguf")))
    other = place_of(tmp_path, URL.replace("m.gguf", "n.gguf"))
    other.path.write_bytes(DATA[::-1])
    os.utime(other.path, (1, 1))
    again = run(fetch(tmp_path, [(0, len(DATA))], url=URL.replace("m.gguf", "n.gguf")))
    assert again.counts == Counter(range(len(DATA)))


# What must not be trusted


@pytest.mark.parametrize("change", [{"etag": '"2"'}, {"etag": None, "sha256": "1" * 64}, {"data": DATA[:-1]}])
@pytest.mark.parametrize("n_bytes", [3000, len(DATA)])
def test_another_version_starts_afresh(tmp_path, n_bytes, change):
    run(fetch(tmp_path, [(0, n_bytes)], sha256="0" * 64 if "sha256" in change else None))
    fake = run(fetch(tmp_path, [(0, 3000)], **{"data": DATA[::-1], **change}))
    assert fake.counts == Counter(range(3000))


def test_the_hash_decides_over_the_etag(tmp_path):
    run(fetch(tmp_path, [(0, 3000)], sha256=SHA256))
    assert run(fetch(tmp_path, [(0, 3000)], sha256=SHA256, etag='"other"')).reads == []


MONDAY, TUESDAY = "Mon, 05 Jan 2026 10:00:00 GMT", "Tue, 06 Jan 2026 10:00:00 GMT"


def test_the_time_of_modification_decides_where_there_is_no_etag(tmp_path):
    monday = {"etag": None, "last_modified": MONDAY}
    assert run(fetch(tmp_path, [(0, 3000)], **monday)).counts == Counter(range(3000))
    assert run(fetch(tmp_path, [(0, 3000)], **monday)).reads == []
    changed = {"etag": None, "last_modified": TUESDAY, "data": DATA[::-1]}
    assert run(fetch(tmp_path, [(0, len(DATA))], **changed)).counts == Counter(range(len(DATA)))
    assert run(fetch(tmp_path, [(0, len(DATA))], **changed)).reads == []


@pytest.mark.parametrize(("was", "now"), [
    ({"etag": None, "last_modified": MONDAY}, {"last_modified": MONDAY}),
    ({"last_modified": MONDAY}, {"etag": None, "last_modified": MONDAY}),
    ({"last_modified": MONDAY}, {"etag": '"2"', "last_modified": MONDAY}),
    ({"etag": None, "last_modified": MONDAY}, {"etag": None, "sha256": "1" * 64}),
])
def test_an_equal_time_is_not_enough_where_there_is_an_etag(tmp_path, was, now):
    run(fetch(tmp_path, [(0, 3000)], **was))
    assert run(fetch(tmp_path, [(0, 100)], data=DATA[::-1], **now)).counts == Counter(range(100))


def test_a_map_of_before_the_time_was_in_it(tmp_path, place):
    run(fetch(tmp_path, [(0, 3000)]))
    damage(lambda f: f.pop("last_modified"))(place)
    assert run(fetch(tmp_path, [(0, 3000)])).reads == []


def test_a_file_whose_version_cannot_be_told_is_not_kept(tmp_path, caplog):
    async def check():
        fake = Fake(etag=None)
        assert await open_cached(fake, tmp_path) is fake
        assert "not cached" in caplog.text
        assert not list(tmp_path.iterdir())

    run(check())


def damage(change):
    def apply(place):
        fields = json.loads(place.map.read_text())
        change(fields)
        place.map.write_text(json.dumps(fields))
    return apply


@pytest.mark.parametrize("spoil", [
    lambda place: place.map.write_bytes(b""),
    lambda place: place.map.write_bytes(place.map.read_bytes()[:-9]),
    lambda place: place.map.write_bytes(b"\xff" * 50),
    lambda place: place.map.write_bytes(b"[" * 100_000),
    lambda place: place.map.write_bytes(b"[]"),
    lambda place: place.map.unlink(),
    lambda place: place.part.unlink(),
    lambda place: place.part.write_bytes(b""),
    damage(lambda f: f.update(present=[[0, 99999]])),
    damage(lambda f: f.update(present=[[500, 400]])),
    damage(lambda f: f.update(present=[[-5, 400]])),
    damage(lambda f: f.update(present=[[0, 500], [400, 600]])),
    damage(lambda f: f.update(present=[[0, 1e3]])),
    damage(lambda f: f.update(present=[[0, True]])),
    damage(lambda f: f.update(present={"0": 1})),
    damage(lambda f: f.update(size="10000")),
    damage(lambda f: f.update(format=2)),
    damage(lambda f: f.update(etag=7)),
    damage(lambda f: f.update(last_modified=7)),
    damage(lambda f: f.pop("url")),
    damage(lambda f: f.update(url="http://example.org/other.gguf")),
])
def test_a_damaged_copy_is_fetched_anew(tmp_path, place, spoil):
    run(fetch(tmp_path, [(0, 3000)]))
    spoil(place)
    assert run(fetch(tmp_path, [(0, 3000)])).counts == Counter(range(3000))
    assert run(fetch(tmp_path, [(0, 3000)])).reads == []         # and is sound again


def test_the_map_is_not_trusted_beyond_the_file(tmp_path, place):
    run(fetch(tmp_path, [(0, 3000)]))
    with place.part.open("r+b") as file:
        file.truncate(2000)
    assert run(fetch(tmp_path, [(0, 3000)])).counts == Counter(range(2000, 3000))


def test_the_map_follows_the_flush(tmp_path, monkeypatch):
    """Else a power cut leaves a map of bytes that are not there."""
    order = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: order.append("flush"), raising=False)
    monkeypatch.setattr("wasmrt.store.disk_copy.write_map", lambda *_: order.append("map"))
    run(fetch(tmp_path, [(0, 3000)]))
    assert order == ["flush", "map"]


def test_the_map_is_written_now_and_then(tmp_path, place, monkeypatch):
    """Not at every read, and not only at the end: a killed process loses little."""
    saves = []
    write_map = sys.modules["wasmrt.store.disk_copy"].write_map
    monkeypatch.setattr("wasmrt.store.disk_copy.write_map", lambda *a: (saves.append(1), write_map(*a)))
    monkeypatch.setattr(module, "SAVE_BYTES", 2000)

    async def check(seconds):
        monkeypatch.setattr(module, "SAVE_SECONDS", seconds)
        source = await open_cached(Fake(), tmp_path / str(seconds), keep_free=0)
        for start in range(0, 5000, 100):
            await read(source, start, 100)
            await asyncio.sleep(0.002)
        n = len(saves)
        await asyncio.sleep(0.1)
        later = len(saves)
        await source.close()
        return n, later

    n, later = run(check(1000))
    assert 1 <= n <= 3
    saves.clear()
    n, later = run(check(0.03))
    assert later >= 2
    saved = json.loads(place_of(tmp_path / "0.03", URL).map.read_text())["present"]
    assert saved == [[0, 5000]]


# A disk that fails


def failing(error_number, after=0):
    left = [after]

    def call(*_):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(error_number, os.strerror(error_number))
        return real(*_)

    real = os.pwrite
    return call


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="needs os.pwrite")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("after", [0, 5])
def test_a_full_disk_breaks_nothing(tmp_path, place, monkeypatch, caplog, number, after):
    """The same bytes, one note, and what was kept by then stays of use."""

    async def check():
        fake = Fake()
        source = await open_cached(fake, tmp_path, keep_free=0)
        monkeypatch.setattr(os, "pwrite", failing(number, after))
        assert [await read(source, a, 500) for a in range(0, 9500, 500)] == [DATA[a : a + 500] for a in range(0, 9500, 500)]
        assert await read(source, 0, len(DATA)) == DATA
        kept = source.size - source.missing_bytes
        await source.close()
        notes = [r for r in caplog.records if "is kept in" in r.getMessage()]
        assert len(notes) == 1
        assert os.strerror(number) in notes[0].getMessage()
        monkeypatch.undo()
        assert kept == (0 if after == 0 else 1000)               # the first two reads are five pieces
        fake = await fetch(tmp_path, [(0, kept)])
        assert fake.reads == []

    run(check())


def test_a_disk_that_gives_no_bytes_back(tmp_path, monkeypatch, caplog):
    async def check():
        fake = Fake()
        source = await open_cached(fake, tmp_path, keep_free=0)
        await read(source, 0, 3000)
        fake.reads.clear()

        def broken(*_):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(source._copy, "read", broken)
        assert await read(source, 100, 50) == DATA[100:150]
        monkeypatch.undo()
        assert await read(source, 0, 3000) == DATA[:3000]
        assert fake.counts == Counter(range(100, 150))
        assert "Input/output error" in caplog.text
        await source.close()

    run(check())


@pytest.mark.parametrize("order", ["read", "write"])
def test_a_file_that_is_cut_short(tmp_path, place, order, caplog):
    """It reads as zeros where it grows again: those must not be served, neither now nor next time."""

    async def check():
        source = await open_cached(Fake(), tmp_path, keep_free=0)
        await read(source, 0, 3000)
        os.truncate(place.part, 1000)
        if order == "write":
            assert await read(source, 5000, 3000) == DATA[5000:8000]
        for _ in range(3):
            assert await read(source, 0, 4000) == DATA[:4000]
        await source.close()
        assert "fetched anew" in caplog.text or "is kept in" in caplog.text
        await fetch(tmp_path, [(0, len(DATA))])

    for _ in range(10):
        run(check())
        shutil.rmtree(place.path.parent)


def test_no_folder_can_be_made(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")

    async def check():
        fake = Fake()
        source = await open_cached(fake, tmp_path / "file" / "cache")
        assert await read_all(source) == DATA
        assert "is not kept" in caplog.text
        assert fake.closed == 1

    run(check())


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="needs os.fdatasync")
def test_a_map_that_cannot_be_saved(tmp_path, monkeypatch, caplog):
    def broken(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    run(fetch(tmp_path, [(0, 3000)]))
    assert len([r for r in caplog.records if "is kept in" in r.getMessage()]) == 1
    monkeypatch.undo()
    assert run(fetch(tmp_path, [(0, 3000)])).counts == Counter(range(3000))


# Cancelling and closing


def test_a_cancelled_read(tmp_path):
    """Ends with nobody writing to the buffer; what came is kept."""

    async def check():
        fake, gate = Fake(), asyncio.Event()

        async def before(offset):
            if offset >= 8 * PIECE:
                await gate.wait()

        fake.before = before
        source = await open_cached(fake, tmp_path, keep_free=0)
        buffer = bytearray(len(DATA))
        view = memoryview(buffer)
        task = asyncio.create_task(source.read_into(0, view))
        await until(lambda: source.missing_bytes == len(DATA) - 8 * PIECE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        view.release()
        buffer.append(0)
        fake.before = None
        fake.reads.clear()
        assert await read(source, 0, 9 * PIECE) == DATA[: 9 * PIECE]
        assert fake.counts == Counter(range(8 * PIECE, 9 * PIECE))
        await source.close()

    run(check())


def test_an_error_of_one_piece_is_the_reads(tmp_path):
    async def check():
        fake = Fake()

        async def before(offset):
            if offset == 5 * PIECE:
                raise SourceError("the link broke", transient=True)

        fake.before = before
        source = await open_cached(fake, tmp_path, keep_free=0)
        with pytest.raises(SourceError, match="link broke") as caught:
            await read(source, 0, len(DATA))
        assert caught.value.transient
        await source.close()

    run(check())


def test_close_ends_what_it_started(tmp_path):
    async def check():
        before = set(threading.enumerate())
        fake, gate = Fake(), asyncio.Event()
        fake.before = lambda _: gate.wait()
        source = await open_cached(fake, tmp_path, keep_free=0)
        reading = asyncio.create_task(read(source, 0, 100))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(source.close())
        await asyncio.sleep(0.01)
        closing.cancel()                                         # a cancelled close still closes
        await asyncio.sleep(0.01)
        assert not closing.done()
        gate.set()
        assert await reading == DATA[:100]
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert fake.closed == 1
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
            assert not thread.is_alive()
        assert (await fetch(tmp_path, [(0, 100)])).reads == []   # the lock is free, the map saved

    run(check())


def test_a_cancelled_open(tmp_path, monkeypatch):
    started, gate = threading.Event(), threading.Event()
    open_copy = module.open_copy

    def slow(*arguments):
        started.set()
        assert gate.wait(20)
        return open_copy(*arguments)

    monkeypatch.setattr(module, "open_copy", slow)

    async def check():
        fake = Fake()
        task = asyncio.create_task(open_cached(fake, tmp_path, keep_free=0))
        assert await asyncio.to_thread(started.wait, 20)
        task.cancel()
        await asyncio.sleep(0.01)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert fake.closed == 1
        lock = FileLock.acquire(place_of(tmp_path, URL).lock)
        assert lock is not None
        lock.release()

    run(check())


def test_bypassing_reaches_what_is_behind(tmp_path):
    async def check():
        fake = Fake()
        source = await open_cached(fake, tmp_path, keep_free=0)
        await source.bypass_cache()
        assert fake.bypassed
        assert [await read(source, 0, 3000) for _ in range(2)] == [DATA[:3000]] * 2
        await source.close()

    run(check())


# Two at once


def test_the_second_reads_along_and_does_not_write(tmp_path, place, caplog):
    async def check():
        await fetch(tmp_path, [(0, 3000)])
        first = await open_cached(Fake(), tmp_path, keep_free=0)
        fake = Fake()
        second = await open_cached(fake, tmp_path, keep_free=0)
        assert "another process" in caplog.text
        assert await read(second, 0, len(DATA)) == DATA
        assert fake.counts == Counter(range(3000, len(DATA)))
        assert first.missing_bytes == len(DATA) - 3000
        assert await read(first, 0, len(DATA)) == DATA
        await first.close()
        assert await read_all(second) == DATA
        assert place.path.read_bytes() == DATA

    run(check())


def test_a_second_one_of_another_version(tmp_path):
    """It neither reads the other's bytes nor replaces them while they are in use."""

    async def check():
        first = await open_cached(Fake(), tmp_path, keep_free=0)
        await read(first, 0, 3000)
        other = Fake(DATA[::-1], etag='"2"')
        second = await open_cached(other, tmp_path, keep_free=0)
        assert await read_all(second) == DATA[::-1]
        assert await read_all(first) == DATA
        whole = await open_cached(Fake(), tmp_path)
        assert isinstance(whole, CachedFile)
        second = await open_cached(Fake(DATA[::-1], etag='"2"'), tmp_path, keep_free=0)
        assert await read_all(second) == DATA[::-1]
        assert await read_all(whole) == DATA

    run(check())


def test_a_copy_that_is_replaced_while_it_is_opened(tmp_path, place, monkeypatch):
    """The map of the new file says nothing about the old one, which is the one that is open."""
    run(fetch(tmp_path, [(0, 3000)]))
    new = Identity(URL, len(DATA), '"2"')
    read_map = disk_copy.read_map

    def replaced(path):
        place.delete()
        place.part.write_bytes(DATA)
        disk_copy.write_map(place.map, disk_copy.Map(new, Intervals([(0, 3000)])))
        return read_map(path)

    monkeypatch.setattr(disk_copy, "read_map", replaced)
    copy = disk_copy._open_for_reading(place, new, "someone writes")
    assert not list(copy.present)
    copy.close()


def test_many_may_read_a_whole_copy(tmp_path):
    async def check():
        await fetch(tmp_path, [(0, len(DATA))])
        sources = [await open_cached(Fake(), tmp_path) for _ in range(3)]
        assert all(isinstance(source, CachedFile) for source in sources)
        for source in sources:
            assert await read_all(source) == DATA

    run(check())


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.test_cache import Fake, read
from wasmrt.store.cache import open_cached

async def main():
    source = await open_cached(Fake(), Path(sys.argv[1]), keep_free=0)
    await read(source, 0, 3000)
    print("writes", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def test_two_processes(tmp_path, caplog):
    """A lock ends with its process, however that ends."""
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "writes\n"
        fake = run(fetch(tmp_path, [(0, 3000)]))
        assert "another process" in caplog.text
        assert set(fake.counts.values()) == {1}
        child.kill()
        child.wait(20)
    caplog.clear()
    run(fetch(tmp_path, [(0, 3000)]))
    assert not caplog.records
    assert run(fetch(tmp_path, [(0, 3000)])).reads == []


@pytest.mark.skipif(os.name == "nt", reason="flock")
def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    """A file that only one process can create does instead; one that a dead process left is no obstacle."""

    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(lock_module.fcntl, "flock", refuse)

    async def check():
        first = await open_cached(Fake(), tmp_path, keep_free=0)
        second = await open_cached(Fake(), tmp_path, keep_free=0)
        assert "another process" in caplog.text
        for source in (second, first):
            assert await read(source, 0, 3000) == DATA[:3000]
            await source.close()
        held = place_of(tmp_path, URL).beside(".lock.held")
        assert not held.exists()
        held.write_text("999999999")
        assert (await fetch(tmp_path, [(0, 4000)])).counts == Counter(range(3000, 4000))
        assert (await fetch(tmp_path, [(0, 4000)])).reads == []

    run(check())


# Room


def url(name):
    return f"http://example.org/{name}/m.gguf"


def fill(folder, names, n_bytes=64 << 10):
    """Whole copies, used in this order."""
    for i, name in enumerate(names):
        run(fetch(folder, [(0, n_bytes)], data=bytes(n_bytes), url=url(name)))
        os.utime(place_of(folder, url(name)).lock, (1000 + i, 1000 + i))


def there(folder):
    return {place.path.parent.name.partition("-")[0] + place.path.parent.name.split("-")[1] for place in copies(folder)}


def test_the_longest_unused_leaves_first(tmp_path):
    """max_bytes: three files of 64 KiB fit, the fourth makes room for itself; reading one makes it recent."""
    fill(tmp_path, ["a", "b", "c"])
    run(fetch(tmp_path, [(0, 10)], data=bytes(64 << 10), url=url("a")))

    async def check():
        source = await open_cached(Fake(bytes(64 << 10), url=url("d")), tmp_path, keep_free=0, max_bytes=210_000)
        await read_all(source)

    run(check())
    assert there(tmp_path) == {"example.orga", "example.orgc", "example.orgd"}
    assert len(list(tmp_path.iterdir())) == 3                    # no empty folder stays


def test_what_is_in_use_stays(tmp_path):
    fill(tmp_path, ["a", "b", "c"])

    async def check():
        using = await open_cached(Fake(bytes(64 << 10), url=url("a")), tmp_path)
        writing = await open_cached(Fake(url=url("w")), tmp_path, keep_free=0)
        await read(writing, 0, 300)
        os.utime(place_of(tmp_path, url("a")).lock, (1, 1))
        os.utime(place_of(tmp_path, url("w")).lock, (1, 1))
        source = await open_cached(Fake(bytes(64 << 10), url=url("d")), tmp_path, keep_free=0, max_bytes=240_000)
        await read_all(source)
        assert there(tmp_path) == {"example.orga", "example.orgc", "example.orgd", "example.orgw"}
        assert await read_all(using) == bytes(64 << 10)
        await writing.close()

    run(check())


def test_lock_files_of_other_programs_stay(tmp_path):
    """The folder may be one that the user has other things in."""
    (tmp_path / "project").mkdir()
    foreign = [tmp_path / "project" / name for name in ("Cargo.lock", "Cargo")]
    for path in foreign:
        path.write_text("precious")
        os.utime(path, (1, 1))
    fill(tmp_path, ["a"])
    assert Room(tmp_path, keep_free=0, max_bytes=64 << 10).make(tmp_path, 64 << 10) == 64 << 10
    assert there(tmp_path) == set()                              # a left
    assert [path.read_text() for path in foreign] == ["precious"] * 2


def test_a_whole_copy_is_never_unlocked_while_it_is_opened(tmp_path, place, monkeypatch):
    """Whoever needs room at that moment would delete it."""
    run(fetch(tmp_path, [(0, len(DATA))]))
    release = FileLock.release

    def release_and_lose(self):
        release(self)
        Room(tmp_path, keep_free=0, max_bytes=1).make(tmp_path, 1)

    async def check():
        with monkeypatch.context() as patch:
            patch.setattr(FileLock, "release", release_and_lose)
            source = await open_cached(Fake(), tmp_path)
        assert await read_all(source) == DATA

    run(check())


def test_nothing_leaves_for_what_does_not_fit_anyway(tmp_path, caplog):
    """What there is room for is kept, the rest is not."""
    fill(tmp_path, ["a", "b"])

    async def check():
        data = random.Random(2).randbytes(1 << 20)
        source = await open_cached(Fake(data, url=url("big")), tmp_path, keep_free=0, max_bytes=200_000)
        assert await read(source, 0, len(data)) == data
        assert 0 < source.size - source.missing_bytes <= 200_000 - 2 * (64 << 10)
        await source.close()

    run(check())
    assert {"example.orga", "example.orgb"} <= there(tmp_path)
    assert "is kept in" in caplog.text


def test_nothing_leaves_if_only_what_is_in_use_would_make_the_room(tmp_path):
    fill(tmp_path, ["a", "b"])

    async def check():
        using = await open_cached(Fake(bytes(64 << 10), url=url("a")), tmp_path)
        room = Room(tmp_path, keep_free=0, max_bytes=140_000)
        assert 0 < room.make(tmp_path, 100_000) < 100_000
        assert there(tmp_path) == {"example.orga", "example.orgb"}
        await using.close()
        assert room.make(tmp_path, 100_000) >= 100_000
        assert there(tmp_path) == set()

    run(check())


def test_part_of_the_disk_stays_free(tmp_path, monkeypatch, caplog):
    """10 % of it or 5 GiB, whichever is less."""
    usage = shutil.disk_usage(tmp_path)
    small, large = 100_000, 10**13
    for total, free, kept in ((small, 10_000, False), (small, 90_000, True), (large, 5 << 30, False), (large, 6 << 30, True)):
        fake_usage = type(usage)(total, total - free, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=fake_usage: usage)
        caplog.clear()

        async def check(folder):
            source = await open_cached(Fake(), folder)
            assert await read(source, 0, 5000) == DATA[:5000]
            there = source.size - source.missing_bytes
            await source.close()
            return there

        there = run(check(tmp_path / f"{total}-{free}"))
        assert (there, bool(caplog.records)) == ((5000, False) if kept else (0, True))


# Paths


def test_where_a_copy_lies(tmp_path):
    """Beside its siblings; signatures, credentials and the case of the host do not matter."""
    one = place_of(tmp_path, url_key("https://Host.org/o/r/resolve/main/m-00001-of-00002.gguf?X-Amz-Signature=abc"))
    same = place_of(tmp_path, url_key("https://user:secret@host.org/o/r/resolve/main/m-00001-of-00002.gguf#f"))
    other = place_of(tmp_path, url_key("https://host.org/o/r/resolve/main/m-00002-of-00002.gguf"))
    assert one == same
    assert one.path.parent == other.path.parent
    assert other.path.name == "m-00002-of-00002.gguf"
    assert "o-r-resolve-main" in one.path.parent.name
    elsewhere = [place_of(tmp_path, url_key(u)) for u in ("http://host.org/o/r/resolve/main/m.gguf", "https://host.org/o/r/m.gguf",
                 "https://host.org:81/o/r/resolve/main/m.gguf", "https://host.org/get?id=1", "https://host.org/get?id=2")]
    assert len({p.path for p in elsewhere}) == 5
    assert len({p.path.parent for p in [one, *elsewhere]}) == 6


@given(name=st.text(max_size=300), other=st.text(max_size=300))
def test_file_names(name, other):
    """Every system takes them; they name nothing above or beside, and stay different."""
    safe = file_name(name)
    assert safe
    assert len(safe) < 200
    assert safe.isascii()
    assert not set(safe) & set('/\\:*?"<>|\0')
    assert safe[0] not in ".-"
    assert safe[-1] not in ". "
    assert not getattr(PureWindowsPath(safe), "is_reserved", lambda: False)() or sys.version_info >= (3, 13)
    if file_name(other).lower() == safe.lower():
        from urllib.parse import unquote
        assert unquote(name).strip(" ").rstrip(".").lower() == unquote(other).strip(" ").rstrip(".").lower() or len(safe) > 100


def test_ordinary_names_stay():
    for name in ("model-Q4_K_M.gguf", "a b (1).gguf", "m-00001-of-00002.gguf", "x+y=z,[1].gguf"):
        assert file_name(name) == name
    assert file_name("CON.gguf") == "_CON.gguf"
    assert file_name("nul .gguf") == "_nul .gguf"
    assert file_name("..") == "_"
    assert file_name("a%20b.gguf") == "a b.gguf"
    assert file_name("%2e%2e%2fpasswd") == "_..%2Fpasswd"


@pytest.mark.parametrize("suffix", ["part", "map", "lock", "map.new", "lock.held", "MAP"])
def test_no_file_takes_the_place_of_what_lies_beside_another(suffix):
    name = file_name(f"m.gguf.{suffix}")
    assert name.lower() != f"m.gguf.{suffix}".lower()
    assert name.replace("%2E", ".") == f"m.gguf.{suffix}"


def test_secrets_are_not_written(tmp_path):
    secret = "http://user:s3cret@example.org/m.gguf?signature=s3cret"
    run(fetch(tmp_path, [(0, 300)], url=secret))
    for path in tmp_path.rglob("*"):
        assert "s3cret" not in str(path)
        if path.is_file() and path.suffix != ".part":
            assert b"s3cret" not in path.read_bytes()


