"""The server of the browser tests: the page's files, models by range, and a remote control for pages.

    with Site(folder) as site:
        page = site.page("isolated")                  # its URL is for a browser; there, remote.js asks us what to do
        value = site.call(page, "return await 40 + args.more", {"more": 2}, seconds=10)

It listens on three ports, so that there are three origins: "isolated" sends COOP and COEP, "plain" does not, and "foreign" is
somebody else's: it has neither these headers nor the page's files, but the remote control and Pyodide; it may read files of the
other two (CORS).
"""

import base64
import http.server
import json
import mimetypes
import queue
import secrets
import socketserver
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from tests.range_server import parse_range

HERE = Path(__file__).parent
ORIGINS = ("isolated", "plain", "foreign")
POLL_SECONDS = 10.0
PIECE_BYTES = 1 << 20
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Content-Range, Content-Length, ETag, Accept-Ranges",
}
CSP = ("default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; img-src 'self' data:; "
       "connect-src 'self' http://127.0.0.1:*; frame-src 'self'; base-uri 'none'; form-action 'none'")

# Of its own: a system's table may say anything, and other tests change the one that is shared.
TYPES = mimetypes.MimeTypes()
for suffix, kind in {".wasm": "application/wasm", ".mjs": "text/javascript", ".js": "text/javascript"}.items():
    TYPES.add_type(kind, suffix)


class PageError(Exception):
    """What a page threw. name, kind, message and stack are the error's; events: what the page had to say besides."""

    def __init__(self, error: Mapping[str, Any], events: Sequence["PageEvent"]) -> None:
        self.name = error.get("name", "")
        self.kind = error.get("kind")
        self.message = error.get("message", "")
        said = "".join(f"\n  {event}" for event in events)
        super().__init__(f"{self.kind or self.name}: {self.message}\n{error.get('stack') or ''}{said}")


class PageHung(Exception):
    """A page gave no answer in time."""


