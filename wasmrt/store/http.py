"""A file behind an HTTP or HTTPS URL, read by range. What its answers mean is decided in http_rules.py.

A read goes on where a broken connection left it, after a pause that grows. It ends with exactly the bytes of the file that was
opened, or with a SourceError; the time that takes is bounded.
"""

import asyncio
import contextlib
import functools
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import httpx

from wasmrt.errors import SourceError
from wasmrt.store.http_rules import (
    REDIRECTS,
    HttpLimits,
    Identity,
    Next,
    Trouble,
    check_part,
    check_same,
    identity_at_open,
    is_loopback,
    linked_sha256,
    redirect_refused,
)
from wasmrt.store.source import Fetched, check_arguments, closed_error, without_secrets

DEFAULT_LIMITS = HttpLimits()
KEEP_SECONDS = 30.0  # an unused connection; between two reads a layer may be computed
NO_LOCATION = "a redirect has no usable Location; give the file's own URL"
RENEW_AFTER = 2  # failures in a row after which the file is looked up anew where it was redirected: that host may be gone


@dataclass(frozen=True)
class Place:
    """Where the file's bytes are: the last of the redirects, whose signature expires, and what identified the file there."""

    url: httpx.URL
    identity: Identity


@dataclass
class Part:
    """What one task reads, with one request unless that breaks off."""

    offset: int
    view: memoryview
    done: int = 0  # bytes of `view` that are right
    cause: str = ""  # of its last failure


