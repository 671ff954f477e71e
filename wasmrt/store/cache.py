"""CachedSource: a remote file of which every byte is fetched once and then read from this disk.

open_cached() gives one, or a plain file where everything is there already. Deciding and waiting is done here, in the event
loop; disk_copy.py does what blocks.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, unquote, urlsplit

from wasmrt.errors import SourceError
from wasmrt.store.disk_copy import Copy, CutShort, Identity, Progress, open_copy, sha256_of
from wasmrt.store.file import PIECE_BYTES, READERS, FileSource, finish, open_regular
from wasmrt.store.intervals import Intervals
from wasmrt.store.lock import FileLock
from wasmrt.store.room import Place, Room
from wasmrt.store.source import Fetched, Source, check_arguments, closed_error, fetched_of, outlast, together

log = logging.getLogger("wasmrt")

# The map of what is there is written after so much, or so long after a write: that is what a killed process loses.
SAVE_BYTES = 64 << 20
SAVE_SECONDS = 2.0
# Pieces of one read that are under way at once; the source behind may bound its requests itself.
PARALLEL = 8
NAME_BYTES = 160  # of a file name; file systems take 255, and ours get suffixes

T = TypeVar("T")


class Remote(Source, Protocol):
    """A source that says of which version of which file it gives the bytes."""

    url: str
    etag: str | None
    sha256: str | None
    last_modified: str | None


async def open_cached(inner: Remote, folder: Path, *, keep_free: int | None = None, max_bytes: int | None = None) -> Source:
    """`inner` with a copy in `folder`: a CachedFile if all of it is there, else a CachedSource, or `inner` itself if its bytes
    cannot be kept. keep_free, max_bytes: see Room. On an error `inner` is closed."""
    identity = identity_of(inner)
    if not identity.known:
        log.warning(f"{inner.name!r} is not cached: no ETag and no Last-Modified of its server would show a change")
        return inner
    return await open_at(inner, place_of(folder, identity.url), Room(folder, keep_free, max_bytes))


async def open_at(inner: Remote, place: Place, room: Room) -> Source:
    """The same with a copy at a place of one's own."""
    try:
        while True:
            copy = await _in_thread(lambda: open_copy(place, identity_of(inner), room), undo=Copy.close)
            if copy.whole:
                return await _use_whole(inner, copy)
            source = CachedSource(inner, copy)
            if not copy.writable or source.missing_bytes > 0 or source.size == 0:  # an empty one would start afresh for ever
                return source
            # All was there when it was last closed, but its hash had to wait until someone wants the file.
            if file := await _completed(source):
                await inner.close()
                return file
            if source.trouble:  # the disk fails, but can be read
                return source
            await source.close(close_inner=False)
    except BaseException:
        await inner.close()
        raise


async def _completed(source: "CachedSource") -> "CachedFile | None":
    try:
        return await source.complete(close_inner=False)
    except SourceError as error:
        if isinstance(error, WrongHash):
            log.warning(error)
        return None
    except BaseException:
        await source.close(close_inner=False)
        raise


async def _use_whole(inner: Remote, copy: Copy) -> "CachedFile":
    file = await CachedFile.of(copy, inner.url)
    await inner.close()
    return file


async def hash_of(path: Path, progress: Progress | None = None) -> str:
    """The SHA-256 of a local file in hex. Raises SourceError."""
    stop = threading.Event()

    def read() -> str:
        with open_regular(str(path)) as file:
            return sha256_of(file, path.stat().st_size, stop, progress)

    try:
        return await _in_thread(read, stop=stop)
    except OSError as error:
        raise SourceError(f"cannot read {str(path)!r}: {_reason(error)}; check the disk") from error


def identity_of(inner: Remote) -> Identity:
    return Identity(url_key(inner.url), inner.size, inner.etag, inner.sha256, inner.last_modified)


