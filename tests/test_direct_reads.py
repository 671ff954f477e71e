"""Reads around the page cache: the same bytes whichever way they come, and no copy of them stays behind."""

import asyncio
import ctypes
import errno
import logging
import mmap
import os
import random
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmrt.errors import SourceError
from wasmrt.store import file as module
from wasmrt.store.file import BLOCK, PAGE, FileSource
from wasmrt.store.source import MemorySource

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="direct reads are Linux's")

fcntl = pytest.importorskip("fcntl")                             # as on Windows

# Not a multiple of a block: the last one is short.
DATA = random.Random(5).randbytes(5 * PAGE + 777)
EDGE = 0xEE


def run(coroutine):
    """Bounded, so that a hang fails."""
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def written(path):
    with open(path, "wb") as file:
        file.write(DATA)
        file.flush()
        os.fsync(file.fileno())                                  # a page that is not on the drive yet cannot be dropped
    an_hour_ago = time.time() - 3600
    os.utime(path, (an_hour_ago, an_hour_ago))                   # so that any write changes the time of modification
    return path


@pytest.fixture
def path(tmp_path):
    return written(tmp_path / "model.gguf")


def refuse_to_open(monkeypatch):
    """A file system without direct reads."""
    opened = os.open

    def without_direct(path, flags, *args, **kwargs):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", without_direct)


@pytest.fixture
def direct_reads(monkeypatch):
    """(offset, bytes) of each direct read. `fail` holds the error of the next ones, `limit` their most bytes."""
    preadv = os.preadv

    class Reads(list):
        fail: int | None = None
        limit: int | None = None

    reads = Reads()

    def watched(fd, views, offset):
        if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            return preadv(fd, views, offset)
        if reads.fail:
            raise OSError(reads.fail, os.strerror(reads.fail))
        n = preadv(fd, [memoryview(views[0])[: reads.limit]], offset)
        reads.append((offset, n))
        return n

    monkeypatch.setattr(os, "preadv", watched)
    return reads


async def opened(path, direct=True):
    source = await FileSource.open(path)
    await source.bypass_cache()
    if direct and source.block == 1:
        await source.close()
        pytest.skip(f"the file system of {path} has no direct reads")
    return source


