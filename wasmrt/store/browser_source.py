"""BrowserSource: a file that a page reads, behind a URL or chosen by the user. web/source.js and its worker do the reading.

Weights go from there straight into the store's memory: Python says what goes where and waits.
"""

import asyncio
import logging
import os
import re
from collections.abc import Callable
from contextvars import copy_context
from typing import Any
from urllib.parse import quote, unquote, urljoin

from wasmrt import browser
from wasmrt.errors import SourceError, UnsupportedError
from wasmrt.store import hub
from wasmrt.store.memory import Frame, Place, flat
from wasmrt.store.source import Fetched, Source, Turn, check_arguments, closed_error, outlast, path_of_file_url, without_secrets

log = logging.getLogger("wasmrt")

LIST_SECONDS = 30.0  # for one page of a hub's list of files
MUCH_BYTES = 16 << 20  # that a server without ranges sends before anything of a file can be used: only then is it worth a line


async def open_browser(ref: Any, *, cache: bool = True) -> Source:
    """The source that `ref` names: an http or https URL, an hf: reference, a path in Pyodide's own file system, or a File or
    Blob of JavaScript.

    cache: keep what a URL gives on this origin's disk, where there is one. Raises SourceError.
    """
    if isinstance(ref, os.PathLike):
        return await _open_path(os.fsdecode(ref))
    if not isinstance(ref, str):
        if not hasattr(ref, "arrayBuffer"):
            raise TypeError(f"a model is named by a URL, a path, a File or a Blob, not by {type(ref).__name__}")
        return await BrowserSource.open(ref)
    scheme = re.match(r"(?i)(hf:)|([a-z][a-z0-9+.-]+)://", ref)
    if scheme is None:
        return await _open_path(ref)
    match (scheme[1] or scheme[2]).lower():
        case "http" | "https":
            return await BrowserSource.open(ref, cache=cache)
        case "hf:":
            return await BrowserSource.open(await url_of_ref(ref), cache=cache)
        case "file":
            return await _open_path(path_of_file_url(ref))
    raise UnsupportedError(f"models at {without_secrets(ref)!r} are not supported here; download the file and choose it here")


async def _open_path(path: str) -> Source:
    return await BrowserSource.open(_blob_of_path(path), name=path)


def _blob_of_path(path: str) -> Any:
    """A file of Pyodide's file system, which lies in JavaScript's memory: no copy of it in Python's heap."""
    import js
    import pyodide_js
    from pyodide.ffi import to_js

    if not os.path.isfile(path):
        raise SourceError(f"there is no file {path!r} in this page's file system; give a URL, or a File that the user chose")
    return js.Blob.new(to_js([pyodide_js.FS.readFile(os.path.abspath(path))]))


class BrowserSource:
    """Reads may overlap in time; the worker bounds how many requests are under way. `exposed`: whether the server lets the page
    check the place of each part in the file, and not only its length."""

    block = 1

    def __init__(self, js_source: Any) -> None:
        """Use `open`."""
        self.name = str(js_source.name)
        self.size = int(js_source.size)
        self.exposed = bool(js_source.exposed)
        self._js = js_source
        self._closed = False
        self._listener: Any = None

    @classmethod
    async def open(cls, ref: Any, *, cache: bool = False, name: str | None = None) -> "BrowserSource":
        """ref: a URL, or a File or Blob of JavaScript, which `name` is for. Raises SourceError."""
        import js
        from pyodide.ffi import to_js

        await browser.load("source")
        giving_up = js.AbortController.new()
        options = {"cache": cache, "signal": giving_up.signal} | ({} if name is None else {"name": name})
        made = to_js(options, dict_converter=js.Object.fromEntries)
        opening = asyncio.ensure_future(browser.module("source").Source.open(ref, made, browser.script_url("prefetch-worker")))
        try:
            found = await _outcome(opening, giving_up.abort)
        except asyncio.CancelledError:
            if opening.exception() is None:  # it was open before it could be given up, and has a worker
                await _outcome(asyncio.ensure_future(opening.result().close()), lambda: None)
            raise
        source = cls(found)
        if isinstance(ref, str):
            source._tell_what_is_not_checked()
        if cache:
            source._tell_when_no_more_is_kept()
        return source

    @property
    def fetched(self) -> Fetched | None:
        """As of the last read that has ended."""
        if not self._js.remote:
            return None
        kept = self._js.present
        return Fetched(int(self._js.network), int(kept) if isinstance(kept, int | float) else None)

    @property
    def cached(self) -> str:
        """Whether it is kept on this origin's disk, in a word, and why not: see the states in web/prefetch-worker.js."""
        state, why = str(self._js.cache.state), str(self._js.cache.why)
        return f"{state}: {why}" if why else state

    def _tell_what_is_not_checked(self) -> None:
        """A user should know that bytes of two versions could be mixed, and why nothing came before everything."""
        if not self._js.ranges and self.size > MUCH_BYTES and self._js.cache.state != "whole":
            log.warning("%s: its server does no ranges, so all of it was fetched before any of it could be used", self.name)
        if not self.exposed:
            checked = "of a part only its length, and the file's size and time"
            wanted = "Access-Control-Expose-Headers: Content-Range, ETag"
            log.warning("%s: its server lets this page check %s; let it send %s", self.name, checked, wanted)
        elif not self._js.etag and not self._js.lastModified:
            log.warning("%s: its server sends no ETag and no Last-Modified: only another size tells a change", self.name)

    def _tell_when_no_more_is_kept(self) -> None:
        """The disk is written behind the reads, and may be full after the last of them."""
        from pyodide.ffi import create_proxy

        told = copy_context()  # a page's note belongs to the request that opened this file

        def changed(state: Any) -> None:
            if str(state.state) == "full":
                told.run(log.warning, "no more of %s is kept on this device: %s", repr(self.name), state.why)

        self._listener = create_proxy(changed)
        self._js.oncache = self._listener

    async def bypass_cache(self) -> None:
        pass

    async def read_into(self, offset: int, target: Frame) -> None:
        """See Source: somebody waits for it."""
        await self.read_in_turn(offset, target, Turn(demand=True))

    async def read_in_turn(self, offset: int, target: Frame, turn: Turn) -> None:
        """See Queueing."""
        frame = flat(target)
        check_arguments(self, offset, frame)
        if self._closed:
            raise closed_error(self)
        where: tuple[Any, int] = (None, 0)
        if isinstance(frame, Place):
            memory: Any = frame.memory
            where = memory.js, frame.address
        read = self._js.start(offset, len(frame), *where, turn.demand)
        turn.hurried = lambda: self._js.hurry(read.id)
        # The worker says when it writes no more.
        data = await _outcome(asyncio.ensure_future(read.done), lambda: self._js.cancel(read.id))
        if isinstance(frame, memoryview):
            data.assign_to(frame)

    async def stats(self) -> dict[str, Any]:
        """Bytes so far by where they came from, requests, retries."""
        found: dict[str, Any] = (await self._js.stats()).to_py()
        return found

    async def close(self) -> None:
        self._closed = True
        try:
            await _outcome(asyncio.ensure_future(self._js.close()), lambda: None)
        finally:
            if self._listener is not None:
                self._js.oncache = None
                self._listener.destroy()
                self._listener = None