def url_key(url: str) -> str:
    """The URL without what changes or is secret: credentials, fragment, and the query, which is a signature that expires.

    Where the path names no model file, the query probably does; it stays as a hash.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    key = f"{parts.scheme.lower()}://{host}{parts.path or '/'}"
    if parts.query and not parts.path.lower().endswith(".gguf"):
        key += "?" + hashlib.sha256(parts.query.encode()).hexdigest()[:16]
    return key


def place_of(folder: Path, key: str) -> Place:
    """Files that lie side by side on the server do so here, under their own names: a split model's shards find each other.

    The version is not part of the path, so that a copy is found when its server is not, and a new version replaces the old one.
    """
    above, _, name = key.partition("?")[0].rpartition("/")
    if "?" in key:
        above, name = key, name or "model"
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", above.partition("://")[2])[-60:].strip("-.")
    return Place(folder / f"{slug}-{hashlib.sha256(above.encode()).hexdigest()[:12]}" / file_name(name))


def file_name(name: str) -> str:
    """A name that every system takes, different for different names."""
    safe = quote(unquote(name), safe="+,=@()[] ").strip(" ")
    if len(safe) > NAME_BYTES:
        safe = f"{hashlib.sha256(safe.encode()).hexdigest()[:16]}-{safe[-NAME_BYTES + 17 :]}"
    if re.search(r"(?i)\.(part|map|lock|new|held)$", safe):  # what our own files beside it are called
        safe = "%2E".join(safe.rsplit(".", 1))
    if safe.startswith((".", "-")) or not safe or re.match(r"(?i)(con|prn|aux|nul|com\d|lpt\d) *(\.|$)", safe):
        safe = "_" + safe  # names with a meaning of their own
    return safe.rstrip(".") or "_"


class CachedFile(FileSource):
    """A whole copy, read like any local file. It is not evicted while it is open.

    Its `name` is the URL, as for a CachedSource: by it a split model's other shards are found, which may not be here yet.
    """

    url: str  # where it came from
    path: Path
    etag: str | None
    sha256: str | None
    last_modified: str | None
    _lock: FileLock | None

    @classmethod
    async def of(cls, copy: Copy, url: str) -> "CachedFile":
        """Takes the copy's lock over, also if the file cannot be opened."""
        copy.share()
        lock = copy.take_lock()
        try:
            source = await cls.open(copy.place.path)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        assert isinstance(source, cls)
        source.path, source.url = copy.place.path, url
        source.name = copy.identity.url.partition("?")[0]
        source.etag, source.sha256 = copy.identity.etag, copy.identity.sha256
        source.last_modified = copy.identity.last_modified
        source._lock = lock
        return source

    @property
    def fetched(self) -> Fetched:
        return Fetched(0, self.size)

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            if self._lock is not None:
                self._lock.touch()
                self._lock.release()


class WrongHash(SourceError):
    """All bytes came, but they are not the file that the server names."""


