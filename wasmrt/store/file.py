"""FileSource: a local file, read by position in worker threads."""

import asyncio
import io
import os
import stat
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from wasmrt.errors import SourceError
from wasmrt.store.source import check_arguments, closed_error

# A thread that reads cannot be interrupted: this bounds how long a cancelled read still takes.
PIECE_BYTES = 8 << 20
# Reads in flight on one file. Drives reach their speed with a few large ones.
READERS = 4

P = ParamSpec("P")
R = TypeVar("R")


class FileSource:
    """A local file, read by position in worker threads: the event loop goes on, and reads overlap.

    No mmap: there a file cut short under us kills the process, here it is a SourceError. A file that is replaced by rename or
    deleted stays readable; one that is written in place is noticed by its size or its time of modification after every read.
    (The clock behind the latter ticks every few milliseconds: a write in the same tick as the file's last one goes unseen.)
    """

    block = 1

    def __init__(self, name: str, file: io.FileIO, pool: Executor) -> None:
        """Use `open`."""
        self.name = name
        self._file = file
        self._opened = os.fstat(file.fileno())
        self.size = self._opened.st_size
        self._pool = pool
        self._jobs: set[Future[None]] = set()
        self._seek_lock = threading.Lock()
        self._closed = False

    @classmethod
    async def open(cls, path: str | os.PathLike[str]) -> "FileSource":
        """Open a regular file. Raises SourceError for anything else: missing, unreadable, a directory, a pipe, a device."""
        name = os.fsdecode(path)
        pool = Inline() if sys.platform == "emscripten" else ThreadPoolExecutor(READERS, "wasmrt-read")
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
        pass

    async def read_into(self, offset: int, view: memoryview) -> None:
        with view.cast("B") as flat:
            check_arguments(self, offset, flat)
            for start in range(0, max(1, len(flat)), PIECE_BYTES):
                if self._closed:
                    raise closed_error(self)
                with flat[start : start + PIECE_BYTES] as piece:
                    job = self._pool.submit(self._read_piece, offset + start, piece)
                    self._jobs.add(job)
                    try:
                        await finish(job)
                    finally:
                        self._jobs.discard(job)
                if job.cancelled():
                    raise closed_error(self)
                job.result()

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
            self._pool.shutdown(wait=False)

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
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [view], offset)
        if hasattr(os, "pread"):
            data = os.pread(self._file.fileno(), len(view), offset)
            view[: len(data)] = data
            return len(data)
        with self._seek_lock:  # Windows: the file has one position
            self._file.seek(offset)
            return self._file.readinto(view) or 0


class Inline(Executor):
    """Runs a call at once and lets its error out: Python in a page has no threads, and the files it sees are in memory."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        future: Future[R] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


async def finish(*jobs: Future[Any]) -> None:
    """Wait until all jobs are done, however they end.

    Being cancelled meanwhile does not shorten that, because threads may be writing to a caller's buffer: it only drops the jobs
    that have not started, and is raised at the end.
    """
    waiters = [asyncio.wrap_future(job) for job in jobs]
    cancelled = False
    while not all(waiter.done() for waiter in waiters):
        try:
            await asyncio.wait(waiters)
        except asyncio.CancelledError:
            cancelled = True
            for job in jobs:
                job.cancel()
    for waiter in waiters:
        if not waiter.cancelled():
            waiter.exception()  # looked at: asyncio complains about one that nobody saw
    if cancelled:
        raise asyncio.CancelledError


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