class HttpSource:
    """Reads overlap on kept-alive connections and stream into the caller's buffer. Belongs to the event loop that opened it.

    `etag` (a strong one), `sha256` (as a model hub names it) and `last_modified` identify the content for a cache. `name` is
    the URL without query and credentials, which may be secrets.
    """

    block = 1

    def __init__(self, url: str, parsed: httpx.URL, client: httpx.AsyncClient, limits: HttpLimits, headers: Mapping[str, str]):
        """Use `open`."""
        self.url = url
        self.name = name_of(parsed)
        self.size = 0
        self.etag: str | None = None
        self.sha256: str | None = None
        self.last_modified: str | None = None
        self.network_bytes = 0  # of the file, that came
        self._original = parsed
        self._client = client
        self._limits = limits
        self._headers = dict(headers)
        self._place: Place
        self._renewing = asyncio.Lock()
        self._slots = asyncio.Semaphore(limits.parallel)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def open(cls, url: str, *, limits: HttpLimits = DEFAULT_LIMITS, headers: Mapping[str, str] = {}) -> "HttpSource":
        """Find the file, its size and what identifies it, with a request for its first byte.

        `headers`, an Authorization for example, are sent to the URL's own host alone. Raises SourceError.
        """
        parsed = parse_url(url)
        for name, value in headers.items():
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"the header {name!r} has a character that cannot be sent; is there a line end in it?")
        client = make_client(parsed, limits)
        try:
            self = cls(url, parsed, client, limits, headers)
            async with asyncio.timeout(limits.deadline(0)):
                self._place = await self._resolve_patiently()
        except BaseException as error:
            await client.aclose()
            if isinstance(error, TimeoutError):
                raise SourceError(
                    f"cannot open {name_of(parsed)!r}: nothing came of it in {limits.deadline(0):g} s; check the connection",
                    transient=True,
                ) from error
            raise
        identity = self._place.identity
        self.size, self.etag, self.sha256 = identity.size, identity.etag, identity.sha256
        self.last_modified = identity.last_modified
        return self

    @property
    def fetched(self) -> Fetched:
        return Fetched(self.network_bytes, None)

    async def bypass_cache(self) -> None:
        pass

    async def read_into(self, offset: int, view: memoryview) -> None:
        with view.cast("B") as flat:
            check_arguments(self, offset, flat)
            if self._closed:
                raise closed_error(self)
            step = self._limits.part_bytes
            parts = [Part(offset + at, flat[at : at + step]) for at in range(0, len(flat), step)]
            try:
                await self._read_parts(parts)
            finally:
                for part in parts:
                    part.view.release()

    async def close(self) -> None:
        self._closed = True
        try:
            await end(self._tasks)
        finally:
            closing = asyncio.create_task(self._client.aclose())
            await end([closing], cancel=False)
            closing.result()

    async def _read_parts(self, parts: list[Part]) -> None:
        tasks = {asyncio.create_task(self._read_part(part)): part for part in parts}
        if not tasks:
            return
        self._tasks.update(tasks)
        seconds = self._limits.deadline(sum(len(part.view) for part in parts))
        try:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await end(tasks)  # also if we are cancelled: nothing writes to the view afterwards
            self._tasks.difference_update(tasks)
        if error := next((task.exception() for task in tasks if not task.cancelled() and task.exception()), None):
            raise error
        if late := next((part for task, part in tasks.items() if task.cancelled()), None):
            if self._closed:
                raise closed_error(self)
            raise SourceError(
                f"{self._reading(late)} was given up after {seconds:g} s with {late.done} bytes read"
                f"{', at last because ' + late.cause if late.cause else ''}; check the connection and try again",
                transient=True,
            )

    async def _read_part(self, part: Part) -> None:
        """Until the part is whole. SourceError if attempts in a row bring too little, or if trying again is useless."""
        failed = 0
        stale: Place | None = None  # one that is to be renewed first
        renewed = False
        while part.done < len(part.view):
            place, before = self._place, part.done
            try:
                if stale is not None:
                    await self._renew(stale)
                    stale = None
                async with self._slots:
                    place = self._place
                    await self._fetch(place, part)
            except Trouble as trouble:
                if cancelled():
                    raise asyncio.CancelledError from trouble
                part.cause = trouble.reason
                if part.done - before >= self._limits.progress_bytes:
                    failed, renewed = 0, False
                if trouble.then is Next.RENEW and not renewed:
                    stale, renewed = place, True
                    continue
                failed += 1
                if trouble.then is not Next.AGAIN or failed >= self._limits.attempts:
                    raise self._failure(part, trouble, failed) from trouble
                if failed >= RENEW_AFTER and place.url != self._original:
                    stale = place
                await asyncio.sleep(self._limits.pause(failed, trouble.retry_after))

    async def _fetch(self, place: Place, part: Part) -> None:
        """One request for what is missing of the part. Raises Trouble; `part.done` then says how far it came."""
        start, end = part.offset + part.done, part.offset + len(part.view)
        async with self._ask(place.url, start, end, place.identity.etag) as answer:
            check_part(answer.status_code, answer.headers, place.identity, start, end)
            before = part.done
            try:
                await fill(part, answer)
            finally:
                self.network_bytes += part.done - before

    async def _renew(self, stale: Place) -> None:
        """Follow the redirects again, once for all parts that read from `stale`, and make sure that it is the same file."""
        async with self._renewing:
            if self._place is not stale:
                return
            place = await self._resolve()
            check_same(stale.identity, place.identity)
            self._place = place

    async def _resolve_patiently(self) -> Place:
        failed = 0
        while True:
            try:
                return await self._resolve()
            except Trouble as trouble:
                failed += 1
                if trouble.then is not Next.AGAIN:
                    raise SourceError(f"cannot open {self.name!r}: {trouble.reason}") from trouble
                if failed >= self._limits.attempts:
                    raise SourceError(
                        f"cannot open {self.name!r}: {failed} attempts failed, at last because {trouble.reason}; "
                        f"check the URL and the connection",
                        transient=True,
                    ) from trouble
                await asyncio.sleep(self._limits.pause(failed, trouble.retry_after))

    async def _resolve(self) -> Place:
        """Follow redirects from the URL that the user gave. Raises Trouble."""
        url, sha256 = self._original, None
        seen = {url}
        while True:
            async with self._ask(url, 0, 1) as answer:
                if answer.status_code not in REDIRECTS:
                    identity = identity_at_open(answer.status_code, answer.headers, sha256)
                    if identity.size:
                        await fill(Part(0, memoryview(bytearray(1))), answer)
                    return Place(url, identity)
                sha256 = sha256 or linked_sha256(answer.headers)
                target = target_of(url, answer.headers)
            if reason := redirect_refused(str(self._original), str(url), str(target)):
                raise Trouble(f"a redirect {reason}, was not followed; give the file's own URL", Next.NEVER)
            if target in seen:
                raise Trouble("its redirects go in a circle; give the file's own URL", Next.NEVER)
            if len(seen) > self._limits.redirects:
                raise Trouble(f"it has more than {self._limits.redirects} redirects; give the file's own URL", Next.NEVER)
            seen.add(target)
            url = target

    @contextlib.asynccontextmanager
    async def _ask(self, url: httpx.URL, start: int, end: int, etag: str | None = None) -> AsyncIterator[httpx.Response]:
        """Send a request for a range; its answer's body is not read yet. Network errors here and inside become Trouble."""
        headers = httpx.Headers({"User-Agent": "wasmrt"})
        if origin(url) == origin(self._original):
            headers.update(self._headers)
        headers.update({"Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"})
        if etag:
            headers["If-Range"] = etag
        try:
            answer = await self._client.send(self._client.build_request("GET", url, headers=headers), stream=True)
            try:
                yield answer
            finally:
                await answer.aclose()
        except httpx.TransportError as error:
            host = f"{url.host}: " if url.host != self._original.host else ""
            raise trouble_of(error, host, self._limits) from error
        except (httpx.InvalidURL, UnicodeError) as error:  # httpx looks at a Location, too
            raise Trouble(NO_LOCATION, Next.NEVER) from error

    def _reading(self, part: Part) -> str:
        return f"reading bytes {part.offset} to {part.offset + len(part.view)} of {self.name!r}"

    def _failure(self, part: Part, trouble: Trouble, failed: int) -> SourceError:
        match trouble.then:
            case Next.CHANGED:
                return SourceError(
                    f"{self.name!r} changed while it was in use, seen when reading {len(part.view)} bytes at offset "
                    f"{part.offset}: {trouble.reason}; open it again"
                )
            case Next.NEVER:
                return SourceError(f"{self._reading(part)} failed: {trouble.reason}")
            case Next.RENEW:
                return SourceError(f"{self._reading(part)} failed: {trouble.reason}, also when looked up again; open it again")
            case Next.AGAIN:
                return SourceError(
                    f"{self._reading(part)} failed {failed} times, at last because {trouble.reason}; "
                    f"check the connection and try again",
                    transient=True,
                )


