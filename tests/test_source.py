"""Byte sources: every range is right, and a file that changes, ends or blocks is a typed error, never wrong bytes or a hang."""

import asyncio
import ctypes
import errno
import gc
import os
import socket
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmrt.errors import SourceError, UnsupportedError
from wasmrt.store import file as module
from wasmrt.store.file import FileSource
from wasmrt.store.source import MemorySource, Source, open_source

DATA = bytes(i * 7 % 251 for i in range(1000))
AN_HOUR_AGO = time.time() - 3600

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


def run(coroutine):
    """Bounded, so that a hang fails."""
    return asyncio.run(asyncio.wait_for(coroutine, 20))


async def read(source: Source, offset: int, n_bytes: int) -> bytes:
    buffer = bytearray(n_bytes)
    await source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def is_closed(source: FileSource) -> bool:
    return source._file.closed


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(DATA)
    os.utime(path, (AN_HOUR_AGO, AN_HOUR_AGO))                   # so that any write changes the time of modification
    return path


@pytest.fixture(params=["preadv", "pread", "seek"])
def system_call(request, monkeypatch):
    """Each way of reading by position, however this machine would choose."""
    if request.param != "seek" and not hasattr(os, request.param):
        pytest.skip(f"no os.{request.param} here")
    for name in {"preadv": (), "pread": ("preadv",), "seek": ("preadv", "pread")}[request.param]:
        monkeypatch.delattr(os, name, raising=False)
    return request.param


@pytest.fixture
def gate(monkeypatch):
    """Reads of a FileSource wait in their threads until `gate.open` is set; `gate.waiting` counts those that do."""
    read_at = FileSource._read_at

    class Gate:
        open = threading.Event()
        waiting = threading.Semaphore(0)

        async def wait_for(self, n):
            assert await asyncio.to_thread(lambda: all(self.waiting.acquire(timeout=20) for _ in range(n)))

    def gated(self, offset, view):
        Gate.waiting.release()
        assert Gate.open.wait(20)
        return read_at(self, offset, view)

    monkeypatch.setattr(FileSource, "_read_at", gated)
    yield Gate()
    Gate.open.set()


# Reading


@given(offset=st.integers(0, len(DATA)), n_bytes=st.integers(0, len(DATA)))
def test_every_range_of_memory(offset, n_bytes):
    n_bytes = min(n_bytes, len(DATA) - offset)
    assert run(read(MemorySource(DATA), offset, n_bytes)) == DATA[offset : offset + n_bytes]


def test_every_range_of_a_file(path, system_call, monkeypatch):
    """Pieces of 64 bytes: most ranges take several, many end on a piece's edge."""
    monkeypatch.setattr(module, "PIECE_BYTES", 64)

    async def check():
        source = await FileSource.open(path)
        assert source.size == len(DATA)
        assert source.name == str(path)
        for offset in (0, 1, 63, 64, 500, 999, 1000):
            for n_bytes in (0, 1, 63, 64, 65, 128, 500, 1000):
                if offset + n_bytes <= len(DATA):
                    assert await read(source, offset, n_bytes) == DATA[offset : offset + n_bytes]
        await source.close()

    run(check())


def test_many_reads_at_once(path, system_call):
    """One position shared by all threads must not mix them up."""

    async def check():
        source = await FileSource.open(path)
        got = await asyncio.gather(*(read(source, i, 100 + i) for i in range(200)))
        assert got == [DATA[i : 100 + 2 * i] for i in range(200)]
        assert not source._jobs                                  # what is done is forgotten
        await source.close()

    run(check())


def test_seeking_and_reading_are_one_step(path, monkeypatch):
    """Where there is no positioned read; a slow seek makes the race certain."""

    class SlowSeek:
        def __init__(self, file):
            self.fileno, self.readinto, self.close, self._seek = file.fileno, file.readinto, file.close, file.seek

        def seek(self, offset):
            self._seek(offset)
            time.sleep(0.002)

    monkeypatch.delattr(os, "preadv", raising=False)
    monkeypatch.delattr(os, "pread", raising=False)

    async def check():
        source = await FileSource.open(path)
        slow: Any = SlowSeek(source._file)
        source._file = slow
        got = await asyncio.gather(*(read(source, 10 * i, 10) for i in range(20)))
        assert got == [DATA[10 * i : 10 * i + 10] for i in range(20)]
        await source.close()

    run(check())


def test_only_the_view_is_written(path, system_call):
    async def check():
        buffer = bytearray(b"\xee" * 30)
        for source in (await FileSource.open(path), MemorySource(DATA)):
            buffer[:] = b"\xee" * 30
            await source.read_into(100, memoryview(buffer)[10:20])
            assert buffer == b"\xee" * 10 + DATA[100:110] + b"\xee" * 10
            await source.close()

    run(check())


