"""A server of ours in a thread of this process, on a port that is free.

    with running(make_app(folder)) as server:
        httpx.get(server.url + "models")
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from wasmrt.serve.server import listen, make_server, url_of


@dataclass
class Running:
    url: str  # ends in "/"
    port: int
    server: uvicorn.Server

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)


@contextlib.contextmanager
def running(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> Iterator[Running]:
    """Serves until the context ends, which cuts what is being served."""
    server = make_server(app)
    with listen(host, port) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="wasmrt-serve", daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not server.started:
                assert thread.is_alive(), "the server ended before it had started"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.01)
            yield Running(url_of(host, port), port, server)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server did not end"