async def fill(part: Part, answer: httpx.Response) -> None:
    """The answer's body into what is missing of the part, which it has to fill exactly. Raises Trouble."""
    before = part.done
    async with contextlib.aclosing(cast(AsyncGenerator[bytes, None], answer.aiter_raw())) as chunks:
        async for chunk in chunks:
            n = len(chunk)
            if part.done + n > len(part.view):
                part.done = before  # it is not the range that it says it is
                raise Trouble(f"the answer has more than the {len(part.view) - before} bytes that it announced", Next.AGAIN)
            part.view[part.done : part.done + n] = chunk
            part.done += n
    if part.done < len(part.view):
        raise Trouble(f"the answer ended {len(part.view) - part.done} bytes early", Next.AGAIN)


def cancelled() -> bool:
    """Of this task. A time-out inside the client at the same moment may have taken the place of the CancelledError."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def end(tasks: Iterable[asyncio.Task[Any]], cancel: bool = True) -> None:
    """Cancel the tasks and wait until they are done. Being cancelled meanwhile is raised at the end, and shortens nothing."""
    tasks = list(tasks)
    for task in tasks if cancel else []:
        if not task.cancelling():  # a second one would cut short how it closes its connection
            task.cancel()
    interrupted = False
    while any(not task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            interrupted = True
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at: asyncio complains about one that nobody saw
    if interrupted:
        raise asyncio.CancelledError


def parse_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url).copy_with(fragment=None)
        host = parsed.host  # decoded now, which may fail
    except (httpx.InvalidURL, UnicodeError) as error:
        raise SourceError(f"{without_secrets(url)!r} is not a URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not host:
        raise SourceError(f"{name_of(parsed)!r} names no file on a web server; a URL is like https://example.org/model.gguf")
    return parsed


def target_of(url: httpx.URL, headers: Mapping[str, str]) -> httpx.URL:
    """Where a redirect leads. On the same host, the URL's user and password go with it."""
    try:
        target = url.join(headers["location"]).copy_with(fragment=None)
        return target.copy_with(userinfo=url.userinfo) if origin(target) == origin(url) else target
    except (KeyError, httpx.InvalidURL, UnicodeError):
        raise Trouble(NO_LOCATION, Next.NEVER) from None


def name_of(url: httpx.URL) -> str:
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port  # httpx leaves out a scheme's own port


def make_client(url: httpx.URL, limits: HttpLimits) -> httpx.AsyncClient:
    """Proxies and certificates as the environment names them; but this machine is not behind a proxy."""
    hosts = {"localhost", "127.0.0.1", "[::1]"}
    if is_loopback(url.host):
        hosts.add(f"[{url.host}]" if ":" in url.host else url.host)
    try:
        return httpx.AsyncClient(
            mounts={f"all://{host}": None for host in hosts},
            verify=certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
            timeout=httpx.Timeout(limits.read_seconds, connect=limits.connect_seconds, pool=None),
            # Requests at once are bounded by the source; a bound of the pool could only make them wait unseen.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=limits.parallel, keepalive_expiry=KEEP_SECONDS),
        )
    except (ImportError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"cannot read from {name_of(url)!r}: {reason}; check the proxy and SSL_CERT_ variables") from error


@functools.lru_cache(maxsize=1)
def certificates(*_named: str | None) -> ssl.SSLContext:
    """Shared by all clients: to read them takes 40 ms, in which the event loop stands still. The variables that httpx looks at
    are given so that a change of them counts."""
    return httpx.create_ssl_context()


def trouble_of(error: httpx.TransportError, host: str, limits: HttpLimits) -> Trouble:
    match error:
        case httpx.ConnectTimeout():
            reason = f"no connection was made in {limits.connect_seconds:g} s"
        case httpx.TimeoutException():
            reason = f"no byte came for {limits.read_seconds:g} s"
        case _:
            reason = " ".join(str(error).split()) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return Trouble(f"{host}{reason}; check this machine's clock, or name your certificates in SSL_CERT_FILE", Next.NEVER)
    return Trouble(host + reason, Next.AGAIN)
