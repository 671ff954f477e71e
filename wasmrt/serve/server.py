"""The web server around the app: uvicorn, with limits that it lacks, on a socket of ours."""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from wasmrt.errors import SourceError
from wasmrt.serve.app import make_app, page_folder
from wasmrt.serve.headers import address, is_loopback
from wasmrt.serve.key import make_key

log = logging.getLogger("wasmrt")

HEADER_BYTES = 16 << 10  # of a request that is not complete
HEADER_SECONDS = 10.0  # for a whole request, however slowly it drips
IDLE_SECONDS = 15  # between requests
FLUSH_SECONDS = 60.0  # for what was buffered when a connection is closed
BUSY_CONNECTIONS = 128  # from so many on, requests are answered 503; from twice as many on, connections are cut

HINTS = {
    errno.EADDRINUSE: "stop what uses it, or choose another with --port",
    errno.EACCES: "choose a port from 1024 on with --port",
}


class Limited(H11Protocol):
    """A connection that nobody can hold without using it.

    uvicorn has a time-out between requests, and none within one. Requests have no bodies here, so one that has not ended in
    time, header or body, ends with its connection.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > 2 * BUSY_CONNECTIONS:
            transport.abort()
            return
        # Answers that cannot be completed break the connection by it: see files.py.
        self.app_state = {**self.app_state, "abort": transport.abort}
        self._deadline = self.loop.call_later(HEADER_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):  # all of a request is there
            self._cancel_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._deadline = self._deadline or self.loop.call_later(FLUSH_SECONDS, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """At once: who is in the middle of many GB is not waited for, and whatever that breaks is not worth a line."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)  # until the next Config
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0: any that is free. Raises SourceError if it cannot be had."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(place[:2], family=family, backlog=BUSY_CONNECTIONS)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number in errno.errorcode else getattr(error, "strerror", None) or error
        hint = HINTS.get(number, "name a host of this machine with --host")
        raise SourceError(f"cannot listen on {where}: {reason}; {hint}") from error


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Call its run(sockets=[...]) on a socket from listen(); should_exit = True ends it."""
    config: dict[str, Any] = {
        "http": Limited,
        "ws": "none",
        "loop": "asyncio",
        "lifespan": "on",
        "log_config": None,
        "log_level": logging.ERROR,  # that a request was malformed is the client's affair
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "limit_concurrency": BUSY_CONNECTIONS,
        "timeout_keep_alive": IDLE_SECONDS,
        "timeout_graceful_shutdown": 1,
        "h11_max_incomplete_event_size": HEADER_BYTES,
    }
    return Server(uvicorn.Config(app, **config))


def serve(
    where: str | os.PathLike[str] | None,
    host: str,
    port: int,
    *,
    key: str | None = None,
    public: bool = False,
    cors: Sequence[str] = (),
    bytes_per_second: float | None = None,
    latency_seconds: float = 0.0,
    started: Callable[[str], object] | None = None,
) -> None:
    """Serve until interrupted. started: called with the address once it listens. Raises SourceError.

    key: as for make_app; without one a new one is made where other machines can come in, unless it is public.
    """
    keep = key is not None or public or is_loopback(host)
    if not keep:
        key = make_key()
    app = make_app(
        where,
        bound=host,
        key=key,
        keep=keep,
        cors=cors,
        bytes_per_second=bytes_per_second,
        latency_seconds=latency_seconds,
    )
    with listen(host, port) as listening:
        if missing := page_folder(None)[1]:
            log.warning("there is no page, only models at /models: %s", missing)
        if not is_loopback(host):
            who = "has the address below, with its key," if key else "reaches it"
            log.warning("%s can be reached by other machines: whoever %s may read every model that is served", host, who)
        if started:
            started(url_of(host, listening.getsockname()[1]) + (f"{key}/" if key else ""))
        make_server(app).run(sockets=[listening])


def url_of(host: str, port: int) -> str:
    """What to type into a browser on this machine: where a server listens everywhere, loopback is part of it."""
    number = address(host)
    if number and number.is_unspecified:
        host = "127.0.0.1" if number.version == 4 else "::1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
