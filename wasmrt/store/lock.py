"""FileLock: who may write, or delete, what lies in a folder that several processes use. A lock ends with its process."""

import contextlib
import errno
import os
import sys
from pathlib import Path

# What a file system says that has no locks of this kind (some network drives).
NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}


class FileLock:
    """Made by `acquire`. An exclusive one keeps all others out, a shared one only exclusive ones.

    On Windows nothing needs to be shared, as a file that is open there cannot be deleted or replaced: `acquire` gives a lock
    that holds nothing.
    """

    def __init__(self, path: Path, descriptor: int | None, shared: bool, made: Path | None = None) -> None:
        """Use `acquire`. made: the file whose existence is the lock."""
        self.path = path
        self.shared = shared
        self._descriptor = descriptor
        self._made = made

    @classmethod
    def acquire(cls, path: Path, *, shared: bool = False) -> "FileLock | None":
        """The lock, or None if someone else has it. Never waits. Raises OSError if the file cannot be made."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                kept = _lock(descriptor, shared)
            except OSError as error:
                os.close(descriptor)
                if error.errno in NO_LOCKS:
                    return _by_existence(path, shared)
                raise
            if not kept:
                os.close(descriptor)
                return None
            # Whoever evicts a file deletes its lock, too: then ours is a lock on nothing, and the next one would not see it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return cls(path, descriptor, shared)
            os.close(descriptor)

    def touch(self) -> None:
        """Its time of modification says when what it guards was last used."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def remove(self) -> None:
        """Delete the lock's file; only for who has it exclusively."""
        with contextlib.suppress(OSError):  # Windows: it is open; an empty file that stays does no harm
            self.path.unlink()

    def release(self) -> None:
        """Calling it again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
        made, self._made = self._made, None
        if made is not None:
            made.unlink(missing_ok=True)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, shared: bool) -> bool:
        if shared:
            return True
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True

else:
    import fcntl

    def _lock(descriptor: int, shared: bool) -> bool:
        # Not lockf: its locks are the process's, which two models in one process would share.
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _by_existence(path: Path, shared: bool) -> FileLock | None:
    """Where there are no locks: a file that only one process can create, with its number, by which a dead one's is known.

    Nothing is shared then: a reader's file may be evicted under it, which is harmless where a deleted file stays readable.
    """
    if shared:
        return FileLock(path, None, shared)
    made = path.with_name(path.name + ".held")
    for _ in range(2):
        try:
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if _holder_lives(made):
                return None
            made.unlink(missing_ok=True)
        else:
            os.write(descriptor, str(os.getpid()).encode())
            os.close(descriptor)
            return FileLock(path, None, shared, made)
    return None


def _holder_lives(made: Path) -> bool:
    import psutil

    try:
        return bool(psutil.pid_exists(int(made.read_text())))
    except (OSError, ValueError):  # gone, or being written
        return True
