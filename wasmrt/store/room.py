"""Room: how much a cache folder may still take, and what leaves it when it is full. Blocks; called from threads."""

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wasmrt.store.lock import FileLock

# Of the disk, left free unless told otherwise: whichever is less.
FREE_SHARE = 10
FREE_BYTES = 5 << 30
# A disk is filled by others, too: after so many bytes it is looked at again.
STEP_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one copy; `path` is the final one. See disk_copy.py for what they are."""

    path: Path

    def beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    @property
    def part(self) -> Path:
        return self.beside(".part")

    @property
    def map(self) -> Path:
        return self.beside(".map")

    @property
    def lock(self) -> Path:
        return self.beside(".lock")

    def delete(self) -> None:
        """For who has the lock. The map first: what it promises must be there. Raises OSError."""
        for path in (self.map, self.part, self.path):
            path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Leave the final file alone, as one that is no longer ours."""
        for path in (self.map, self.lock):
            with contextlib.suppress(OSError):  # they do no harm
                path.unlink()

    @property
    def n_bytes(self) -> int:
        """On the disk; a sparse file takes what was written."""
        return _on_disk(self.part) + _on_disk(self.path)


class Room:
    """Hands out the room of the folder that one copy grows in. Copies that nobody uses are deleted for it, the longest unused
    first, if that makes the whole file fit. Without a folder nothing is deleted, and all of the disk may be used."""

    def __init__(self, folder: Path | None, keep_free: int | None = None, max_bytes: int | None = None) -> None:
        """keep_free: bytes of the disk. max_bytes: of all copies together; None: no limit."""
        self._folder = folder
        self._keep_free = keep_free
        self._max_bytes = max_bytes
        self._left = 0
        self._lock = threading.Lock()

    def take(self, n_bytes: int, wanted: int) -> None:
        """For the next `n_bytes` of `wanted` that are still to come. Raises OSError (ENOSPC) where there is no room."""
        if self._folder is None:
            return
        with self._lock:
            if self._left < n_bytes:
                room = self.make(self._folder, max(n_bytes, wanted))
                if room < n_bytes:
                    raise OSError(errno.ENOSPC, f"the cache may take {max(0, room)} bytes more, which is not enough")
                self._left = min(room, max(n_bytes, STEP_BYTES))
            self._left -= n_bytes

    def shortage(self, wanted: int, path: Path) -> int:
        """Bytes that are missing for so many to be written at `path`; 0: they fit. Raises OSError."""
        room = shutil.disk_usage(path.parent).free if self._folder is None else self.make(self._folder, wanted)
        return max(0, wanted - room)

    def make(self, folder: Path, wanted: int) -> int:
        """Bytes that may be written now: `wanted` or more if that can be brought about. Raises OSError."""
        disk = shutil.disk_usage(folder)
        keep = min(disk.total // FREE_SHARE, FREE_BYTES) if self._keep_free is None else self._keep_free
        room = disk.free - keep
        others = sorted(copies(folder), key=_last_use) if room < wanted or self._max_bytes is not None else []
        if self._max_bytes is not None:
            room = min(room, self._max_bytes - sum(place.n_bytes for place in others))
        with contextlib.ExitStack() as held:
            leaving: list[tuple[Place, FileLock]] = []
            missing = wanted - room
            for place in others:
                if missing > 0 and (lock := lock_unused(place)):
                    held.callback(lock.release)
                    leaving.append((place, lock))
                    missing -= place.n_bytes
            if missing > 0:
                return room  # deleting all that nobody uses would not do
            for place, lock in leaving:
                n_bytes = place.n_bytes
                if delete(place, lock):
                    room += n_bytes
        return room


def copies(folder: Path) -> Iterator[Place]:
    """Of a cache folder. Each has a lock file; it was last used when that was touched.

    A lock alone is none: the user may have named a folder of other programs, which have their .lock files.
    """
    for lock in folder.glob("*/*.lock"):
        place = Place(lock.with_suffix(""))
        if place.map.exists() or place.part.exists():
            yield place


def lock_unused(place: Place) -> FileLock | None:
    """None if someone uses the copy, or if the disk refuses."""
    try:
        return FileLock.acquire(place.lock)
    except OSError:
        return None


def delete(place: Place, lock: FileLock) -> bool:
    """Delete a copy that is locked by us. False if the disk refuses."""
    try:
        place.delete()
        place.beside(".map.new").unlink(missing_ok=True)
    except OSError:
        return False
    lock.remove()
    with contextlib.suppress(OSError):
        place.path.parent.rmdir()  # if it was the last one
    return True


def _last_use(place: Place) -> float:
    try:
        return place.lock.stat().st_mtime
    except OSError:
        return 0.0


def _on_disk(path: Path) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return 0
    blocks: int | None = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else blocks * 512
