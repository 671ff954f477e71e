"""The web application: / is the page, /models a list, /models/NAME a model's bytes by range. It only ever gives out files."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from wasmrt import resources
from wasmrt.errors import SourceError
from wasmrt.serve.catalog import Catalog
from wasmrt.serve.describe import Describer
from wasmrt.serve.files import FileAnswer, open_file
from wasmrt.serve.headers import ASK_AGAIN, PAGE_POLICY, Guard, caching, media_type
from wasmrt.serve.link import Link
from wasmrt.serve.offline import SERVICE_WORKER
from wasmrt.serve.paths import inside, parts_of

T = TypeVar("T")

READERS = 8  # threads that read files
PAGE_DEPTH = 12  # names in the path of a page's file


def make_app(
    where: str | os.PathLike[str] | None = None,
    page: str | os.PathLike[str] | None = None,
    *,
    bound: str = "127.0.0.1",
    key: str | None = None,
    keep: bool = True,
    cors: Sequence[str] = (),
    bytes_per_second: float | None = None,
    latency_seconds: float = 0.0,
) -> Starlette:
    """An app that serves a folder of models, one model, or (None) the demo model alone. Raises SourceError if there is none.

    page: the folder of the page; None: the one that was built or installed, and if there is none, / says so.
    bound: the host that the server listens on, which decides what requests may call it.
    key: what a request must have as the first name of its path, or in its Authorization; None: any may come in.
    keep: let browsers keep the page for when there is no network: not at an address that is never used again.
    cors: origins whose pages may read /models, "*" for all.
    bytes_per_second, latency_seconds: of a link to imitate.
    """
    catalog, pool = Catalog(where), ThreadPoolExecutor(READERS, "wasmrt-serve")
    describer = Describer(catalog, pool)
    root, missing = page_folder(page)

    async def models(request: Request) -> Response:
        # In ASCII: what files say may be text that UTF-8 does not have.
        listed, root = await describer.models(), request.scope.get("root_path", "")  # with the key, if it came in the path
        return Response(
            json.dumps({"models": [{**item, "url": root + item["url"]} for item in listed]}), media_type="application/json"
        )

    async def model(request: Request) -> Response:
        path = await _in_pool(catalog.find, request.path_params["name"])
        headers = {"Cache-Control": f"{ASK_AGAIN}, no-transform"}
        return await _file(request, path, headers, media_type("x.gguf"))

    async def page_file(request: Request) -> Response:
        name = request.path_params["path"] or "index.html"
        parts = parts_of(name, PAGE_DEPTH)
        if name == SERVICE_WORKER and not keep:
            parts = None
        path = await _in_pool(inside, root, parts) if root and parts else None
        if path is None and name == "index.html":
            why = missing or "the page's folder has no index.html"
            return PlainTextResponse(f"There is no page here: {why}\nThe models are at /models.\n", 404)
        headers = {"Cache-Control": caching(name), "Content-Security-Policy": PAGE_POLICY}
        return await _file(request, path, headers, media_type(name))

    async def _in_pool(function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)

    async def _file(request: Request, path: Path | None, headers: dict[str, str], kind: str) -> Response:
        with contextlib.suppress(SourceError):  # it was there a moment ago, or may not be read
            if path is not None:
                return FileAnswer(await open_file(path, pool), pool, request, headers, kind)
        return PlainTextResponse("There is no such file.\n", 404)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            describer.close()
            pool.shutdown(wait=False, cancel_futures=True)

    app = Starlette(
        routes=[Route("/models", models), Route("/models/{name:path}", model), Route("/{path:path}", page_file)],
        middleware=[
            Middleware(Guard, bound=bound, origins=cors, key=key),
            Middleware(Link, bytes_per_second=bytes_per_second, latency_seconds=latency_seconds),
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def page_folder(page: str | os.PathLike[str] | None) -> tuple[Path | None, str]:
    """The folder of the page, resolved; or None, and what to do about it."""
    try:
        return (resources.page() if page is None else Path(page)).resolve(), ""
    except SourceError as error:
        return None, str(error)