class Frame:
    """Memory at a multiple of a block, with a watched edge on both sides."""

    def __init__(self, n_bytes):
        self._all = mmap.mmap(-1, n_bytes + 2 * BLOCK)

    async def read(self, source, offset, n_bytes, shift=0):
        self._all[:] = bytes([EDGE]) * len(self._all)
        start = BLOCK + shift
        with memoryview(self._all)[start : start + n_bytes] as view:
            await source.read_into(offset, view)
        assert not self._all[:start].strip(bytes([EDGE]))
        assert not self._all[start + n_bytes :].strip(bytes([EDGE]))
        return self._all[start : start + n_bytes]

    async def tensor(self, source, offset, n_bytes):
        """As a store reads one: widened to whole blocks."""
        start = offset // BLOCK * BLOCK
        end = min(-(-(offset + n_bytes) // BLOCK) * BLOCK, source.size)
        return (await self.read(source, start, end - start))[offset - start : offset - start + n_bytes]


async def check_tensors(source):
    """At every place that an alignment of 32 allows in a block, of lengths up to and over a block, and up to the file's end."""
    frame = Frame(len(DATA) + BLOCK)
    for residue in range(0, BLOCK, 32):
        for offset, n_bytes in [
            (residue, 32), (BLOCK + residue, BLOCK - residue), (residue, BLOCK - residue + 1), (residue, 3 * BLOCK + 18),
            (2 * BLOCK + residue, len(DATA) - 2 * BLOCK - residue), (len(DATA) - 777 - BLOCK + residue, 600),
        ]:
            assert await frame.tensor(source, offset, n_bytes) == DATA[offset : offset + n_bytes]


@pytest.mark.parametrize("piece_bytes", [2 * BLOCK, module.PIECE_BYTES])
def test_tensors_at_every_place_come_directly(path, direct_reads, monkeypatch, piece_bytes):
    """All but the file's last, short block."""
    monkeypatch.setattr(module, "PIECE_BYTES", piece_bytes)

    async def check():
        source = await opened(path)
        assert source.block == BLOCK
        direct_reads.clear()
        await check_tensors(source)
        assert {offset % BLOCK for offset, _ in direct_reads} == {n % BLOCK for _, n in direct_reads} == {0}
        direct_reads.clear()
        await Frame(len(DATA)).tensor(source, 0, len(DATA))
        assert sum(n for _, n in direct_reads) == len(DATA) - 777
        assert len(direct_reads) == (1 if piece_bytes > len(DATA) else 40)
        await source.close()

    run(check())


@pytest.mark.parametrize("way", ["refused when opened", "refused by name too", "refused when probed", "refused when read"])
def test_tensors_where_direct_reads_are_refused(path, direct_reads, monkeypatch, caplog, way):
    async def check():
        if way == "refused when opened":
            refuse_to_open(monkeypatch)
        elif way == "refused by name too":
            monkeypatch.setattr(os.path, "samestat", lambda a, b: False)
        elif way == "refused when probed":
            direct_reads.fail = errno.EINVAL
        source = await opened(path, direct=way == "refused when read")
        direct_reads.clear()
        direct_reads.fail = errno.EINVAL
        await check_tensors(source)
        assert source.block == 1
        assert not direct_reads
        direct_reads.fail = None                                 # once refused, it is not tried again
        await check_tensors(source)
        assert not direct_reads
        await source.close()

    with caplog.at_level(logging.WARNING, "wasmrt"):
        run(check())
    said = [record.getMessage() for record in caplog.records]
    if way == "refused when read":
        (message,) = said
        assert repr(str(path)) in message
        assert os.strerror(errno.EINVAL) in message
    else:
        assert not said


def test_several_refusals_are_one_warning(path, direct_reads, monkeypatch, caplog):
    together = threading.Barrier(4)
    stop_direct = FileSource._stop_direct

    def all_at_once(self, error, offset):
        together.wait(20)
        stop_direct(self, error, offset)

    monkeypatch.setattr(FileSource, "_stop_direct", all_at_once)

    async def check():
        source = await opened(path)
        direct_reads.fail = errno.EINVAL
        got = await asyncio.gather(*(Frame(BLOCK).read(source, i * BLOCK, BLOCK) for i in range(4)))
        assert b"".join(got) == DATA[: 4 * BLOCK]
        await source.close()

    with caplog.at_level(logging.WARNING, "wasmrt"):
        run(check())
    assert len(caplog.records) == 1


def test_tensors_from_memory_as_a_file_system(direct_reads):
    """tmpfs refuses direct reads, or takes them and does otherwise, by the kernel's age."""
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm here")
    path = written(f"/dev/shm/wasmrt-test-{os.getpid()}")

    async def check():
        source = await opened(path, direct=False)
        await check_tensors(source)
        await source.close()

    try:
        run(check())
    finally:
        os.unlink(path)


@given(
    offset=st.integers(0, len(DATA)) | st.integers(0, 48).map(lambda i: i * BLOCK),
    n_bytes=st.integers(0, len(DATA)) | st.integers(0, 48).map(lambda i: i * BLOCK),
    shift=st.integers(0, BLOCK - 1) | st.just(0),
)
def test_any_range_to_any_address(tmp_path_factory, offset, n_bytes, shift):
    """What is not aligned goes another way, and the bytes around the view are not touched."""
    path = tmp_path_factory.getbasetemp() / "any-range"
    if not path.exists():
        written(path)
    n_bytes = min(n_bytes, len(DATA) - offset)

    async def check():
        source = await opened(path)
        assert await Frame(len(DATA)).read(source, offset, n_bytes, shift) == DATA[offset : offset + n_bytes]
        assert source.block == BLOCK                             # nothing was tried that is refused
        await source.close()

    run(check())


def test_short_direct_reads_are_continued(path, direct_reads):
    """At a block's edge directly, elsewhere not."""

    async def check():
        source = await opened(path)
        for limit in (BLOCK, 4 * BLOCK):
            direct_reads.limit = limit
            assert await Frame(len(DATA)).read(source, 0, len(DATA)) == DATA
        assert {n for _, n in direct_reads} == {BLOCK, 4 * BLOCK}
        await source.close()

    run(check())


def test_many_reads_at_once(path, direct_reads):
    async def check():
        source = await opened(path)
        direct_reads.clear()
        await asyncio.gather(*(check_tensors(source) for _ in range(3)))
        assert direct_reads
        await source.close()

    run(check())


# The page cache


def pages_kept(path):
    """How many of the file's pages lie in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mincore"):
        pytest.skip("no mincore here")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        kept = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        address = ctypes.c_void_p(module.address_of(memoryview(mapped)))
        if libc.mincore(address, ctypes.c_size_t(len(mapped)), kept):
            pytest.skip(f"mincore failed: {os.strerror(ctypes.get_errno())}")
    return sum(page & 1 for page in kept)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("way", ["direct", "buffered"])
def test_the_page_cache_keeps_nothing(path, monkeypatch, way, shift):
    """Whole, the end, and in small parts."""

    async def check():
        if way == "buffered":
            refuse_to_open(monkeypatch)
        source = await FileSource.open(path)
        await Frame(len(DATA)).read(source, 0, len(DATA))
        if pages_kept(path) < len(DATA) // mmap.PAGESIZE:
            pytest.skip("this file system keeps nothing, or does not say so")
        await source.bypass_cache()
        assert (source.block == 1) == (way == "buffered")
        assert pages_kept(path) == 0
        frame = Frame(len(DATA))
        assert await frame.read(source, 0, len(DATA), shift) == DATA
        assert pages_kept(path) == 0
        assert await frame.read(source, len(DATA) - 100, 100) == DATA[-100:]
        assert pages_kept(path) == 0
        for offset in range(shift, len(DATA) // 2, BLOCK):       # one after the other: the kernel would read ahead
            assert await frame.read(source, offset, BLOCK, shift) == DATA[offset : offset + BLOCK]
            assert pages_kept(path) == 0
        await source.close()

    run(check())


# Files that change, and the end


def cut(path):
    os.truncate(path, PAGE)


def grow(path):
    with open(path, "ab") as file:
        file.write(b"more")


def overwrite(path):
    with open(path, "r+b") as file:
        file.write(b"other")


@pytest.mark.parametrize(("change", "words"), [(cut, f"and has {PAGE} now"), (grow, "now"), (overwrite, "modification")])
def test_a_file_changed_in_place(path, change, words):
    async def check():
        source = await opened(path)
        frame = Frame(len(DATA))
        assert await frame.read(source, 0, len(DATA)) == DATA
        change(path)
        for offset in (0, PAGE - BLOCK, 2 * PAGE):               # before, across and past the cut
            with pytest.raises(SourceError, match=f"changed while it was in use.* offset {offset}: .*{words}"):
                await frame.read(source, offset, 2 * BLOCK)
        await source.close()

    run(check())


@pytest.mark.parametrize("proc", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_replaced_by_another_is_never_mixed_in(path, monkeypatch, proc, when):
    """Also where the second descriptor can only be had by name."""
    real_open = os.open

    def without_proc(name, flags, *args, **kwargs):
        if str(name).startswith("/proc/"):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return real_open(name, flags, *args, **kwargs)

    def replace():
        other = path.parent / "other"
        other.write_bytes(bytes(len(DATA)))
        os.replace(other, path)

    async def check():
        await (await opened(path)).close()                       # a skip where there are no direct reads
        if not proc:
            monkeypatch.setattr(os, "open", without_proc)
        source = await FileSource.open(path)
        if when == "before":
            replace()
        await source.bypass_cache()
        assert source.block == (1 if when == "before" and not proc else BLOCK)
        if when == "after":
            replace()
        await check_tensors(source)
        await source.close()

    run(check())


def test_a_drive_that_fails(path, direct_reads):
    """Not a refusal: the cache would only hide it."""

    async def check():
        source = await opened(path)
        direct_reads.fail = errno.EIO
        with pytest.raises(SourceError, match=f"offset {BLOCK} of .*{os.strerror(errno.EIO)}"):
            await Frame(len(DATA)).read(source, BLOCK, BLOCK)
        direct_reads.fail = None
        assert source.block == BLOCK
        await check_tensors(source)
        await source.close()

    run(check())


def test_asking_again_changes_nothing_and_close_closes_all(path):
    async def check():
        source = await opened(path)
        number = source._direct.fileno()
        await asyncio.gather(*(source.bypass_cache() for _ in range(5)))
        assert source._direct.fileno() == number
        assert not os.get_inheritable(number)
        await source.close()
        assert source._direct.closed
        assert source._file.closed
        with pytest.raises(SourceError, match="closed"):
            await source.bypass_cache()
        memory = MemorySource(DATA)
        await memory.bypass_cache()                              # has nothing to pass by
        assert memory.block == 1

    run(check())


def test_an_empty_file(tmp_path):
    (tmp_path / "empty").touch()

    async def check():
        source = await FileSource.open(tmp_path / "empty")
        await source.bypass_cache()
        await source.read_into(0, memoryview(bytearray()))
        await source.close()

    run(check())


@pytest.mark.parametrize(("platform", "asked"), [("darwin", [48]), ("win32", []), ("emscripten", [])])
def test_other_systems(path, monkeypatch, platform, asked):
    """macOS is told once for all reads; the others are not told. (Simulated: what is asked, not what it does.)"""
    calls = []

    async def check():
        source = await FileSource.open(path)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", platform)
            patch.setattr(fcntl, "F_NOCACHE", 48, raising=False)
            patch.setattr(fcntl, "fcntl", lambda fd, command, value: calls.append(command))
            patch.delattr(os, "posix_fadvise")
            await source.bypass_cache()
            await check_tensors(source)
        assert source.block == 1
        await source.close()

    run(check())
    assert calls == asked
