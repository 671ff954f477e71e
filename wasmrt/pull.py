"""pull(ref): all of a model onto this disk, every shard of it, in ranges side by side; it goes on where it was stopped."""

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wasmrt.errors import SourceError, UnsupportedError
from wasmrt.gguf.split import MAX_SHARDS
from wasmrt.store.cache import CachedFile, CachedSource, Remote, file_name, hash_of, identity_of, open_at
from wasmrt.store.hub import HUB, SHARD
from wasmrt.store.remote import default_cache, has_copy, is_remote, open_remote, url_of_ref
from wasmrt.store.room import Place, Room
from wasmrt.store.source import Source, together, without_secrets

PARALLEL = 4
RANGE_BYTES = 8 << 20  # of one request at most
FIRST_BYTES = 1 << 20  # of the first ones: how fast the server is, they tell
LEAST_BYTES = 256 << 10
LONG, SHORT = 3.0, 1.0  # seconds: what is longer loses too much when it is stopped, what is shorter waits too often

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Pulled:
    """One file that is there now."""

    path: str
    url: str
    n_bytes: int
    fetched_bytes: int  # by this call
    sha256: str | None  # as the server names it; the file was checked against it

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def pull(
    ref: str,
    output: str | os.PathLike[str] | None = None,
    *,
    cache_dir: Path | None = None,
    endpoint: str = HUB,
    progress: Progress | None = None,
    checking: Progress | None = None,
) -> list[Pulled]:
    """Bring all files of the model into the cache, or to `output`: a path, or a folder (one that exists, or ends in a slash).

    progress counts the files' bytes, `checking` those of which the hash is computed. Raises SourceError; what was fetched by
    then, also when it is cancelled, need not be fetched again.
    """
    if not is_remote(ref):
        raise UnsupportedError(f"{ref!r} is neither an http(s) URL nor an hf: reference, so there is nothing to fetch")
    folder = cache_dir or default_cache()
    url = await url_of_ref(ref, cache_dir=folder, endpoint=endpoint)
    urls = shard_urls(url)
    # Of several, the sizes are asked for first: a shard that is missing is noticed before the work.
    sizes = [await _size(shard, folder) for shard in urls] if len(urls) > 1 else None
    done: list[Pulled] = []
    for shard, target in zip(urls, targets(urls, output), strict=True):
        before = sum(pulled.n_bytes for pulled in done)
        of_all = partial(_add, before, sum(sizes) if sizes else None)
        done.append(await _pull_one(shard, target, folder, of_all(progress), of_all(checking)))
    return done


def _add(before: int, total: int | None, progress: Progress | None) -> Progress:
    """Of one shard's progress, that of all."""

    def count(done: int, size: int) -> None:
        if progress:
            progress(before + done, size if total is None else total)

    return count


async def _size(url: str, folder: Path) -> int:
    source = await _open_inner(url, folder)
    await source.close()
    return source.size


async def _pull_one(url: str, target: Path | None, folder: Path, progress: Progress, checking: Progress) -> Pulled:
    if target is None:
        return await _fetch(await open_remote(url, cache_dir=folder), url, progress, checking)
    inner = await _open_inner(url, folder)
    if _is_there(target):
        pulled = await _check_existing(inner, target, checking)
        progress(inner.size, inner.size)
    else:
        pulled = await _fetch(await open_at(inner, Place(target), Room(None)), url, progress, checking)
    Place(target).forget()
    return pulled


def shard_urls(url: str) -> list[str]:
    """All files of the split model of which `url` is one, in order; of a model in one file, that one."""
    path, mark, query = url.partition("?")
    match = SHARD.search(path)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        return [url]
    n = int(match[2])
    if n > MAX_SHARDS:
        shown = without_secrets(path)
        raise SourceError(f"a model of {n} files is more than the {MAX_SHARDS} that one may have; is {shown!r} the right one?")
    return [f"{path[: match.start(1)]}{i:05}{path[match.end(1) :]}{mark}{query}" for i in range(1, n + 1)]


