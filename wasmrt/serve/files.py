"""The answer to a request for a file: its bytes, or some of them, always of the one version whose ETag is sent along."""

import asyncio
import hashlib
import io
import logging
import os
from concurrent.futures import Executor, Future
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wasmrt.errors import SourceError
from wasmrt.serve.ranges import answer
from wasmrt.store.file import finish, open_regular

log = logging.getLogger("wasmrt")

# Bytes that are read and sent together; meanwhile the next ones are read. Smaller pieces cost more turns of the loop, of larger
# ones more is copied to the transport's buffer: tools/bench_serve.py.
PIECE_BYTES = 1 << 20


class OpenFile:
    """A regular file, open for reading. `etag` is of its version: another one for each file, size and time of a change."""

    def __init__(self, path: Path) -> None:
        """Blocks. Raises SourceError."""
        self._file: io.FileIO = open_regular(str(path))
        self.name = path.name
        status = os.fstat(self._file.fileno())
        self.size = status.st_size
        self._version = version(status)
        self.etag = etag_of(status)

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Blocks. SourceError if the file is no longer the one that was opened: looked at after the read, before any byte of it
        is passed on. One read at a time: on Windows the file has one position."""
        parts = []
        try:
            while n_bytes > 0:
                if hasattr(os, "pread"):
                    data = os.pread(self._file.fileno(), n_bytes, offset)
                else:
                    self._file.seek(offset)
                    data = self._file.read(n_bytes)
                if not data:
                    raise SourceError(f"{self.name!r} ends at byte {offset} while it is served; it had {self.size} bytes")
                parts.append(data)
                offset, n_bytes = offset + len(data), n_bytes - len(data)
            now = os.fstat(self._file.fileno())
        except OSError as error:
            raise SourceError(f"reading {self.name!r} at byte {offset} failed: {error.strerror or error}") from error
        if version(now) != self._version:
            raise SourceError(f"{self.name!r} changed while it was served; the connection was cut, not to mix two versions")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        self._file.close()


def version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def etag_of(status: os.stat_result) -> str:
    """A hash: which disk and inode it is concerns nobody.

    With the time of the inode's change, as programs that copy set that of modification to what it was (rsync, cp -p). It is not
    in `version`: to delete a file, or to replace it, changes it, too, for those who have begun to read.
    """
    return f'"{hashlib.blake2b(repr((*version(status), changed_ns(status))).encode(), digest_size=16).hexdigest()}"'


def changed_ns(status: os.stat_result) -> int:
    return 0 if os.name == "nt" else status.st_ctime_ns  # that of creation there


async def open_file(path: Path, pool: Executor) -> OpenFile:
    """Without blocking the loop. Raises SourceError."""
    job = pool.submit(OpenFile, path)
    try:
        await finish(job)
    except BaseException:
        if not job.cancelled() and job.exception() is None:
            job.result().close()
        raise
    return job.result()


class FileAnswer(Response):
    """Answers GET and HEAD with an open file, which it closes."""

    def __init__(self, file: OpenFile, pool: Executor, request: Request, headers: dict[str, str], media_type: str) -> None:
        given = {name: ", ".join(request.headers.getlist(name)) for name in request.headers}
        self._answer = answer(request.method, given, file.size, file.etag)
        self._file, self._pool = file, pool
        status, start, stop = self._answer.status, self._answer.start, self._answer.stop
        sent = {**headers, "ETag": file.etag, "Accept-Ranges": "bytes"}
        if status != 304:
            sent["Content-Length"] = str(stop - start)
        if status in (200, 206):
            sent["Content-Type"] = media_type
        if status == 206:
            sent["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
        if status == 416:
            sent["Content-Range"] = f"bytes */{file.size}"
        self.status_code, self.background, self.body = status, None, b""
        self.init_headers(sent)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] == "HEAD" or self._answer.start == self._answer.stop:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await self._send_while_read(scope, receive, send)
        finally:
            self._file.close()

    async def _send_while_read(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body; stop as soon as the client has left. A server does not say so on sending."""
        sending, leaving = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not sending.done():
                sending.cancel()
            await asyncio.wait((sending, leaving))  # until no thread reads from the file any more
        if not sending.cancelled() and (error := sending.exception()):
            if not isinstance(error, SourceError):
                raise error
            log.warning(error)
            await break_off(scope, receive, error)

    async def _send(self, send: Send) -> None:
        """Piece by piece; the next one is read while one is sent."""
        position, stop = self._answer.start, self._answer.stop
        job = self._read(position)
        try:
            while position < stop:
                await finish(job)
                data = job.result()
                position += len(data)
                if position < stop:
                    job = self._read(position)
                await send({"type": "http.response.body", "body": data, "more_body": position < stop})
        finally:
            job.cancel()
            await finish(job)

    def _read(self, position: int) -> "Future[bytes]":
        return self._pool.submit(self._file.read, position, min(PIECE_BYTES, self._answer.stop - position))


async def left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def break_off(scope: Scope, receive: Receive, error: BaseException) -> None:
    """Cut the connection, so that a body that is not whole is seen to be so. A server that cannot gets `error`."""
    abort = scope.get("state", {}).get("abort")
    if abort is None:
        raise error
    abort()
    await left(receive)
