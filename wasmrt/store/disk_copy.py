"""Copy: what of a remote file lies on this disk. Everything here blocks; cache.py calls it from threads.

    model.gguf.part    the bytes that are there, at their places; a sparse file
    model.gguf.map     which ranges those are, and of which file: url, size, etag, sha256, last_modified
    model.gguf.lock    held by the one process that writes, or shared by those that read a whole file
    model.gguf         instead of .part once all bytes are there and, where the hash is known, are the right ones

The map never says more than the disk has: it is written after the bytes were flushed, and replaced as a whole. What a crash
loses is fetched again.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasmrt.store.intervals import Intervals
from wasmrt.store.lock import FileLock
from wasmrt.store.room import Place, Room

log = logging.getLogger("wasmrt")

Progress = Callable[[int, int], None]  # bytes done, bytes in all

FORMAT = 1
MAX_MAP_BYTES = 16 << 20
REPLACE_ATTEMPTS = 5  # Windows refuses to replace a file while someone else reads it
HASH_BYTES = 4 << 20  # in one step, between which it can be stopped
SLOW_TO_HASH = 2 << 30  # bytes: a check of more is announced


@dataclass(frozen=True, slots=True)
class Identity:
    """One version of a remote file. `url` is without secrets."""

    url: str
    size: int
    etag: str | None = None
    sha256: str | None = None
    last_modified: str | None = None

    @property
    def known(self) -> bool:
        """Whether another version could be told from it: an equal size says little."""
        return bool(self.etag or self.sha256 or self.last_modified)

    def same(self, other: "Identity") -> bool:
        """The hash decides where both have one: stores name one content differently. The time, in whole seconds, only where
        there is no ETag."""
        if (self.url, self.size) != (other.url, other.size):
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        if self.etag or other.etag:
            return self.etag == other.etag
        return self.last_modified is not None and self.last_modified == other.last_modified


@dataclass(frozen=True)
class Map:
    """The content of a .map file."""

    identity: Identity
    present: Intervals
    mtime_ns: int | None = None  # of the whole file, set when it was found to be right

    def is_whole(self, path: Path) -> bool:
        """Whether `path` is the file that was once found to be whole and right, unchanged since."""
        try:
            now = path.stat()
        except OSError:
            return False
        return self.mtime_ns is not None and (now.st_size, now.st_mtime_ns) == (self.identity.size, self.mtime_ns)


def read_map(path: Path) -> Map | None:
    """None if there is none, or none that makes sense."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MAP_BYTES + 1)
    except OSError:
        return None
    try:
        return _parse_map(data)
    except (ValueError, TypeError, KeyError, RecursionError):
        log.warning(f"the map of what is cached, {str(path)!r}, is damaged: that file is fetched anew")
        return None


def _parse_map(data: bytes) -> Map:
    if len(data) > MAX_MAP_BYTES:
        raise ValueError
    fields = json.loads(data)
    url, size, etag, sha256, mtime = (fields[name] for name in ("url", "size", "etag", "sha256", "mtime_ns"))
    modified = fields.get("last_modified")
    present = Intervals()
    end = 0
    for a, b in fields["present"]:
        if type(a) is not int or type(b) is not int or not end <= a < b:
            raise ValueError
        present.add(a, b)
        end = b
    texts = isinstance(url, str) and all(isinstance(text, str | None) for text in (etag, sha256, modified))
    numbers = type(size) is int and (mtime is None or type(mtime) is int)
    if fields["format"] != FORMAT or not texts or not numbers or end > size:
        raise ValueError
    return Map(Identity(url, size, etag, sha256, modified), present, mtime)


def write_map(path: Path, found: Map) -> None:
    """All or nothing, also if the power fails. Raises OSError."""
    identity = found.identity
    fields: dict[str, Any] = {
        "format": FORMAT,
        "url": identity.url,
        "size": identity.size,
        "etag": identity.etag,
        "sha256": identity.sha256,
        "last_modified": identity.last_modified,
        "mtime_ns": found.mtime_ns,
        "present": list(found.present),
    }
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(fields, file)
        file.flush()
        os.fsync(file.fileno())
    _replace(new, path)


def _replace(old: Path, new: Path) -> None:
    for attempt in range(REPLACE_ATTEMPTS):
        try:
            os.replace(old, new)
            return
        except PermissionError:
            if os.name != "nt" or attempt == REPLACE_ATTEMPTS - 1:
                raise
            time.sleep(0.05)


class CutShort(OSError):
    """The file lost bytes while it was in use."""


