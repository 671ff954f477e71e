"""A small HTTP/1.1 server on 127.0.0.1 that serves files by range, and goes wrong in the way that a test asks for.

    with RangeServer(data) as server:                            # or a Path, or {"/a.gguf": ..., "/b.gguf": ...}
        server.faults.append(Fault(cut=100))                     # the next answer breaks off after 100 bytes of its body
        ... read from server.url ...
        assert [r.range for r in server.requests] == [(0, 1), ...]

Without faults it keeps to RFC 9110: single ranges, HEAD, If-Range, strong ETags, Last-Modified, kept-alive connections.
"""

import contextlib
import email.utils
import hashlib
import http.server
import os
import select
import socket
import socketserver
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONNECTIONS = 64  # at once; more wait
IDLE_SECONDS = 60.0
PIECE_BYTES = 1 << 20
DEFAULT_PATH = "/model.gguf"
LONG_AGO = 1_700_000_000  # Last-Modified of the first content; each later one is a minute newer


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer. Fields combine."""

    status: int | None = None  # this one, and with it a short text instead of the file's bytes; 206 keeps the bytes
    headers: Mapping[str, str | None] = field(default_factory=dict)  # in place of the right ones; None: left out
    whole: bool = False  # as if there had been no Range: 200 and the whole file
    delay: float = 0.0  # seconds before the answer
    cut: int | None = None  # the connection ends after so many bytes of the body
    reset: bool = False  # ... with a reset instead of an orderly end
    hang: int | None = None  # nothing more is sent after so many bytes of the body, but the connection stays
    no_answer: bool = False  # the connection ends before anything is sent
    silent: bool = False  # nothing is ever sent, but the connection stays
    resize: int = 0  # the body has so many bytes more or fewer, and Content-Length says so
    flip: int | None = None  # the byte at this place of the body is another one
    chunked: bool = False  # Transfer-Encoding: chunked instead of Content-Length


def redirect(location: str, status: int = 302, **headers: str) -> Fault:
    return Fault(status=status, headers={"Location": location, **{name.replace("_", "-"): v for name, v in headers.items()}})


@dataclass
class Request:
    """One request as the server saw it."""

    method: str
    target: str  # path and query
    headers: dict[str, str]  # names in lower case
    range: tuple[int, int] | None = None  # first byte and the one after the last, as they were served; None: not a range
    status: int = 0
    sent: int = 0  # bytes of the body so far

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Faults = Callable[[Request], Fault | None]


class RangeServer:
    """Serves `data` at `url`; see the head of this file. Everything may be changed while it runs.

    `signed`: GET /path answers 302 to /path?signature=N, as hubs send readers on to their object store, with the content's
    sha256 as X-Linked-Etag; only the latter gives the bytes, and after expire_signatures() an old one is a 403.
    """

    def __init__(self, data: bytes | Path | Mapping[str, bytes | Path], *, signed: bool = False) -> None:
        self.faults: deque[Fault | None] | Faults = deque()  # one for each request, in turn; or asked at each request
        self.requests: list[Request] = []
        self.bytes_per_second: float | None = None  # of all connections together
        self.etag = True  # whether answers have one
        self.last_modified = True
        self.signed = signed
        self.headers: dict[str, str] = {}  # more of them for every answer
        self.redirect_headers: dict[str, str] = {}  # more of them for the 302 of `signed`
        self.connections = 0  # made so far
        self.in_flight = 0  # requests being answered
        self.peak = 0  # most of them at once
        self.failures: list[BaseException] = []  # of this server itself: raised when the context ends
        self._files: dict[str, _Content] = {}
        self._versions = 0
        self._signature = 1
        self._lock = threading.Lock()
        self._paid_until = 0.0
        self._server: _Server | None = None
        self.port = 0
        for path, content in data.items() if isinstance(data, Mapping) else [(DEFAULT_PATH, data)]:
            self.put(content, path)
        self._first = next(iter(self._files), DEFAULT_PATH)
        self.start()

    def __enter__(self) -> "RangeServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.failures:
            raise self.failures[0]

    @property
    def url(self) -> str:
        """Of the first file."""
        return self.url_of(self._first)

    def url_of(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def sent(self) -> int:
        """Bytes of bodies, of all requests together."""
        return sum(request.sent for request in self.requests)

    def put(self, content: bytes | Path, path: str = DEFAULT_PATH) -> None:
        """Add a file, or replace it: ETag and Last-Modified are new then. A Path may be sparse; it is read when asked for."""
        with self._lock:
            self._files[path] = _Content(content, self._versions)
            self._versions += 1

    def remove(self, path: str = DEFAULT_PATH) -> None:
        with self._lock:
            del self._files[path]

    def expire_signatures(self) -> None:
        self._signature += 1

    def start(self) -> None:
        """Called when made; after stop() it listens on the same port again."""
        assert self._server is None
        self._server = _Server(self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="range-server", daemon=True).start()

    def stop(self) -> None:
        """Break off all connections and listen no more. Calling it again does nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    # For the handler, in its threads.

    def fault_for(self, request: Request) -> Fault:
        with self._lock:
            self.requests.append(request)
            if isinstance(self.faults, deque):
                return (self.faults.popleft() if self.faults else None) or Fault()
        return self.faults(request) or Fault()

    def content_for(self, path: str) -> "_Content | None":
        with self._lock:
            return self._files.get(path)

    def signature(self) -> str:
        return f"signature={self._signature}"

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1

    def throttle(self, n_bytes: int, stopping: threading.Event) -> None:
        """Wait until the link, which all connections share, has carried so many bytes more."""
        if not self.bytes_per_second:
            return
        with self._lock:
            self._paid_until = max(self._paid_until, time.monotonic()) + n_bytes / self.bytes_per_second
            wait = self._paid_until - time.monotonic()
        stopping.wait(wait)

    def piece_bytes(self) -> int:
        """About 20 pieces a second on a slow link."""
        return max(1, min(PIECE_BYTES, int(self.bytes_per_second / 20))) if self.bytes_per_second else PIECE_BYTES