def test_offsets_past_4_gib(tmp_path, system_call):
    """A sparse file: marks on both sides of 2**32 and at the end."""
    path = tmp_path / "sparse"
    marks = {0: b"start", 2**32 - 3: b"across", 2**32 + 12345: b"past", 5 * 2**30 - 3: b"end"}
    with open(path, "wb") as file:
        for offset, mark in marks.items():
            file.seek(offset)
            file.write(mark)

    async def check():
        source = await FileSource.open(path)
        assert source.size == 5 * 2**30
        for offset, mark in marks.items():
            assert await read(source, offset, len(mark)) == mark
        await source.close()

    run(check())


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="no os.preadv here")
def test_short_reads_are_continued(path, monkeypatch):
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: preadv(fd, [views[0][:7]], offset))

    async def check():
        source = await FileSource.open(path)
        assert await read(source, 3, 900) == DATA[3:903]
        await source.close()

    run(check())


def test_large_reads_go_in_pieces(path, monkeypatch):
    """The bound on how long a cancelled read may take."""
    sizes = []
    read_at = FileSource._read_at

    def counted(self, offset, view):
        sizes.append(len(view))
        return read_at(self, offset, view)

    monkeypatch.setattr(FileSource, "_read_at", counted)
    with open(path, "r+b") as file:
        file.truncate(20 << 20)

    async def check():
        source = await FileSource.open(path)
        assert (await read(source, 0, 20 << 20))[: len(DATA)] == DATA
        await source.close()

    run(check())
    assert sizes == [8 << 20, 8 << 20, 4 << 20]


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_views_of_any_format(path, kind):
    """Linear memory may come as a ctypes array, a tensor as floats."""

    async def check():
        source = await FileSource.open(path) if kind == "file" else MemorySource(DATA)
        array = (ctypes.c_ubyte * 16)()
        await source.read_into(4, memoryview(array))
        assert bytes(array) == DATA[4:20]
        floats: Any = memoryview(bytearray(16)).cast("f")
        await source.read_into(4, floats)
        assert bytes(floats) == DATA[4:20]
        await source.close()

    run(check())


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_wrong_arguments_are_value_errors(path, kind):
    async def check():
        source = await FileSource.open(path) if kind == "file" else MemorySource(DATA)
        for offset, n_bytes in [(-1, 1), (-1, 0), (1000, 1), (1001, 0), (999, 2), (0, 1001), (2**64, 1)]:
            with pytest.raises(ValueError, match="are not all in"):
                await read(source, offset, n_bytes)
        with pytest.raises(ValueError, match="read-only"):
            await source.read_into(0, memoryview(bytes(4)))
        assert await read(source, 998, 2) == DATA[998:]
        await source.close()

    run(check())


def test_memory_is_shared_until_closed():
    data = bytearray(b"abcd")
    source = MemorySource(data)
    with pytest.raises(BufferError):
        data.append(1)
    run(source.close())
    data.append(1)


# Files that change or fail


def assert_one_line(error, *words):
    message = str(error)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def cut(path):
    os.truncate(path, 600)


def grow(path):
    with open(path, "ab") as file:
        file.write(b"more")


def overwrite(path):
    with open(path, "r+b") as file:
        file.write(b"other")


@pytest.mark.parametrize(("change", "words"), [
    (cut, ["1000 bytes", "600 now"]),
    (grow, ["1000 bytes", "1004 now"]),
    (overwrite, ["time of modification"]),
])
def test_a_file_changed_in_place(path, system_call, change, words):
    async def check():
        source = await FileSource.open(path)
        assert await read(source, 0, 10) == DATA[:10]
        change(path)
        for offset in (0, 595, 700):                             # before, across and past the cut
            with pytest.raises(SourceError) as caught:
                await read(source, offset, 10)
            assert_one_line(caught.value, repr(str(path)), f"offset {offset}", *words)
        await source.close()

    run(check())


def test_a_file_cut_short_between_two_pieces(path, monkeypatch):
    monkeypatch.setattr(module, "PIECE_BYTES", 100)
    read_at = FileSource._read_at

    def cut_at_300(self, offset, view):
        if offset == 300:
            os.truncate(path, 350)
        return read_at(self, offset, view)

    monkeypatch.setattr(FileSource, "_read_at", cut_at_300)

    async def check():
        source = await FileSource.open(path)
        with pytest.raises(SourceError, match=r"offset 300: it had 1000 bytes .* has 350 now"):
            await read(source, 0, 1000)
        await source.close()

    run(check())


