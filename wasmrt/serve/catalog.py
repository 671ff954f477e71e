"""The models that are served, by name: those of a folder, or one file with its shards, and always the demo model."""

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wasmrt.errors import SourceError
from wasmrt.gguf.split import SHARD
from wasmrt.resources import demo_model
from wasmrt.serve.paths import inside, is_text, parts_of
from wasmrt.store.source import path_of_file_url

log = logging.getLogger("wasmrt")

DEMO = "demo.gguf"
DEPTH = 2  # names in a path: files of the folder, and of folders in it
SUFFIX = ".gguf"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model's file; `name` has "/" between folder and file on every system."""

    name: str
    path: Path


class Catalog:
    """Looks at the disk each time, so a file that is added is there at once. All methods block."""

    def __init__(self, where: str | os.PathLike[str] | None) -> None:
        """A folder, a file, or None for the demo model alone. Raises SourceError if it is neither."""
        self._root: Path | None = None
        self._fixed: dict[str, Path] = {}
        if where is not None:
            path = located(where)
            if path.is_dir():
                self._root = path
            else:
                self._fixed = {shard.name: shard for shard in shards_of(path)}  # served as it is called, wherever links lead
        with contextlib.suppress(SourceError):  # a trimmed installation has none; then it is not served
            self._fixed.setdefault(DEMO, demo_model())

    def entries(self) -> list[Entry]:
        """In the order of their names. A name on disk that breaks the rules of paths.py is not there for us."""
        found = dict(self._fixed)
        if self._root is not None:
            for name in names_in(self._root, DEPTH):
                if path := self._of_folder(name):
                    found[name] = path
        return [Entry(name, found[name]) for name in sorted(found)]

    def find(self, name: str) -> Path | None:
        """The file of that name, which is the folder's own before the demo model."""
        return self._of_folder(name) or self._fixed.get(name)

    def _of_folder(self, name: str) -> Path | None:
        parts = parts_of(name, DEPTH) if self._root is not None and name.lower().endswith(SUFFIX) else None
        return inside(self._root, parts) if self._root is not None and parts else None


def located(where: str | os.PathLike[str]) -> Path:
    """A folder, links followed, or a regular file under its own name: caches of model hubs consist of links to files that are
    called by a digest. Raises SourceError for anything else."""
    name = os.fsdecode(where)
    if name[:7].lower() == "file://":
        name = path_of_file_url(name)
    try:
        path = Path(name).absolute()
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            path = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = "name a folder or a GGUF file on this machine"
        if name[:3].lower() == "hf:" or "://" in name:
            hint = f"it has to be on this machine; fetch it first: wasmrt pull {name}"
        raise SourceError(f"cannot serve {name!r}: {reason}; {hint}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise SourceError(f"cannot serve {name!r}: it is a pipe or a device; name a folder or a GGUF file")
    if not is_text(path.name):
        raise SourceError(f"cannot serve {name!r}: its name is no text, and so cannot be in a URL; rename it")
    return path


def shards_of(path: Path) -> list[Path]:
    """The files of a split model, of which `path` is one and the others lie beside it; of any other file, that file."""
    match = SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    names = (f"{match[1]}-{i:05}-of-{match[3]}{path.name[match.end(3) :]}" for i in range(1, int(match[3]) + 1))
    return [shard for name in names if (shard := path.with_name(name)).is_file()] or [path]


def names_in(folder: Path, depth: int, before: str = "") -> Iterator[str]:
    """Paths of what is called *.gguf in a folder, and in its folders down to `depth` names. What cannot be read has none."""
    try:
        with os.scandir(folder) as scan:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
    except OSError as error:
        log.warning("cannot list %r: %s", str(folder), error.strerror or error)
        return
    for name, is_folder in found:
        if is_folder and depth > 1 and parts_of(name, 1):
            yield from names_in(folder / name, depth - 1, f"{before}{name}/")
        elif not is_folder and name.lower().endswith(SUFFIX):
            yield before + name