class CachedSource:
    """A file that is partly here. Belongs to the event loop that opened it.

    What is here is read from the disk, the rest is fetched straight into the caller's view and written to the disk before the
    read returns: the view is the caller's afterwards. Copies of it that are written later would pile up where the disk is
    slower than the network. A read's pieces are fetched while others are written (8 MiB: 34 ms to write on a virtual
    machine's disk, 70 ms to fetch at 1 Gbit/s), so that only the last write is waited for.
    """

    block = 1

    def __init__(self, inner: Remote, copy: Copy) -> None:
        """Use `open_cached`."""
        self.name = inner.name
        self.size = inner.size
        self.url = inner.url
        self.path = copy.place.path  # where the file will be once it is whole
        self.trouble = copy.why  # for which nothing more is kept
        self._inner = inner
        self._copy = copy
        self._present = copy.present
        self._coming: dict[tuple[int, int], asyncio.Event] = {}  # what is being fetched to be kept
        self._pool = ThreadPoolExecutor(READERS + 1, "wasmrt-cache")
        self._age = 0  # how often what was here was given up
        self._unsaved = 0
        self._much_unsaved = asyncio.Event()
        self._saver: asyncio.Task[None] | None = None
        self._reads = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._bypass = False
        self._closed = False
        self._end: asyncio.Task[None] | None = None

    @property
    def missing_bytes(self) -> int:
        return self.size - self._present.n_bytes

    @property
    def fetched(self) -> Fetched:
        network = fetched_of(self._inner)
        here = self._present.n_bytes if self._copy.writable or self._present.n_bytes else None
        return Fetched(network.network_bytes if network else 0, here)

    def missing(self) -> list[tuple[int, int]]:
        """The ranges that are not here."""
        return list(self._present.gaps(0, self.size))

    async def shortage(self) -> int:
        """Bytes that the disk lacks for the rest; what nobody uses is deleted for it. 0 if nothing is written anyway."""
        if not self._copy.writable:
            return 0
        try:
            return await _in_thread(lambda: self._copy.shortage(self.missing_bytes))
        except OSError as error:
            self._give_up(error)
            return 0

    async def bypass_cache(self) -> None:
        self._bypass = True
        await self._inner.bypass_cache()

    async def read_into(self, offset: int, view: memoryview) -> None:
        with view.cast("B") as flat:
            check_arguments(self, offset, flat)
            if self._closed:
                raise closed_error(self)
            self._reads += 1
            self._idle.clear()
            try:
                await self._read(offset, flat)
            finally:
                self._reads -= 1
                if self._reads == 0:
                    self._idle.set()

    async def complete(self, progress: Progress | None = None, *, close_inner: bool = True) -> "CachedFile":
        """Check a copy that has all bytes and give the plain file; this source is closed then.

        progress: of computing the hash, (bytes done, bytes in all). Raises WrongHash if the file is not what the server names,
        and SourceError if the disk fails.
        """
        assert self._copy.writable
        assert self.missing_bytes == 0
        await self._settle()
        stop = threading.Event()
        try:
            right = await _in_thread(lambda: self._copy.finish(stop, progress), stop=stop)
        except OSError as error:
            self._give_up(error)
            raise SourceError(f"cannot finish {str(self.path)!r}: {_reason(error)}; check the disk") from error
        if not right:
            self._present = Intervals()
            raise WrongHash(
                f"all of {self.name!r} was fetched, but its SHA-256 is not what the server names, so the copy was deleted; "
                f"fetch it again"
            )
        try:
            return await CachedFile.of(self._copy, self.url)
        finally:
            await self.close(close_inner=close_inner)

    async def close(self, *, close_inner: bool = True) -> None:
        self._closed = True
        if self._end is None:
            self._end = asyncio.create_task(self._close(close_inner))
        await see_through(self._end)

    # Reading

    async def _read(self, offset: int, view: memoryview) -> None:
        pieces = iter(list(_pieces(offset, len(view))))

        async def work() -> None:
            for start, end in pieces:
                with view[start - offset : end - offset] as piece:
                    await self._read_piece(start, piece)

        n_workers = min(PARALLEL, -(-len(view) // PIECE_BYTES))
        if n_workers <= 1:
            await work()
            return
        await together(work() for _ in range(n_workers))

    async def _read_piece(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            if self._closed:
                raise closed_error(self)
            at, end = offset + done, offset + len(view)
            here = min(end, self._present.run_end(at))
            if here > at:
                with view[done : here - offset] as part:
                    if await self._read_from_disk(at, part):
                        done = here - offset
                continue
            if self._copy.writable:
                if coming := next((event for (a, b), event in self._coming.items() if a <= at < b), None):
                    await coming.wait()  # then look again: it may have failed
                    continue
                end = min([end, *(a for a, _ in self._coming if a > at)])
            end = min(end, self._present.next_start(at, end))
            with view[done : end - offset] as part:
                await self._fetch(at, part)
            done = end - offset

    async def _read_from_disk(self, offset: int, view: memoryview) -> bool:
        age = self._age
        job = self._pool.submit(self._copy.read, offset, view)
        await finish(job)
        error = job.exception()
        if error is None:
            if self._bypass:
                self._copy.forget_cached_pages(offset, len(view))
            return age == self._age  # else it may have read where nothing is any more
        if not isinstance(error, OSError):
            raise error
        if age == self._age:
            log.warning(f"what is kept in {str(self._copy.place.part)!r} is fetched anew: {_reason(error)}")
            if isinstance(error, CutShort):
                self._begin_afresh()
            else:
                self._present.remove(offset, offset + len(view))
        return False

    def _begin_afresh(self) -> None:
        self._age += 1
        self._present.remove(0, self.size)
        self._copy.begin_afresh()

    async def _fetch(self, offset: int, view: memoryview) -> None:
        if not self._copy.writable:
            await self._inner.read_into(offset, view)
            return
        span = (offset, offset + len(view))
        self._coming[span] = asyncio.Event()
        try:
            await self._inner.read_into(offset, view)
            if self._copy.writable:
                await self._keep(offset, view)
        finally:
            self._coming.pop(span).set()

    async def _keep(self, offset: int, view: memoryview) -> None:
        age = self._age
        job = self._pool.submit(self._copy.write, offset, view, self.missing_bytes)
        try:
            await finish(job)
        finally:  # also if we are cancelled: what is on the disk is there
            if not job.cancelled() and self._disk_worked(job) and age == self._age:
                self._present.add(offset, offset + len(view))
                self._count_unsaved(len(view))

    def _disk_worked(self, job: Future[None]) -> bool:
        error = job.exception()
        if isinstance(error, CutShort):
            self._begin_afresh()
        if isinstance(error, OSError):
            self._give_up(error)
        elif error is not None:
            raise error
        return error is None

    def _give_up(self, error: OSError) -> None:
        """The disk fails: go on without writing to it. What is there is still read."""
        if self._copy.writable:
            self._copy.writable = False
            self.trouble = _reason(error)
            log.warning(f"no more of {self.name!r} is kept in {str(self.path.parent)!r}: {self.trouble}")

    # Saving the map

    def _count_unsaved(self, n_bytes: int) -> None:
        self._unsaved += n_bytes
        if self._unsaved >= SAVE_BYTES:
            self._much_unsaved.set()
        if self._saver is None or self._saver.done():
            self._saver = asyncio.create_task(self._save_in_time())

    async def _save_in_time(self) -> None:
        while self._unsaved:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_SECONDS):
                    await self._much_unsaved.wait()
            self._much_unsaved.clear()
            self._unsaved = 0
            present = Intervals(self._present)  # as of now: what is written meanwhile may not be flushed
            job = self._pool.submit(self._copy.save, present)
            await finish(job)
            if self._disk_worked(job) and self._bypass:
                self._copy.forget_cached_pages()

    async def _settle(self) -> None:
        """Until nothing reads and everything is saved."""
        await self._idle.wait()
        if self._saver is not None:
            self._much_unsaved.set()
            await self._saver
            self._much_unsaved.clear()

    async def _close(self, close_inner: bool) -> None:
        try:
            if close_inner:
                await self._inner.close()
            await self._settle()
            if self._copy.writable and self.missing_bytes == 0 and not self._copy.identity.sha256:
                await _in_thread(lambda: self._copy.finish(threading.Event()))
        except OSError as error:
            self._give_up(error)
        finally:
            self._copy.close()
            self._pool.shutdown(wait=False)


def _pieces(offset: int, n_bytes: int) -> Iterator[tuple[int, int]]:
    """A read in pieces that end at multiples of their size, so that reads of the same bytes meet in the same pieces."""
    end = offset + n_bytes
    while offset < end:
        stop = min(end, (offset // PIECE_BYTES + 1) * PIECE_BYTES)
        yield offset, stop
        offset = stop


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


async def _in_thread(
    call: Callable[[], T], *, stop: threading.Event | None = None, undo: Callable[[T], None] | None = None
) -> T:
    """Call in a thread of its own. Cancelled: sets `stop`, waits for the call to end, and undoes its result."""
    with ThreadPoolExecutor(1, "wasmrt-cache") as pool:
        job = pool.submit(call)
        waiter = asyncio.wrap_future(job)
        cancelled = await outlast(waiter, stop.set if stop else bool)
        error = waiter.exception()
        if cancelled:
            if error is None and undo is not None:
                undo(waiter.result())
            raise asyncio.CancelledError
        return waiter.result()


async def see_through(task: asyncio.Task[Any]) -> None:
    """Wait until the task is done; being cancelled meanwhile does not shorten that, but is raised at the end."""
    if await outlast(task):
        if not task.cancelled():
            task.exception()
        raise asyncio.CancelledError
    task.result()