@posix
def test_a_file_replaced_or_deleted_is_still_the_one_that_was_opened(path, tmp_path):
    async def check():
        source = await FileSource.open(path)
        (tmp_path / "new").write_bytes(b"x" * 1000)
        os.replace(tmp_path / "new", path)
        assert await read(source, 0, 1000) == DATA
        path.unlink()
        assert await read(source, 0, 1000) == DATA
        await source.close()

    run(check())


@pytest.mark.parametrize("broken", ["error", "ends early"])
def test_a_drive_that_fails(path, monkeypatch, broken):
    def fail(self, offset, view):
        if broken == "error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return 0

    async def check():
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        source = await FileSource.open(path)
        with monkeypatch.context() as patch:
            patch.setattr(FileSource, "_read_at", fail)
            buffer = bytearray(10)
            with memoryview(buffer) as view, pytest.raises(SourceError) as caught:
                await source.read_into(5, view)
            what = os.strerror(errno.EIO) if broken == "error" else "no bytes"
            assert_one_line(caught.value, repr(str(path)), "offset 5", what)
            buffer.append(0)                                     # the error's traceback holds no view of it
        assert await read(source, 5, 10) == DATA[5:15]           # and the source is usable
        gc.collect()
        assert not complaints                                    # of an error "never retrieved"
        await source.close()

    run(check())


# Opening


@posix
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Timer(5, lambda: os.close(os.open(tmp_path / "pipe", os.O_RDWR)))  # ends the wait, were there one
    writer.start()
    with pytest.raises(SourceError) as caught:
        run(FileSource.open(tmp_path / "pipe"))
    assert writer.is_alive()
    writer.cancel()
    writer.join()
    assert_one_line(caught.value, "pipe", "regular file")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_devices_are_refused(device):
    if not os.path.exists(device):
        pytest.skip(f"no {device} here")
    with pytest.raises(SourceError) as caught:
        run(FileSource.open(device))
    assert_one_line(caught.value, device)


@posix
def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)                                  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        with pytest.raises(SourceError) as caught:
            run(FileSource.open("s"))
    assert_one_line(caught.value, "'s'")


@pytest.mark.parametrize("name", ["missing.gguf", ".", "", "a\0b", "model.gguf/x", "new\nline", "\ud800"])
def test_what_cannot_be_opened(path, monkeypatch, name):
    monkeypatch.chdir(path.parent)
    with pytest.raises(SourceError) as caught:
        run(FileSource.open(name))
    assert_one_line(caught.value, f"cannot open {name!r}", "give the path of")


@posix
def test_an_unreadable_file(path):
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(SourceError, match="Permission denied"):
        run(FileSource.open(path))


def test_an_empty_file_is_a_source_of_nothing(tmp_path):
    """What it lacks is the header parser's to say."""
    (tmp_path / "empty").touch()

    async def check():
        source = await FileSource.open(tmp_path / "empty")
        assert source.size == 0
        assert await read(source, 0, 0) == b""
        await source.close()

    run(check())
    assert MemorySource(b"").size == 0


def test_children_do_not_inherit_the_file(path):
    async def check():
        source = await FileSource.open(path)
        assert not os.get_inheritable(source._file.fileno())
        await source.close()

    run(check())


def test_a_cancelled_open_leaves_no_file_open(path, monkeypatch):
    opened, started, gate = [], threading.Event(), threading.Event()
    open_regular = module.open_regular

    def slow_open(name):
        started.set()
        assert gate.wait(20)
        opened.append(open_regular(name))
        return opened[0]

    monkeypatch.setattr(module, "open_regular", slow_open)

    async def check():
        task = asyncio.create_task(FileSource.open(path))
        assert await asyncio.to_thread(started.wait, 20)
        task.cancel()
        await asyncio.sleep(0.01)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(check())
    assert opened[0].closed


# Threads, cancelling, closing


def test_the_event_loop_goes_on_and_four_reads_overlap(path, gate):
    async def check():
        source = await FileSource.open(path)
        reads = [asyncio.create_task(read(source, i, 10)) for i in range(4)]
        await gate.wait_for(4)                                   # all four are in their threads, and this line runs
        gate.open.set()
        assert await asyncio.gather(*reads) == [DATA[i : i + 10] for i in range(4)]
        await source.close()

    run(check())


def test_a_cancelled_read_ends_when_its_thread_has_ended(path, gate, monkeypatch):
    monkeypatch.setattr(module, "PIECE_BYTES", 100)

    async def check():
        source = await FileSource.open(path)
        buffer = bytearray(1000)
        view = memoryview(buffer)
        task = asyncio.create_task(source.read_into(0, view))
        await gate.wait_for(1)
        for _ in range(3):                                       # asking again changes nothing
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()                               # the thread may still write to the buffer
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        view.release()
        buffer[:] = bytes(1000)
        buffer.append(0)                                         # nobody else holds it
        await asyncio.sleep(0.02)
        assert not any(buffer)                                   # nor writes to it
        assert not gate.waiting.acquire(blocking=False)          # only the first piece of ten was read
        assert await read(source, 0, 1000) == DATA
        await source.close()

    run(check())