class _Content:
    """One version of one file."""

    def __init__(self, content: bytes | Path, version: int) -> None:
        self._content = content
        self._version = version
        self._sha256 = ""

    @property
    def size(self) -> int:
        return len(self._content) if isinstance(self._content, bytes) else self._content.stat().st_size

    @property
    def etag(self) -> str:
        status = "" if isinstance(self._content, bytes) else self._content.stat().st_mtime_ns
        return f'"{self._version}-{self.size}-{status}"'

    @property
    def last_modified(self) -> str:
        return email.utils.formatdate(LONG_AGO + 60 * self._version, usegmt=True)

    @property
    def sha256(self) -> str:
        if not self._sha256:
            self._sha256 = hashlib.sha256(self.read(0, self.size)).hexdigest()
        return self._sha256

    def read(self, start: int, n_bytes: int) -> bytes | memoryview:
        if isinstance(self._content, bytes):
            return memoryview(self._content)[start : start + n_bytes]
        with self._content.open("rb") as file:
            file.seek(start)
            return file.read(n_bytes)


def parse_range(value: str, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last of a single satisfiable range, or None."""
    unit, _, span = value.partition("=")
    first, dash, last = span.strip().partition("-")
    if unit.strip() != "bytes" or not dash or not (first + last).isdecimal():
        return None
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    return (start, end) if start < end else None


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = os.name == "posix"  # elsewhere that would let two servers have one port
    daemon_threads = True
    block_on_close = False
    request_queue_size = CONNECTIONS

    def __init__(self, owner: RangeServer) -> None:
        self.owner = owner
        self.stopping = threading.Event()
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(("127.0.0.1", owner.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        while not self._slots.acquire(timeout=0.05):
            if self.stopping.is_set():
                self.shutdown_request(request)
                return
        with self._open_lock:
            self._open.add(request)
        self.owner.connections += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._open_lock:
                self._open.discard(request)
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error and not isinstance(error, OSError):  # a client that goes away is no failure
            self.owner.failures.append(error)

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._open_lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # it ended by itself meanwhile
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "range-server"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        with self.server.owner.counted():
            self._answer(request, self.server.owner.fault_for(request))

    do_HEAD = do_GET  # noqa: N815  the name that http.server looks for

    def _answer(self, request: Request, fault: Fault) -> None:
        owner = self.server.owner
        if fault.delay:
            self.server.stopping.wait(fault.delay)
        if fault.silent:
            self._hang()
            return
        if fault.no_answer:
            self._break_off(fault)
            return
        path, _, query = self.path.partition("?")
        content = owner.content_for(path)
        headers: dict[str, str | None] = {}
        start = end = 0
        if fault.status not in (None, 206):
            status = fault.status or 0
        elif content is None:
            status = 404
        elif owner.signed and not query:
            status = 302
            headers = {"Location": f"{path}?{owner.signature()}", "X-Linked-Etag": f'"{content.sha256}"',
                       "X-Linked-Size": str(content.size), **owner.redirect_headers}
        elif owner.signed and query != owner.signature():
            status = 403
        else:
            status, start, end = self._choose(content, fault, headers)
        text = b"" if status in (200, 206) else f"{status}\n".encode()
        n_bytes = max(0, (len(text) or end - start) + fault.resize)
        headers |= {"Transfer-Encoding": "chunked"} if fault.chunked else {"Content-Length": str(n_bytes)}
        headers |= owner.headers | dict(fault.headers)
        request.status = status
        if status == 206:
            request.range = (start, end)
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        if headers.get("Content-Length") is None and not fault.chunked:
            self.close_connection = True  # that is then the end of the body
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(request, fault, content if not text else None, start, text, n_bytes)

    def _choose(self, content: "_Content", fault: Fault, headers: dict[str, str | None]) -> tuple[int, int, int]:
        """Status, first byte and the one after the last; and the headers that go with them."""
        owner = self.server.owner
        size = content.size
        headers["Accept-Ranges"] = "bytes"
        headers["Content-Type"] = "application/octet-stream"
        if owner.etag:
            headers["ETag"] = content.etag
        if owner.last_modified:
            headers["Last-Modified"] = content.last_modified
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if asked is None or fault.whole or (condition and condition not in (headers.get("ETag"), headers.get("Last-Modified"))):
            return 200, 0, size
        span = parse_range(asked, size)
        if span is None:
            headers["Content-Range"] = f"bytes */{size}"
            return 416, 0, 0
        headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
        return 206, *span

    def _send_body(self, request: Request, fault: Fault, content: "_Content | None", start: int, text: bytes,
                   n_bytes: int) -> None:
        owner = self.server.owner
        stops = [place for place in (fault.cut, fault.hang) if place is not None]
        limit = min([n_bytes, *stops])
        while request.sent < limit and not self.server.stopping.is_set():
            n = min(owner.piece_bytes(), limit - request.sent)
            piece: bytes | memoryview = content.read(start + request.sent, n) if content else text[request.sent :][:n]
            if len(piece) < n:  # longer than the file: `resize`
                piece = bytes(piece) + bytes(n - len(piece))
            if fault.flip is not None and 0 <= fault.flip - request.sent < n:
                spoiled = bytearray(piece)
                spoiled[fault.flip - request.sent] ^= 0x10
                piece = bytes(spoiled)
            owner.throttle(n, self.server.stopping)
            if fault.chunked:
                self.wfile.write(b"%x\r\n" % n)
            self.wfile.write(piece)
            if fault.chunked:
                self.wfile.write(b"\r\n")
            request.sent += n
        if fault.hang is not None and fault.hang <= limit:
            self._hang()
        elif fault.cut is not None and fault.cut <= limit:
            self._break_off(fault)
        elif fault.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _hang(self) -> None:
        """Until the other side goes away, or the server is stopped."""
        self.close_connection = True
        while not self.server.stopping.is_set():
            if select.select([self.connection], [], [], 0.02)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                return

    def _break_off(self, fault: Fault) -> None:
        self.close_connection = True
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
