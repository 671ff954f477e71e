"""What the list of models says about each: what it is and what it takes, from its header alone."""

import asyncio
import logging
import os
from collections import Counter
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wasmrt.device.choice import choose
from wasmrt.device.device import check_formats
from wasmrt.errors import WasmrtError
from wasmrt.fit import fit
from wasmrt.gguf.split import SHARD
from wasmrt.options import EngineOptions
from wasmrt.serve.catalog import Catalog, Entry
from wasmrt.serve.files import etag_of
from wasmrt.store.open import open_model

log = logging.getLogger("wasmrt")

TITLE = 200  # characters of a file's own words that are passed on: it may have 64 MiB of them, and the list is asked for often
PATIENCE_SECONDS = 5.0  # a list waits so long for headers that were not yet read; what is missing then is "pending"
# So that everything has room: what is told is what that takes, and the least that would do.
OPTIONS = EngineOptions(device="cpu", threads=1, memory=1 << 60)


class Describer:
    """Reads each version of a file once, in a thread of its own: bytes go on being sent meanwhile."""

    def __init__(self, catalog: Catalog, pool: Executor) -> None:
        self._catalog, self._pool = catalog, pool
        self._reader = ThreadPoolExecutor(1, "wasmrt-describe")
        self._known: dict[str, tuple[str, Future[dict[str, Any]]]] = {}  # by name: which version, and what is in it
        self._list: asyncio.Task[list[dict[str, Any]]] | None = None

    async def models(self) -> list[dict[str, Any]]:
        """All models, as plain values for JSON. Whoever asks while a list is being made gets that one: it costs a look at every
        file, and others want to read from the disk, too."""
        if self._list is None or self._list.done():
            self._list = asyncio.create_task(self._make_list())
        return await asyncio.shield(self._list)

    async def _make_list(self) -> list[dict[str, Any]]:
        found = await asyncio.get_running_loop().run_in_executor(self._pool, self._look)
        names = {item["name"] for _, item in found}
        self._known = {name: known for name, known in self._known.items() if name in names}
        waiting = []
        for entry, item in found:
            if "etag" in item and "shard" not in item:
                if self._known.get(entry.name, ("", None))[0] != item["etag"]:
                    self._known[entry.name] = item["etag"], self._reader.submit(describe, entry.path)
                waiting.append((item, self._known[entry.name][1]))
        if waiting:
            await asyncio.wait([asyncio.wrap_future(job) for _, job in waiting], timeout=PATIENCE_SECONDS)
        for item, job in waiting:
            item.update(job.result() if job.done() else {"pending": True})
        return [item for _, item in found]

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _look(self) -> list[tuple[Entry, dict[str, Any]]]:
        return [(entry, outline(entry)) for entry in self._catalog.entries()]


def outline(entry: Entry) -> dict[str, Any]:
    """What the file system knows. A later shard has no header of a model: it belongs to the first, and says so."""
    item: dict[str, Any] = {"name": entry.name, "url": f"/models/{quote(entry.name)}"}
    try:
        status = os.stat(entry.path)
    except OSError as error:
        return {**item, "error": f"cannot read {entry.name!r}: {error.strerror or error}"}
    item |= {"size": status.st_size, "etag": etag_of(status)}
    match = SHARD.fullmatch(entry.path.name)
    if match and int(match[2]) > 1:
        item["shard"] = {"number": int(match[2]), "of": int(match[3])}
    return item


def describe(path: Path) -> dict[str, Any]:
    """Blocks. What is wrong with a file is said in "error" (no model can be read) or in "why_not" (one that does not run)."""
    try:
        return asyncio.run(_describe(path))
    except WasmrtError as error:
        return {"error": _without_folder(error, path)}
    except Exception:  # ours to repair, but the other models are to be seen all the same
        log.exception("describing %r failed", str(path))
        return {"error": "wasmrt failed on this file, which is a bug; its traceback is in the server's output"}


async def _describe(path: Path) -> dict[str, Any]:
    source, header = await open_model(path)
    try:
        found: dict[str, Any] = {
            "architecture": header.metadata.get("general.architecture"),
            "title": header.metadata.get("general.name"),
            "n_parameters": sum(t.n_elements for t in header.tensors.values()),
            "formats": dict(Counter(t.type.name for t in header.tensors.values())),
        }
        found = {
            key: value[:TITLE] if isinstance(value, str) else value
            for key, value in found.items()
            if isinstance(value, str | int | dict)
        }
        try:
            fitted = await fit(source, header, choose(OPTIONS), OPTIONS)
            check_formats(fitted.built.programs)
        except WasmrtError as error:
            return {**found, "runs": False, "why_not": _without_folder(error, path)}
        plan = fitted.plan
        return {
            **found,
            "runs": True,
            "n_ctx": fitted.built.config.n_ctx_train,
            "plan": {
                "context": plan.context,
                "weights_bytes": plan.weight_bytes,
                "kv_bytes": plan.kv_bytes,
                "activation_bytes": plan.activation_bytes + plan.state_bytes,
                "total_bytes": plan.total_bytes,
                "minimum_bytes": plan.minimum_bytes,
            },
        }
    finally:
        await source.close()


def _without_folder(error: WasmrtError, path: Path) -> str:
    """Where the files lie on this machine is not told to others."""
    folder = f"{path.parent}{os.sep}"
    return str(error).replace(folder, "").replace(repr(folder)[1:-1], "")
