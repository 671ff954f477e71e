"""Headers that every answer has, media types, and whose Host, Origin and key are accepted."""

import ipaddress
import re
import socket
from collections.abc import Sequence
from pathlib import PurePosixPath

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wasmrt.serve.key import entered

# The page loads nothing from elsewhere and runs no code made of text; only a model's own URL may be anywhere.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self' https: http:; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
DATA_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
SAME_ORIGIN, CROSS_ORIGIN = "same-origin", "cross-origin"
# The first two make a page cross-origin isolated.
EVERYWHERE = {
    "Cross-Origin-Opener-Policy": SAME_ORIGIN,
    "Cross-Origin-Embedder-Policy": "require-corp",
    # About requests without CORS, which do not say whose they are. Those with CORS do without it, in isolated pages too.
    "Cross-Origin-Resource-Policy": SAME_ORIGIN,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
EXPOSED = "Content-Range, Content-Length, ETag, Accept-Ranges"
FOR_A_YEAR, ASK_AGAIN = "public, max-age=31536000, immutable", "no-cache"

# Not the system's table: there a script may be text/plain, which browsers do not run.
MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "gguf": "application/octet-stream",
    "html": "text/html; charset=utf-8",
    "ico": "image/x-icon",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "map": "application/json",
    "mjs": "text/javascript; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
    "wasm": "application/wasm",
    "webmanifest": "application/manifest+json",
    "whl": "application/zip",
    "zip": "application/zip",
}
HASHED = re.compile(r"[.-][0-9a-f]{8,64}\.[^/]+")  # name-0123abcd.js: such a file never changes

HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_.-]{1,253})(:[0-9]{0,5})?", re.IGNORECASE)


def media_type(name: str) -> str:
    return MEDIA_TYPES.get(PurePosixPath(name).suffix[1:].lower(), "application/octet-stream")


def caching(name: str) -> str:
    """Of a file of the page."""
    return FOR_A_YEAR if HASHED.search(PurePosixPath(name).name) else ASK_AGAIN


def address(host: str) -> "ipaddress.IPv4Address | ipaddress.IPv6Address | None":
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a server that listens there can be reached from this machine alone."""
    number = address(host)
    return number.is_loopback if number else host.lower().rstrip(".") == "localhost"


def host_is_ours(header: str, bound: str) -> bool:
    """Whether a request with this Host header is meant for a server that listens on `bound`.

    A page elsewhere may have its own name lead here (rebinding) and would then read answers as its own: such a request still
    has that name as its Host. An address as Host has not been through a name, so it is right wherever others may come in.
    """
    match = HOST.fullmatch(header.strip())
    if match is None:
        return False
    name = match[1].lower().rstrip(".")
    if is_loopback(name):
        return True
    if is_loopback(bound):
        return False
    machine = socket.gethostname().lower()
    return address(name) is not None or name in (bound.lower(), machine, f"{machine}.local")


class Guard:
    """Around the app: refuses hosts that are not ours and whoever lacks the key, adds the headers, answers what browsers ask
    before requests (CORS)."""

    def __init__(self, app: ASGIApp, *, bound: str, origins: Sequence[str], key: str | None) -> None:
        self._app, self._bound, self._origins, self._key = app, bound, frozenset(origins), key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = {name: value.decode("latin-1") for name, value in scope["headers"]}
        inside = entered(scope, self._key)
        root = inside.get("root_path", "") if inside else ""
        path = scope["path"][len(root) :]
        shared = bool(self._origins) and (path == "/models" or path.startswith("/models/"))
        origin = given.get(b"origin", "")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                self._add(headers, shared, origin)
            await send(message)

        app = self._app
        if not host_is_ours(given.get(b"host", ""), self._bound):
            app = PlainTextResponse("This server does not answer to that name.\n", 421, {"Connection": "close"})
        elif scope["method"] == "OPTIONS" and shared and self._allows(origin):
            allowed = {"Access-Control-Allow-Methods": "GET, HEAD", "Access-Control-Max-Age": "86400"}
            allowed["Access-Control-Allow-Headers"] = "Authorization, Range, If-Range, If-Match, If-None-Match"
            app = Response(status_code=204, headers=allowed)  # whoever asks so has no key as yet
        elif inside is None:
            wanted = "This server wants its key: open the address that it printed, or send Authorization: Bearer KEY.\n"
            app = PlainTextResponse(wanted, 401, {"WWW-Authenticate": "Bearer"})
        elif root and not path:  # links of a page at /KEY would lead out of it
            app = Response(status_code=307, headers={"Location": f"{root}/"})
        await app(inside or scope, receive, send_with_headers)

    def _allows(self, origin: str) -> bool:
        return origin in self._origins or (bool(origin) and "*" in self._origins)

    def _add(self, headers: MutableHeaders, shared: bool, origin: str) -> None:
        headers.setdefault("Content-Security-Policy", DATA_POLICY)
        headers.setdefault("Cache-Control", "no-store")
        for name, value in EVERYWHERE.items():
            headers[name] = value
        if shared and "*" in self._origins:
            headers["Cross-Origin-Resource-Policy"] = CROSS_ORIGIN
        if shared:
            if "*" in self._origins:
                headers["Access-Control-Allow-Origin"] = "*"
            else:
                headers.add_vary_header("Origin")
                if origin in self._origins:
                    headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = EXPOSED
