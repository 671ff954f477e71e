"""FileSource: a local file, read by position in worker threads, around the system's page cache where that is wanted."""

import asyncio
import contextlib
import errno
import io
import logging
import os
import stat
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from wasmrt.errors import SourceError
from wasmrt.store.source import check_arguments, closed_error

log = logging.getLogger("wasmrt")

# A thread that reads cannot be interrupted: this bounds how long a cancelled read still takes. A multiple of BLOCK.
PIECE_BYTES = 8 << 20
# Reads in flight on one file. Drives reach their speed with a few large ones.
READERS = 8
# What direct reads keep to, in the file and in memory. Drives ask for their sector, 512 or 4096 bytes.
BLOCK = 4096
# How a file system or drive says that it cannot read directly.
REFUSALS = (errno.EINVAL, errno.ENOTSUP)
# The page cache drops whole pages. They are larger than a block on some machines; none has larger ones than these.
PAGE = 64 << 10

P = ParamSpec("P")
R = TypeVar("R")


class FileSource:
    """A local file, read by position in worker threads: the event loop goes on, and reads overlap.

    No mmap: there a file cut short under us kills the process, here it is a SourceError. A file that is replaced by rename or
    deleted stays readable; one that is written in place is noticed by its size or its time of modification after every read.
    (The clock behind the latter ticks every few milliseconds: a write in the same tick as the file's last one goes unseen.)

    After `bypass_cache`, what lies at multiples of BLOCK goes from the drive to the caller's memory (O_DIRECT); the rest of a
    read, and all of it where the file system cannot do that, passes through the page cache and is dropped from there at once.
    """

    def __init__(self, name: str, file: io.FileIO, pool: Executor) -> None:
        """Use `open`."""
        self.name = name
        self._file = file
        self._opened = os.fstat(file.fileno())
        self.size = self._opened.st_size
        self._pool = pool
        self._jobs: set[Future[None]] = set()
        self._seek_lock = threading.Lock()
        self._bypass_lock = threading.Lock()
        self._bypassing = False
        self._direct: io.FileIO | None = None  # the same file, open for direct reads; used while block is BLOCK
        self.block = 1
        self._closed = False

    @classmethod
    async def open(cls, path: str | os.PathLike[str]) -> "FileSource":
        """Open a regular file. Raises SourceError for anything else: missing, unreadable, a directory, a pipe, a device."""
        name = os.fsdecode(path)
        pool = ThreadPoolExecutor(READERS, "wasmrt-read")
        job = pool.submit(open_regular, name)
        try:
            await finish(job)
            return cls(name, job.result(), pool)
        except BaseException:
            if not job.cancelled() and job.exception() is None:
                job.result().close()
            pool.shutdown(wait=False)
            raise

    async def bypass_cache(self) -> None:
        await self._in_thread(self._bypass)

    async def read_into(self, offset: int, view: memoryview) -> None:
        with view.cast("B") as flat:
            check_arguments(self, offset, flat)
            for start in range(0, max(1, len(flat)), PIECE_BYTES):
                with flat[start : start + PIECE_BYTES] as piece:
                    await self._in_thread(self._read_piece, offset + start, piece)

    async def close(self) -> None:
        self._closed = True
        jobs = list(self._jobs)
        for job in jobs:
            job.cancel()  # one that waits for a thread
        try:
            # A file number that is closed under a read may by then be another file's: that read would return wrong bytes.
            await finish(*jobs)
        finally:
            self._file.close()
            if self._direct:
                self._direct.close()
            self._pool.shutdown(wait=False)

    async def _in_thread(self, work: Callable[P, None], /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self._closed:
            raise closed_error(self)
        job = self._pool.submit(work, *args, **kwargs)
        self._jobs.add(job)
        try:
            await finish(job)
        finally:
            self._jobs.discard(job)
        if job.cancelled():
            raise closed_error(self)
        job.result()

    def _bypass(self) -> None:
        """In a worker thread: choose how later reads pass by the page cache. Windows has no way that a plain file allows."""
        with self._bypass_lock:
            if self._bypassing:
                return
            self._bypassing = True
            if sys.platform == "darwin":
                import fcntl

                with contextlib.suppress(OSError):  # advice, which not every file system takes
                    fcntl.fcntl(self._file.fileno(), fcntl.F_NOCACHE, 1)
            elif sys.platform == "linux":
                self._direct = open_direct(self._file, self.name)
                self.block = BLOCK if self._direct else 1
                # Random: else a buffered read would bring in what follows it, which nobody then drops.
                self._advise(0, 0, os.POSIX_FADV_RANDOM)
                self._advise(0, 0, os.POSIX_FADV_DONTNEED)

    def _advise(self, offset: int, n_bytes: int, advice: int) -> None:
        with contextlib.suppress(OSError):  # of no effect on some file systems, an error on others
            os.posix_fadvise(self._file.fileno(), offset, n_bytes, advice)

    def _read_piece(self, offset: int, view: memoryview) -> None:
        """In a worker thread: fill `view`, then make sure that it is still the file that was opened."""
        done = 0
        try:
            while done < len(view):
                with view[done:] as rest:  # or the traceback of an error would keep the caller's buffer from being resized
                    n = self._read_at(offset + done, rest)
                if n == 0:
                    break
                done += n
            if self._bypassing and sys.platform == "linux":
                # Direct reads too: some file systems take the flag and go through the cache all the same.
                start = offset // PAGE * PAGE
                self._advise(start, -(-(offset + done) // PAGE) * PAGE - start, os.POSIX_FADV_DONTNEED)
            now = os.fstat(self._file.fileno())
        except OSError as error:
            raise SourceError(
                f"reading {len(view)} bytes at offset {offset + done} of {self.name!r} failed: {error.strerror or error}; "
                f"check the drive or the connection to it"
            ) from error
        was = self._opened
        changed = ""
        if now.st_size != was.st_size:
            changed = f"it had {was.st_size} bytes when it was opened and has {now.st_size} now"
        elif now.st_mtime_ns != was.st_mtime_ns:
            changed = f"its time of modification was {was.st_mtime_ns} ns when it was opened and is {now.st_mtime_ns} ns now"
        if changed:
            raise SourceError(
                f"{self.name!r} changed while it was in use, seen when reading {len(view)} bytes at offset {offset}: "
                f"{changed}; open it again once nothing writes to it"
            )
        if done < len(view):
            raise SourceError(
                f"{self.name!r} gave no bytes at offset {offset + done}, but should have {self.size}; check the drive or the "
                f"connection to it"
            )

    def _read_at(self, offset: int, view: memoryview) -> int:
        """One system call that reads at most all of `view`; the number of bytes it read, 0 at the end of the file."""
        n_direct = len(view) // BLOCK * BLOCK  # a file's last block may be less: a direct read would write past the view
        if self._direct and self.block == BLOCK and n_direct and offset % BLOCK == 0 and address_of(view) % BLOCK == 0:
            try:
                with view[:n_direct] as blocks:
                    return os.preadv(self._direct.fileno(), [blocks], offset)
            except OSError as error:
                if error.errno not in REFUSALS:
                    raise
                self._stop_direct(error, offset)
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [view], offset)
        if hasattr(os, "pread"):
            data = os.pread(self._file.fileno(), len(view), offset)
            view[: len(data)] = data
            return len(data)
        with self._seek_lock:  # Windows: the file has one position
            self._file.seek(offset)
            return self._file.readinto(view) or 0

    def _stop_direct(self, error: OSError, offset: int) -> None:
        """Read through the cache from now on. The descriptor stays open: other threads may be reading from it."""
        with self._bypass_lock:
            first, self.block = self.block == BLOCK, 1
        if first:
            log.warning(
                "%r refused a direct read at offset %d (%s); reading through the system's cache, which may be slower",
                self.name, offset, error.strerror,
            )


async def finish(*jobs: Future[Any]) -> None:
    """Wait until all jobs are done, however they end.

    Being cancelled meanwhile does not shorten that, because threads may be writing to a caller's buffer: it only drops the jobs
    that have not started, and is raised at the end.
    """
    cancelled = False
    for job in jobs:
        while not job.done():
            try:
                await _done(job)
            except asyncio.CancelledError:
                cancelled = True
                for other in jobs:
                    other.cancel()
    if cancelled:
        raise asyncio.CancelledError


def _done(job: Future[Any]) -> "asyncio.Future[None]":
    """A future for the event loop that follows a job's end. asyncio's own tools take twice as many turns of the loop."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def tell() -> None:
        if not done.done():
            done.set_result(None)

    def ended(_: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(tell)

    job.add_done_callback(ended)
    return done


def open_regular(name: str) -> io.FileIO:
    """Open for reading without ever waiting: a pipe that nobody writes to, or a terminal, would block an ordinary open."""
    no_wait = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        # FileIO's own flags keep Windows from translating line ends and child processes from inheriting the file.
        file = io.FileIO(name, opener=lambda path, flags: os.open(path, flags | no_wait))
    except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in the path
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"cannot open {name!r}: {reason}; give the path of a readable GGUF file") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise SourceError(f"cannot open {name!r}: it is a pipe or a device; give the path of a regular file")
    return file


def open_direct(file: io.FileIO, name: str) -> io.FileIO | None:
    """The file that `file` has open, once more and for direct reads; None where a direct read does not work."""
    import mmap

    flags = os.O_DIRECT | os.O_NONBLOCK | os.O_NOCTTY
    # The first works for a file that is renamed or deleted by now, the second where /proc is not there.
    for path in (f"/proc/self/fd/{file.fileno()}", name):
        with contextlib.suppress(OSError):
            direct = io.FileIO(path, opener=lambda path, base: os.open(path, base | flags))
            try:
                # By name it may be another file now. And some file systems refuse only when they are read from.
                if os.path.samestat(os.fstat(direct.fileno()), os.fstat(file.fileno())):
                    with mmap.mmap(-1, BLOCK) as block:
                        os.preadv(direct.fileno(), [block], 0)
                    return direct
            except BaseException:
                direct.close()
                raise
            direct.close()
    return None


def address_of(view: memoryview) -> int:
    """Where a writable view that is not empty lies in memory."""
    import ctypes  # takes a while, and only direct reads need it

    return ctypes.addressof(ctypes.c_char.from_buffer(view))