class Copy:
    """One open copy, in one of three states: `whole` (read `place.path`), `writable`, or else only what `present` says is read.

    `present` belongs to whoever owns the copy; calls here get what they need of it as arguments.
    """

    def __init__(
        self,
        place: Place,
        found: Map,
        lock: FileLock | None = None,
        file: io.FileIO | None = None,
        room: Room | None = None,
        whole: bool = False,
        why: str = "",
    ) -> None:
        """Use `open_copy`. why: it is not written to."""
        self.place = place
        self.identity = found.identity
        self.present = found.present
        self.writable = room is not None
        self.whole = whole
        self.why = why
        self.lock = lock
        self._file = file
        self._room = room
        self._seek_lock = threading.Lock()
        self._end = max((end for _, end in found.present), default=0)  # the file has at least so many bytes

    def read(self, offset: int, view: memoryview) -> None:
        """Raises OSError, CutShort if bytes are missing."""
        done = 0
        while done < len(view):
            with view[done:] as rest:
                n = self._read_at(offset + done, rest)
            if n == 0:
                break
            done += n
        self._check_end()

    def write(self, offset: int, view: memoryview, wanted: int) -> None:
        """wanted: bytes that the whole file still lacks. Raises OSError, also if the disk would become too full."""
        assert self._room is not None
        self._room.take(len(view), wanted)
        self._check_end()
        done = 0
        while done < len(view):
            with view[done:] as rest:
                done += self._write_at(offset + done, rest)
        self._end = max(self._end, offset + len(view))  # too low for a moment if two end at once, which does no harm

    def begin_afresh(self) -> None:
        """After CutShort: nothing that was there is trusted any more."""
        self._end = 0

    def _check_end(self) -> None:
        """A file that someone cut short reads as zeros once it has grown again."""
        end = self._end  # first: other threads make both grow
        n_bytes = os.fstat(self._opened.fileno()).st_size
        if n_bytes < end:
            raise CutShort(f"it had {end} bytes or more and has {n_bytes} now")

    def shortage(self, wanted: int) -> int:
        """Bytes that the disk lacks for so many more. Raises OSError."""
        assert self._room is not None
        return self._room.shortage(wanted, self.place.path)

    def save(self, present: Intervals) -> None:
        """Flush what was written, then say that it is there. Raises OSError."""
        _flush(self._opened)
        write_map(self.place.map, Map(self.identity, present))

    def finish(self, stop: threading.Event, progress: Progress | None = None) -> bool:
        """Check the hash of a copy that has all bytes, where it is known, and give the file its final name.

        False if the hash is wrong; the copy is deleted then. Raises OSError, and InterruptedError if `stop` was set meanwhile.
        """
        if self.identity.sha256 and self._sha256(stop, progress) != self.identity.sha256:
            self.discard()
            return False
        _flush(self._opened)
        if os.name == "nt":  # which renames no file that is open; elsewhere it stays readable should the rest fail
            self._close_file()
        mtime_ns = self.place.part.stat().st_mtime_ns  # Windows may set it when the file is closed
        everything = Intervals([(0, self.identity.size)])
        # The map first: open_copy() finishes a rename that did not happen.
        write_map(self.place.map, Map(self.identity, everything, mtime_ns))
        _replace(self.place.part, self.place.path)
        self._close_file()
        self.writable, self.whole = False, True
        return True

    def share(self) -> None:
        """Of a whole copy: from now on others may use it, too."""
        if self.lock is not None and not self.lock.shared:
            self.lock.release()
            with contextlib.suppress(OSError):
                self.lock = FileLock.acquire(self.place.lock, shared=True)

    def discard(self) -> None:
        self._close_file()
        self.writable = False
        self.place.delete()

    def forget_cached_pages(self, offset: int = 0, n_bytes: int = 0) -> None:
        """Ask the system to keep no copy of these bytes in memory; 0: of all to the end."""
        if hasattr(os, "posix_fadvise") and self._file is not None:
            with contextlib.suppress(OSError):  # it is a wish
                os.posix_fadvise(self._file.fileno(), offset, n_bytes, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        self._close_file()
        if self.lock is not None:
            self.lock.touch()
            self.lock.release()

    def take_lock(self) -> FileLock | None:
        """The lock is the caller's from now on."""
        lock, self.lock = self.lock, None
        return lock

    @property
    def _opened(self) -> io.FileIO:
        assert self._file is not None
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _sha256(self, stop: threading.Event, progress: Progress | None) -> str:
        size = self.identity.size
        if size > SLOW_TO_HASH and progress is None:
            log.warning(f"all of {self.place.path.name!r} was fetched: its {size / 1e9:.1f} GB are checked, once")
        return sha256_of(self._opened, size, stop, progress)

    def _read_at(self, offset: int, view: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._opened.fileno(), [view], offset)
        with self._seek_lock:
            self._opened.seek(offset)
            return self._opened.readinto(view) or 0

    def _write_at(self, offset: int, view: memoryview) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._opened.fileno(), view, offset)
        with self._seek_lock:
            self._opened.seek(offset)
            return self._opened.write(view) or 0