def targets(urls: list[str], output: str | os.PathLike[str] | None) -> list[Path | None]:
    """Where each file goes; None: into the cache. Raises SourceError."""
    if output is None:
        return [None for _ in urls]
    text = os.fspath(output)
    if text.endswith(("/", os.sep)) or os.path.isdir(text):
        return [Path(text) / file_name(urlsplit(url).path.rpartition("/")[2]) for url in urls]
    if len(urls) > 1:
        raise SourceError(f"the model has {len(urls)} files, which cannot all become {text!r}; end the path of a folder with /")
    return [Path(text)]


async def _open_inner(url: str, folder: Path) -> Remote:
    """A whole copy in the cache, or the server."""
    from wasmrt.store.http import HttpSource

    if has_copy(folder, url):
        source = await open_remote(url, cache_dir=folder)
        if isinstance(source, CachedFile):
            return source
        await source.close()  # an old version
    return await HttpSource.open(url)


async def _check_existing(inner: Remote, target: Path, checking: Progress) -> Pulled:
    """Whether `target` is that file already. Raises SourceError if it is another one: that is not for us to replace."""
    try:
        identity = identity_of(inner)
        same = _has_size(target, identity.size)
        if same and identity.sha256:
            same = await hash_of(target, checking) == identity.sha256
        if not same:
            raise SourceError(f"{str(target)!r} exists and is not {inner.name!r}; move it away or choose another path")
        return Pulled(str(target), inner.url, inner.size, 0, inner.sha256)
    finally:
        await inner.close()


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


def _has_size(path: Path, n_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == n_bytes


async def _fetch(source: Source, url: str, progress: Progress, checking: Progress) -> Pulled:
    """Fetch what is missing, check it, and close the source. Raises SourceError."""
    try:
        fetched = 0
        if isinstance(source, CachedSource):
            if short := await source.shortage():
                raise SourceError(
                    f"{source.missing_bytes} bytes of {source.name!r} are to be fetched, {short} more than there is room for "
                    f"in {str(source.path.parent)!r}; make room or choose another place"
                )
            _check_kept(source)
            fetched = source.missing_bytes
            await _fetch_missing(source, progress)
            source = await source.complete(checking)
        if not isinstance(source, CachedFile):
            raise SourceError(
                f"{source.name!r} cannot be cached: its server names no ETag and no Last-Modified; name a path for it (-o PATH)"
            )
        progress(source.size, source.size)
        return Pulled(str(source.path), url, source.size, fetched, source.sha256)
    finally:
        await source.close()


def _check_kept(source: CachedSource) -> None:
    if source.trouble:
        raise SourceError(
            f"{source.name!r} cannot be kept in {str(source.path.parent)!r}: {source.trouble}; mend that and repeat the "
            f"command, which goes on from what is there, or choose another place"
        )


async def _fetch_missing(source: CachedSource, progress: Progress) -> None:
    missing = deque(source.missing())
    progress(source.size - source.missing_bytes, source.size)

    async def work() -> None:
        buffer = memoryview(bytearray(RANGE_BYTES))
        n_bytes = min(FIRST_BYTES, RANGE_BYTES)
        while missing:
            start, end = take(missing, n_bytes)
            began = time.perf_counter()
            await source.read_into(start, buffer[: end - start])
            n_bytes = next_bytes(n_bytes, time.perf_counter() - began)
            _check_kept(source)
            progress(source.size - source.missing_bytes, source.size)

    await together(work() for _ in range(PARALLEL))


def take(missing: deque[tuple[int, int]], n_bytes: int) -> tuple[int, int]:
    """The first n_bytes of what is missing, or of its first range what there is, taken off it."""
    start, end = missing.popleft()
    if end - start > n_bytes:
        missing.appendleft((start + n_bytes, end))
    return start, min(end, start + n_bytes)


def next_bytes(n_bytes: int, seconds: float) -> int:
    """How much the next range has, after one of n_bytes took so many seconds."""
    wanted = 2 * n_bytes if seconds < SHORT else n_bytes // 2 if seconds > LONG else n_bytes
    return min(RANGE_BYTES, max(LEAST_BYTES, wanted))