@dataclass(frozen=True)
class PageEvent:
    """kind: "console.error", "console.warn", "error", "unhandledrejection", "csp", or "note", which a test's snippet wrote."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass
class PageState:
    """A page as we know it."""

    name: str
    url: str
    csp: bool
    document: str = ""  # the one that asks now; another after a reload
    documents: int = 0
    commands: "queue.Queue[dict[str, Any]]" = field(default_factory=queue.Queue)
    events: list[PageEvent] = field(default_factory=list)


class Site:
    """See the head of this file. folder: the page's files; models: at /models/NAME."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: dict[str, Path] = {}
        self.files: dict[str, bytes] = {}  # by path: more files of all origins
        self.requests: list[tuple[str, str, str | None]] = []  # (origin, path, Range) of what is not the remote control's
        self._pages: dict[str, PageState] = {}
        self._results: dict[int, dict[str, Any]] = {}
        self._modules: dict[str, str] = {}
        self._calls = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._servers = {origin: _Server(self, origin) for origin in ORIGINS}
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def url(self, path: str, origin: str = "isolated") -> str:
        return f"http://127.0.0.1:{self._servers[origin].server_address[1]}{path}"

    # Pages

    def page(self, origin: str = "isolated", csp: bool = True) -> PageState:
        name = secrets.token_hex(4)
        page = PageState(name, self.url(f"/remote/remote.html?page={name}", origin), csp)
        self._pages[name] = page
        return page

    def wait_for(self, page: PageState, documents: int, seconds: float) -> bool:
        """Whether the page has asked for something to do, as its so-manieth document."""
        with self._changed:
            return self._changed.wait_for(lambda: page.documents >= documents, seconds)

    def send(self, page: PageState, url: str, seconds: float) -> bool:
        """Make the page go to `url` ("reload": load itself again); False if it does not answer."""
        return self._ask(page, {"go": url}, seconds) is not None

    def call(self, page: PageState, source: str, args: Mapping[str, Any], seconds: float) -> Any:
        """Import `source`, a module with a default export or the body of an async function (args, {note}), in the page, and
        call it; what it returns, or PageError, or PageHung."""
        if "export default" not in source:
            source = f"export default async function snippet(args, {{ note }}) {{\n{source}\n}}\n"
        first = len(page.events)
        name = f"/remote/snippet-{secrets.token_hex(4)}.js"
        self._modules[name] = source
        answer = self._ask(page, {"module": name, "args": json.loads(json.dumps(args, default=encode))}, seconds)
        events = page.events[first:]
        if answer is None:
            raise PageHung(f"the page did not answer within {seconds:.0f} s" + "".join(f"\n  {event}" for event in events))
        if "error" in answer:
            raise PageError(answer["error"], events)
        return answer["value"]

    def _ask(self, page: PageState, command: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        with self._changed:
            self._calls += 1
            number = self._calls
            page.commands.put(command | {"id": number})
            self._changed.notify_all()
            self._changed.wait_for(lambda: number in self._results or self._closing.is_set(), seconds)
            return self._results.pop(number, None)

    # For the handlers, in their threads

    def module(self, path: str) -> str | None:
        return self._modules.get(path)

    def known(self, name: str) -> PageState | None:
        return self._pages.get(name)

    def next_command(self, page: PageState, document: str) -> dict[str, Any] | int:
        """A command, or the status of an answer without one."""
        with self._changed:
            if document != page.document:
                page.document = document
                page.documents += 1
                self._changed.notify_all()
            ready = self._changed.wait_for(
                lambda: self._closing.is_set() or page.document != document or not page.commands.empty(), POLL_SECONDS
            )
            if self._closing.is_set() or page.document != document:
                return 410
            return page.commands.get_nowait() if ready else 204

    def result(self, answer: dict[str, Any]) -> None:
        with self._changed:
            self._results[answer["id"]] = answer
            self._changed.notify_all()

    def event(self, page: PageState, event: PageEvent) -> None:
        page.events.append(event)

    def file(self, path: str, origin: str) -> bytes | Path | None:
        """What lies at a path: bytes, or a file to be read as it is asked for."""
        if path in self.files:
            return self.files[path]
        if path.startswith("/remote/"):
            return _inside(HERE, path.removeprefix("/remote/"))
        if path.startswith("/models/"):
            return self.models.get(path.removeprefix("/models/"))
        if origin == "foreign" and not path.startswith("/pyodide/"):
            return None
        return _inside(self.folder, path.removeprefix("/") or "index.html")


def encode(value: object) -> dict[str, str]:
    """Bytes and numpy arrays for remote.js."""
    if isinstance(value, bytes):
        value = np.frombuffer(value, np.uint8)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a page cannot be sent a {type(value).__name__}")
    name = {"f4": "Float32Array", "f8": "Float64Array", "u1": "Uint8Array", "i1": "Int8Array", "u2": "Uint16Array",
            "u4": "Uint32Array", "i4": "Int32Array", "i8": "BigInt64Array", "u8": "BigUint64Array"}[value.dtype.str[1:]]
    return {"$array": name, "base64": base64.b64encode(value.tobytes()).decode()}


def decode(value: dict[str, Any]) -> Any:
    """An object of remote.js's JSON: typed arrays become numpy's."""
    if "$number" in value:
        return float(value["$number"].replace("Infinity", "inf"))
    if "$array" not in value:
        return value
    name = value["$array"].removesuffix("Array").removeprefix("Big").replace("Clamped", "").lower()
    return np.frombuffer(base64.b64decode(value["base64"]), np.dtype(name))


def _inside(root: Path, name: str) -> Path | None:
    path = (root / name).resolve()
    return path if path.is_file() and path.is_relative_to(root.resolve()) else None


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, site: Site, origin: str) -> None:
        self.site, self.origin = site, origin
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no failure; others end the connection, and the test that waits for it."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        site, path = self.server.site, split.path
        page = site.known(parse_qs(split.query).get("page", [""])[0])
        if path == "/remote/next" and page:
            command = site.next_command(page, parse_qs(split.query)["doc"][0])
            self._send(command if isinstance(command, int) else 200, json.dumps(command).encode() if command != 204 else b"")
        elif module := site.module(path):
            self._send(200, module.encode(), {"Content-Type": "text/javascript"})
        else:
            site.requests.append((self.server.origin, path, self.headers.get("Range")))
            extra = {"Content-Security-Policy": CSP} if (page.csp if page else self.server.origin != "foreign") else {}
            self._send_file(path, extra)

    do_HEAD = do_GET  # noqa: N815  the name that http.server looks for

    def do_POST(self) -> None:
        split = urlsplit(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        page = self.server.site.known(parse_qs(split.query).get("page", [""])[0])
        if page and split.path == "/remote/result":
            self.server.site.result(json.loads(body, object_hook=decode))
        elif page and split.path == "/remote/event":
            said = json.loads(body)
            self.server.site.event(page, PageEvent(said["kind"], said["text"]))
        else:
            self._send(404, b"")
            return
        self._send(204, b"")

    def _send_file(self, path: str, extra: dict[str, str]) -> None:
        content = self.server.site.file(path, self.server.origin)
        if content is None:
            self._send(404, f"there is nothing at {path}\n".encode(), {"Content-Type": "text/plain"})
            return
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        etag = f'"{size}-{"" if isinstance(content, bytes) else content.stat().st_mtime_ns}"'
        kind = TYPES.guess_type(path)[0] or "application/octet-stream"
        headers = extra | {"Content-Type": kind, "ETag": etag, "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range")
        if asked is None and self.headers.get("If-None-Match") == etag:
            self._send(304, b"", headers)
            return
        span = parse_range(asked, size) if asked else (0, size)
        if span is None:
            self._send(416, b"", headers | {"Content-Range": f"bytes */{size}"})
            return
        if asked:
            headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
        self._begin(206 if asked else 200, span[1] - span[0], headers)
        if self.command == "HEAD":
            return
        if isinstance(content, bytes):
            self.wfile.write(content[slice(*span)])
            return
        with content.open("rb") as file:
            file.seek(span[0])
            left = span[1] - span[0]
            while left and (piece := file.read(min(PIECE_BYTES, left))):
                self.wfile.write(piece)
                left -= len(piece)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._begin(status, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: int, n_bytes: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        isolation = ISOLATION if self.server.origin == "isolated" else {}
        # Stored, but asked about each time: so code that was compiled once is not compiled again.
        caching = {"Cache-Control": "no-store" if self.path.startswith("/remote/") else "no-cache"}
        for name, value in {**caching, **CORS, **isolation, **headers}.items():
            self.send_header(name, value)
        if status != 204 and status != 304:
            self.send_header("Content-Length", str(n_bytes))
        self.end_headers()