def test_a_cancelled_read_that_waits_for_a_thread_ends_at_once(path, gate):
    async def check():
        source = await FileSource.open(path)
        busy = [asyncio.create_task(read(source, 0, 10)) for _ in range(module.READERS)]
        await gate.wait_for(module.READERS)
        queued = asyncio.create_task(read(source, 0, 10))
        await asyncio.sleep(0.01)
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(queued, 5)
        gate.open.set()
        await asyncio.gather(*busy)
        await source.close()

    run(check())


def test_a_timeout_works(path, gate):
    """asyncio's own cancelling counts on CancelledError coming back out."""

    async def check():
        source = await FileSource.open(path)
        asyncio.get_running_loop().call_later(0.1, gate.open.set)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await read(source, 0, 10)
        await source.close()

    run(check())


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_reading_after_close(path, kind):
    async def check():
        source = await FileSource.open(path) if kind == "file" else MemorySource(DATA)
        await source.close()
        await source.close()
        for n_bytes in (0, 10):
            with pytest.raises(SourceError) as caught:
                await read(source, 0, n_bytes)
            assert_one_line(caught.value, repr(source.name), "closed")

    run(check())


def test_close_waits_for_the_read_in_flight_and_refuses_the_rest(path, gate, monkeypatch):
    """Else its file number could be given to another file under the read."""
    monkeypatch.setattr(module, "PIECE_BYTES", 100)

    async def check():
        source = await FileSource.open(path)
        single = [asyncio.create_task(read(source, i, 100)) for i in range(module.READERS - 1)]
        several = asyncio.create_task(read(source, 0, 150))
        await gate.wait_for(module.READERS)
        queued = asyncio.create_task(read(source, 0, 10))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(source.close())
        with pytest.raises(SourceError, match="closed"):
            await queued
        assert not closing.done()
        assert not is_closed(source)
        gate.open.set()
        await closing
        assert is_closed(source)
        assert await asyncio.gather(*single) == [DATA[i : i + 100] for i in range(module.READERS - 1)]
        with pytest.raises(SourceError, match="closed"):
            await several

    run(check())


def test_a_cancelled_close_still_closes(path, gate):
    async def check():
        source = await FileSource.open(path)
        reading = asyncio.create_task(read(source, 0, 10))
        await gate.wait_for(1)
        closing = asyncio.create_task(source.close())
        await asyncio.sleep(0.01)
        closing.cancel()
        await asyncio.sleep(0.01)
        assert not is_closed(source)
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert is_closed(source)
        assert await reading == DATA[:10]

    run(check())


def test_threads_end_with_the_source(path):
    async def check():
        before = set(threading.enumerate())
        source = await FileSource.open(path)
        await asyncio.gather(*(read(source, 0, 10) for _ in range(20)))
        readers = set(threading.enumerate()) - before
        assert 1 <= len(readers) <= module.READERS
        await source.close()
        for thread in readers:
            thread.join(10)
            assert not thread.is_alive()

    run(check())


# References


def test_open_source_takes_paths_urls_and_bytes(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    spaced = path.parent / "with space%.gguf"
    spaced.write_bytes(DATA)

    async def check():
        for ref in (str(path), path, "model.gguf", path.as_uri(), path.as_uri().replace("file:///", "FILE://localhost/"),
                    spaced.as_uri(), DATA, bytearray(DATA), memoryview(DATA)):
            source = await open_source(ref)
            assert await read(source, 5, 990) == DATA[5:995]
            await source.close()

    run(check())


@pytest.mark.parametrize("ref", ["s3://bucket/m.gguf?signature=s3cret", "ftp://user:s3cret@example.org/m.gguf"])
def test_other_schemes_are_not_supported(ref):
    with pytest.raises(UnsupportedError) as caught:
        run(open_source(ref))
    assert_one_line(caught.value, "not supported", ref[:3], "/m.gguf'", "download")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("ref", ["file://server/share/m.gguf", "file://m.gguf", "file://localhost", "file://"])
def test_file_urls_of_other_machines(ref):
    with pytest.raises(UnsupportedError, match="file:///absolute/path"):
        run(open_source(ref))


@pytest.mark.parametrize("ref", [None, 3, ["m.gguf"]])
def test_other_references_are_type_errors(ref):
    with pytest.raises(TypeError, match="named by a path"):
        run(open_source(ref))