async def _outcome(task: "asyncio.Future[Any]", cancel: Callable[[], None]) -> Any:
    """What JavaScript gives or throws. If we are cancelled it is told, and its end is waited for."""
    cancelled = await outlast(task, cancel)
    error = task.exception()
    if cancelled:
        raise asyncio.CancelledError
    if error is None:
        return task.result()
    if not isinstance(error, Exception):
        raise error
    raise browser.translated(error, SourceError) from error


# A model hub, asked by the page


async def url_of_ref(ref: str, endpoint: str = hub.HUB) -> str:
    """The URL behind an hf: reference. Asks the hub for its list of files unless one is named; where it cannot be asked, the
    file is looked for among those that are kept whole. Raises SourceError."""
    wanted = hub.parse(ref)
    if wanted.file:
        return hub.url_of(wanted, wanted.file, endpoint)
    try:
        files = await list_files(wanted, endpoint)
    except SourceError as error:
        files = await _kept_files(hub.url_of(wanted, "", endpoint)) if error.transient else []
        if not files:
            raise
    return hub.url_of(wanted, hub.choose(wanted, files), endpoint)


async def _kept_files(above: str) -> list[str]:
    """Paths of the whole copies on this origin's disk, as far as there is one, whose URL begins with `above`."""
    from pyodide.ffi import JsException

    await browser.load("storage")
    try:
        models = await browser.module("storage").list(browser.script_url("prefetch-worker"))
    except JsException:
        return []
    return [unquote(str(m.url).removeprefix(above)) for m in models if m.whole and str(m.url).startswith(above)]


async def list_files(ref: hub.HubRef, endpoint: str = hub.HUB) -> list[str]:
    """The paths of all files in the repository. Raises SourceError."""
    owner, repo, revision = (quote(part, safe="") for part in (ref.owner, ref.repo, ref.revision))
    url = f"{endpoint.rstrip('/')}/api/models/{owner}/{repo}/tree/{revision}?recursive=true"
    files: list[str] = []
    for _ in range(hub.MAX_PAGES):
        status, link, body = await _get(url, ref)
        hub.check_status(status, url.split("/")[2], ref)
        files += hub.paths_of(body, ref)
        following = re.search(r'<([^<>]*)>\s*;\s*rel="?next"?', link)
        if following is None:
            return files
        url = urljoin(url, following[1])
        if not url.startswith(endpoint.rstrip("/") + "/"):
            raise hub.bad_list(ref, "goes on at another host")
    raise hub.bad_list(ref, f"has more than {hub.MAX_PAGES} pages")


async def _get(url: str, ref: hub.HubRef) -> tuple[int, str, bytes]:
    """Status, Link and body of an answer. Tried again if the hub is busy or cannot be reached. Raises SourceError."""
    import js
    from pyodide.ffi import JsException, to_js

    reason = ""
    for attempt in range(1, hub.ATTEMPTS + 1):
        options = {"cache": "no-store", "credentials": "omit", "signal": js.AbortSignal.timeout(int(LIST_SECONDS * 1000))}
        try:
            answer = await js.fetch(url, to_js(options, dict_converter=js.Object.fromEntries))
            if answer.status != 429 and answer.status < 500:
                body = (await answer.arrayBuffer()).to_bytes()
                if len(body) > hub.MAX_PAGE_BYTES:
                    raise hub.bad_list(ref, f"has a page of more than {hub.MAX_PAGE_BYTES} bytes")
                return int(answer.status), str(answer.headers.get("Link") or ""), body
            reason = f"it answered with status {answer.status}"
        except JsException as error:
            reason = " ".join(str(error).split())
        if attempt < hub.ATTEMPTS:
            await asyncio.sleep(attempt)
    raise SourceError(
        f"cannot list the files of {ref.repository!r}: {hub.ATTEMPTS} attempts failed, at last because {reason}; "
        f"check the connection",
        transient=True,
    )
