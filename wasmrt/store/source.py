"""Byte sources: where the bytes of one GGUF file come from, and what a reference to one names.

A source is read by range into a buffer that the caller owns. Everything is async because the same interface is meant for HTTP
and for the browser, where waiting cannot block.
"""

import asyncio
import os
import re
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from wasmrt import browser
from wasmrt.errors import SourceError, UnsupportedError
from wasmrt.store.memory import Frame, Place, flat


class Source(Protocol):
    """The bytes of one file, which do not change while it is open. Reads may overlap in time."""

    name: str  # for messages
    size: int  # bytes
    block: int  # reads at multiples of it, into addresses at multiples of it, pass by the system's cache; 1: any do, or none

    async def bypass_cache(self) -> None:
        """From now on leave no copies in the system's page cache, as far as that can be; may raise `block` from 1."""

    async def read_into(self, offset: int, view: Any) -> None:
        """Fill all of `view`, a memoryview (contiguous, writable, any format), with the bytes from `offset` on.

        A page's sources take a Place (store/memory.py), too.

        When this returns or raises, cancelled or not, nothing writes to `view` any more. Raises SourceError if the bytes cannot
        be had or are not of the file that was opened (`view` is then undefined), ValueError if the range is not in the file.
        """

    async def close(self) -> None:
        """Let reads in flight end, then let go of everything. Later reads are a SourceError; closing again does nothing."""


class Turn:
    """A read's place among others: one that somebody waits for goes before what is read ahead."""

    def __init__(self, demand: bool) -> None:
        self.demand = demand
        self.hurried: Callable[[], None] | None = None  # told when somebody waits after all

    def hurry(self) -> None:
        """Somebody waits now."""
        if not self.demand:
            self.demand = True
            if self.hurried is not None:
                self.hurried()


@runtime_checkable
class Queueing(Protocol):
    """A source that lets reads wait in a queue, by turns."""

    async def read_in_turn(self, offset: int, view: Any, turn: Turn) -> None:
        """As Source.read_into."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """How much of a file has come over a network, in bytes, and how much of it lies here."""

    network_bytes: int  # that came since it was opened
    disk_bytes: int | None  # on this machine's disk, or that of the page's origin; None: nothing is kept

    def __add__(self, other: "Fetched") -> "Fetched":
        kept = [n for n in (self.disk_bytes, other.disk_bytes) if n is not None]
        return Fetched(self.network_bytes + other.network_bytes, sum(kept) if kept else None)


@runtime_checkable
class Remote(Protocol):
    """A source whose bytes come over a network, or came, and are read from a copy."""

    @property
    def fetched(self) -> Fetched | None:
        """None of one that has always been here."""


def fetched_of(source: Source) -> Fetched | None:
    """How much of a file has come over a network; None if it need not."""
    return source.fetched if isinstance(source, Remote) else None


async def open_source(ref: Any, cache: bool = True) -> Source:
    """The source that `ref` names: a path, a file, http or https URL, an hf: reference to a model hub, or an object whose bytes
    are the file's content; in a page also a File or Blob of JavaScript. A source stands for itself.

    cache: keep what comes from a URL on this machine's disk.
    """
    if hasattr(ref, "read_into"):
        mine: Source = ref
        return mine
    if browser.IN_PAGE and not isinstance(ref, bytes | bytearray | memoryview):
        from wasmrt.store.browser_source import open_browser

        opened: Source = await open_browser(ref, cache=cache)
        return opened
    from wasmrt.store.file import FileSource  # which builds on this module

    if isinstance(ref, str):
        scheme = re.match(r"(?i)(hf:)|([a-z][a-z0-9+.-]+)://", ref)
        if scheme is None:
            return await FileSource.open(ref)
        if (scheme[2] or "").lower() == "file":
            return await FileSource.open(path_of_file_url(ref))
        if (scheme[1] or scheme[2]).lower() in ("hf:", "http", "https"):
            from wasmrt.store.remote import open_remote  # imports httpx

            return await open_remote(ref, cache=cache)
        raise UnsupportedError(
            f"models at {without_secrets(ref)!r} are not supported here; download the file and give its path"
        )
    if isinstance(ref, os.PathLike):
        return await FileSource.open(ref)
    if isinstance(ref, bytes | bytearray | memoryview):
        return MemorySource(ref)
    raise TypeError(f"a model is named by a path, a URL or a bytes object, not by {type(ref).__name__}")


def without_secrets(url: str) -> str:
    """For messages, of what need not be a good URL: no user and password, nor what follows a ?, a signature or key."""
    return re.sub(r"//[^/]*@", "//", url.partition("?")[0])


def path_of_file_url(url: str) -> str:
    """file:///a%20b to /a b, and on Windows file:///C:/a to C:\\a. Raises UnsupportedError if the URL names another machine."""
    from urllib.request import url2pathname  # slow to import, and seldom needed

    host, slash, path = url[len("file://") :].partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise UnsupportedError(f"{url!r} names the machine {host!r}; a local file's URL is file:///absolute/path")
    return url2pathname("/" + path)


class MemorySource:
    """A file that lies in memory. The bytes are not copied: they must not change while the source is open."""

    block = 1

    def __init__(self, data: bytes | bytearray | memoryview, name: str = "<memory>") -> None:
        self.name = name
        self._data = memoryview(data).cast("B")
        self.size = len(self._data)
        self._closed = False

    async def bypass_cache(self) -> None:
        pass

    async def read_into(self, offset: int, view: Frame) -> None:
        view = flat(view)
        check_arguments(self, offset, view)
        if self._closed:
            raise closed_error(self)
        data = self._data[offset : offset + len(view)]
        if isinstance(view, Place):
            view.memory.write(view.address, data)
        else:
            view[:] = data

    async def close(self) -> None:
        self._closed = True
        self._data.release()  # a bytearray can be resized again


def check_arguments(source: Source, offset: int, view: Frame) -> None:
    if isinstance(view, memoryview) and view.readonly:
        raise ValueError(f"the view to read {source.name!r} into is read-only")
    if offset < 0 or offset + len(view) > source.size:
        raise ValueError(f"bytes {offset} to {offset + len(view)} are not all in {source.name!r}, which has {source.size}")


def closed_error(source: Source) -> SourceError:
    return SourceError(f"{source.name!r} is closed; open it again to read from it")


async def outlast(running: "asyncio.Future[Any]", cancel: Callable[[], object] = bool) -> bool:
    """Wait until something has ended, however often we are cancelled meanwhile; `cancel` is called each time. Whether we were.

    For what writes to buffers that may be freed after us.
    """
    cancelled = False
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            cancelled = True
            cancel()
    return cancelled


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once. The first error ends the others and is raised as it is, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first from first.__cause__