def sha256_of(file: io.FileIO, size: int, stop: threading.Event, progress: Progress | None) -> str:
    """In hex. Raises OSError; InterruptedError if `stop` was set meanwhile."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(HASH_BYTES))
    file.seek(0)
    done = 0
    while n := file.readinto(buffer):
        if stop.is_set():
            raise InterruptedError
        digest.update(buffer[:n])
        done += n
        if progress:
            progress(done, size)
    return digest.hexdigest()


def open_copy(place: Place, identity: Identity, room: Room) -> Copy:
    """The copy of `identity` at `place`, new if there is none.

    A copy that is damaged or of another version is replaced. If someone else writes it, or the disk refuses, what is there can
    still be read. Never raises for a disk that fails: a note says why nothing is kept.
    """
    why = ""
    try:
        place.path.parent.mkdir(parents=True, exist_ok=True)
        if whole := _open_whole(place, identity, FileLock.acquire(place.lock, shared=True)):
            return whole
        lock = FileLock.acquire(place.lock)
        if lock is None:
            why = "another process is fetching it; this one reads along"
        else:
            try:
                lock.touch()
                if whole := _open_whole(place, identity, lock, keep_lock=True):  # someone was quicker
                    return whole
                return _open_part(place, identity, lock, room)
            except BaseException:
                lock.release()
                raise
    except OSError as error:
        why = error.strerror or str(error)
    if whole := _open_whole(place, identity, None):
        return whole
    log.warning(f"{place.path.name!r} is not kept in {str(place.path.parent)!r}: {why}")
    return _open_for_reading(place, identity, why)


def open_kept(place: Place) -> Copy | None:
    """The whole copy at `place`, of whichever version it is; None if there is none."""
    found = read_map(place.map)
    if found is None or not found.is_whole(place.path):
        return None
    lock = None
    with contextlib.suppress(OSError):  # a folder that cannot be written to can be read
        lock = FileLock.acquire(place.lock, shared=True)
    return _open_whole(place, found.identity, lock)


def _open_whole(place: Place, identity: Identity, lock: FileLock | None, keep_lock: bool = False) -> Copy | None:
    found = read_map(place.map)
    if found and found.identity.same(identity) and found.is_whole(place.path):
        if lock is not None:
            lock.touch()
        return Copy(place, found, lock, whole=True)
    if lock is not None and not keep_lock:
        lock.release()
    return None


def _open_part(place: Place, identity: Identity, lock: FileLock, room: Room) -> Copy:
    """With the lock held exclusively: go on with what is there, or begin afresh. Raises OSError."""
    found = read_map(place.map)
    if found and found.identity.same(identity):
        if found.is_whole(place.part):  # stopped between the two steps of finish()
            _replace(place.part, place.path)
            return Copy(place, found, lock, whole=True)
        if identity.sha256 and _size(place.path) == identity.size:  # whole, but touched since: its hash will tell
            _replace(place.path, place.part)
            found = Map(identity, Intervals([(0, identity.size)]))
        with contextlib.suppress(FileNotFoundError):
            file = io.FileIO(place.part, "r+")
            found.present.remove(os.fstat(file.fileno()).st_size, max(identity.size, 1))
            return Copy(place, Map(identity, found.present), lock, file, room)
    # Deleted, not emptied: someone may be reading the old file.
    place.delete()
    return Copy(place, Map(identity, Intervals()), lock, io.FileIO(place.part, "x+"), room)


def _open_for_reading(place: Place, identity: Identity, why: str) -> Copy:
    """What another process has fetched so far, which may be nothing."""
    with contextlib.suppress(OSError):
        file = io.FileIO(place.part, "r")
        try:
            found = read_map(place.map)
            # The order matters: if .part was replaced since it was opened, the map may be that of the new one.
            now = os.fstat(file.fileno())
            if found and found.identity.same(identity) and os.path.samestat(now, place.part.stat()):
                found.present.remove(now.st_size, max(identity.size, 1))
                return Copy(place, found, file=file, why=why)
        except OSError:
            file.close()
            raise
        file.close()
    return Copy(place, Map(identity, Intervals()), why=why)


def _flush(file: io.FileIO) -> None:
    getattr(os, "fdatasync", os.fsync)(file.fileno())


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
