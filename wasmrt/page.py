"""What the page's worker runs: requests come in as JSON, answers go out as JSON. web/engine-worker.js has their table.

A request is a task of its own, so that one waits for weights or a GPU while others are answered. Nothing here touches
JavaScript: `post` does.
"""

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from wasmrt import browser, engine
from wasmrt.errors import DeviceError, WasmrtError
from wasmrt.options import EngineOptions, parse_bytes
from wasmrt.speed import Measured
from wasmrt.store.open import Opened, open_model
from wasmrt.text import Generation

# A message, and numbers that go with it (format "f").
Post = Callable[[str, "memoryview[Any] | None"], None]

EXAMINED_SECONDS = 60.0  # what was examined stays open so long: whoever plans again, or opens it, need not read its header anew
PROGRESS_SECONDS = 0.1  # between two messages about the same load
MOST_AHEAD = 64  # pieces that are computed while the page has not asked for more

_request: ContextVar[int | None] = ContextVar("request", default=None)


class Page:
    """The models that are open, by the number of the request that opened each, and the requests under way."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._models: dict[int, engine.Model] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._texts: dict[int, Outgoing] = {}
        self._stopped: set[int] = set()  # requests that are to end before they have begun
        self._owners: dict[int, int] = {}  # request -> the model that it is about
        self._keys: dict[int, str] = {}  # of what is open: how the page names it
        self._heirs: dict[int, int] = {}  # request that opened a file to examine it -> the last that has to do with that file
        self._examined: Examined | None = None
        self._examining = asyncio.Lock()
        self._measured = Measured()
        self._notes = _Notes(self)
        logging.getLogger("wasmrt").addHandler(self._notes)

    def handle(self, text: str, ref: Any = None) -> None:
        """Take a message. ref: the File or Blob that it is about."""
        message = json.loads(text)
        if "cancel" in message:
            if task := self._tasks.get(message["cancel"]):
                task.cancel()
        elif "stop" in message:
            if outgoing := self._texts.get(message["stop"]):
                outgoing.stop()
            elif message["stop"] in self._tasks:
                self._stopped.add(message["stop"])
        elif "taken" in message:
            if outgoing := self._texts.get(message["taken"]):
                outgoing.taken()
        else:
            self._begin(message, ref)

    async def close(self) -> None:
        """End all requests and close all models."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._forget()
        for number in list(self._models):
            await self._models.pop(number).close()
        logging.getLogger("wasmrt").removeHandler(self._notes)

    def send(self, message: dict[str, Any], numbers: "memoryview[Any] | None" = None) -> None:
        self._post(json.dumps(message, allow_nan=False), numbers)

    # A request

    def _begin(self, message: dict[str, Any], ref: Any) -> None:
        number = message["id"]
        self._tasks[number] = task = asyncio.ensure_future(self._answer(number, message, ref))
        if "model" in message:
            self._owners[number] = message["model"]
        task.add_done_callback(partial(self._ended, number))

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        del self._tasks[number]
        self._stopped.discard(number)
        self._owners.pop(number, None)
        if task.cancelled():  # also one that had not begun
            self.send({"id": number, "error": {"kind": "AbortError", "message": "the request was cancelled"}})
        else:
            task.result()

    async def _answer(self, number: int, message: dict[str, Any], ref: Any) -> None:
        _request.set(number)
        try:
            value, numbers = await self._do(message, ref)
            self.send({"id": number, "done": value}, numbers)
        except Exception as error:  # whatever it is, the page is told
            self.send({"id": number, "error": describe(error)})
            await self._close(number, number)  # a model that was opened, but could not be described: nobody knows of it

    async def _do(self, message: dict[str, Any], ref: Any) -> "tuple[Any, memoryview[Any] | None]":
        """The answer, and numbers that go with it."""
        what, options = message["do"], message.get("options", {})
        if isinstance(options.get("seed"), str):
            options["seed"] = int(options["seed"])  # JavaScript's numbers end at 2**53
        ref = message.get("ref") if ref is None else ref
        key = message.get("key") or (ref if isinstance(ref, str) else "")
        if what == "open":
            return await self._open(message["id"], ref, key, options), None
        if what == "examine":
            return await self._examine(message["id"], ref, key, options), None
        if what == "forget":
            await self._forget()
            return None, None
        if what == "close":
            await self._close(message["model"], message["id"])
            return None, None
        model = self._models.get(message["model"])
        if model is None:
            raise DeviceError("the model was closed; open it again")
        match what:
            case "generate":
                return await self._generate(message["id"], model.generate(message["prompt"], **options)), None
            case "chat":
                return await self._generate(message["id"], model.chat(message["messages"], **options)), None
            case "tokenize":
                return model.tokenize(message["text"], **options), None
            case "detokenize":
                return model.detokenize(message["ids"]), None
            case "logits":
                logits = await model.logits(message["ids"])
                return {"shape": list(logits.shape or ())}, logits
            case "stats":
                return model.stats.as_dict(), None
            case "map":
                return model.map(), None
            case "loaded":
                await model.loaded()
                return None, None
            case "lower_memory":
                await model.lower_memory(message["memory"])
                return model.plan.as_dict(), None
        raise ValueError(f"{what!r} is no request")

    async def _open(self, number: int, ref: Any, key: str, options: dict[str, Any]) -> dict[str, Any]:
        progress = Progress(partial(self._tell_progress, number))
        async with self._examining:
            known, self._examined = self._examined, None
            if known is not None:
                known.leave()
                if (known.key, known.cache) == (key, options.get("cache", True)):
                    ref = known.opened
                    self._heirs[known.request] = number
                else:
                    self._heirs.pop(known.request, None)
                    await known.opened.source.close()
        try:
            model = await engine.open(ref, **options, wait=False, progress=progress)
        except BaseException:
            if isinstance(ref, Opened):  # options may be refused before the engine has it
                await ref.source.close()
            raise
        self._models[number], self._keys[number] = model, key
        return {"name": model.name, "config": model.config.as_dict(), "plan": model.plan.as_dict()}

    async def _examine(self, number: int, ref: Any, key: str, options: dict[str, Any]) -> dict[str, Any]:
        """What would come of opening a model, which is not opened: of a file that is known nothing is read again."""
        from wasmrt import planning  # only here: the engine starts sooner without

        budgets = {name: parse_bytes(options.get(name)) for name in ("memory", "gpu_memory")}
        cache = options.pop("cache", True)
        chosen = EngineOptions(**{**options, **budgets})
        async with self._examining:  # one at a time: what is measured has the machine to itself
            in_use = next((self._models[n].opened for n, name in self._keys.items() if name == key), None)
            opened = in_use or await self._look_at(number, ref, key, cache)
            try:
                found = await planning.outlook(opened, chosen, self._measured)
            except WasmrtError:
                await self._forget_now()
                raise
        found["download"] |= await disk_room()
        return found

    async def _look_at(self, number: int, ref: Any, key: str, cache: bool) -> Opened:
        """The header of a model, read if it is not that of what was examined last."""
        known = self._examined
        if known is None or (known.key, known.cache) != (key, cache):
            await self._forget_now()
            opened = Opened(*await open_model(ref, cache))
            known = self._examined = Examined(key, cache, opened, number)
        self._heirs[known.request] = number
        known.stay(EXAMINED_SECONDS, lambda: asyncio.ensure_future(self._forget(known)))
        return known.opened

    async def _forget(self, which: "Examined | None" = None) -> None:
        """Close what was examined last; `which`: if it still is that."""
        async with self._examining:
            if which is None or which is self._examined:
                await self._forget_now()

    async def _forget_now(self) -> None:
        known, self._examined = self._examined, None
        if known is not None:
            known.leave()
            self._heirs.pop(known.request, None)
            self._measured.forget(known.opened.source)
            await known.opened.source.close()

    def about(self, number: int | None) -> int | None:
        """Whom a note is for: what a file has to say, as that no more of it is kept, may come long after it was opened."""
        return number if number is None else self._heirs.get(number, number)

    def _tell_progress(self, number: int, done: int, total: int) -> None:
        self.send({"id": number, "progress": [done, total]})

    async def _close(self, number: int, request: int) -> None:
        """Close a model, after what was asked of it was cancelled. Closing it again does nothing."""
        model = self._models.pop(number, None)
        self._keys.pop(number, None)
        self._heirs = {first: last for first, last in self._heirs.items() if last != number}
        tasks = [self._tasks[one] for one, owner in self._owners.items() if owner == number and one != request]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if model is not None:
            await model.close()

    async def _generate(self, number: int, generation: Generation) -> dict[str, Any]:
        outgoing = self._texts[number] = Outgoing(generation, partial(self._tell_pieces, number))
        if number in self._stopped:
            outgoing.stop()
        try:
            await outgoing.run()
        finally:
            del self._texts[number]
            await generation.aclose()
        return {"stats": generation.stats.as_dict(), "tokens": outgoing.rest(), "prompt_tokens": generation.prompt_tokens}

    def _tell_pieces(self, number: int, pieces: list[str], tokens: list[int]) -> None:
        self.send({"id": number, "pieces": pieces, "tokens": tokens})


async def disk_room() -> dict[str, float | None]:
    """What this origin may keep on the disk and what it does, in bytes; None where nobody says."""
    if not browser.IN_PAGE:
        return {"quota": None, "usage": None}
    await browser.load("storage")
    room = await browser.module("storage").estimate()
    return {"quota": float(room.quota) or None, "usage": float(room.usage) if room.quota else None}


@dataclass(eq=False)
class Examined:
    """A model that was looked at, and may be opened or planned for again."""

    key: str
    cache: bool
    opened: Opened
    request: int  # that has opened it
    timer: asyncio.TimerHandle | None = None

    def stay(self, seconds: float, then: Callable[[], object]) -> None:
        """For so long from now on."""
        self.leave()
        self.timer = asyncio.get_running_loop().call_later(seconds, then)

    def leave(self) -> None:
        """Somebody else sees to its end."""
        if self.timer is not None:
            self.timer.cancel()


class Outgoing:
    """A text on its way to the page: one message at a time, which holds all pieces that came since the last was taken."""

    def __init__(self, generation: Generation, send: Callable[[list[str], list[int]], None]) -> None:
        self._generation = generation
        self._send = send
        self._pieces: list[str] = []  # that were not sent
        self._n_sent = 0  # tokens
        self._in_flight = False
        self._may_go_on = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Generate to the end, or until stopped. What is not sent then goes without having been asked for."""
        async for piece in self._generation:
            self._pieces.append(piece)
            if not self._in_flight:
                self._flush()
            if len(self._pieces) >= MOST_AHEAD and self._stopping is None:
                self._may_go_on.clear()
                await self._may_go_on.wait()
        if self._stopping is not None:
            await self._stopping
        if self._pieces:
            self._flush()

    def taken(self) -> None:
        """The page has used what it was sent, and waits for more."""
        self._in_flight = False
        if self._pieces:
            self._flush()

    def stop(self) -> None:
        self._may_go_on.set()
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._generation.aclose())

    def rest(self) -> list[int]:
        """Tokens that gave no piece of their own."""
        return self._generation.tokens[self._n_sent :]

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        self._in_flight = True
        self._may_go_on.set()
        tokens = self.rest()
        self._n_sent += len(tokens)
        self._send(pieces, tokens)


class Progress:
    """Passes on how far a load is: often enough to look at, and its end."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now >= self._next:
            self._next = now + PROGRESS_SECONDS
            self._tell(done, total)


class _Notes(logging.Handler):
    """What the engine has to say besides goes to the page, with the request that it was said in."""

    def __init__(self, page: Page) -> None:
        super().__init__(logging.WARNING)
        self._page = page

    def emit(self, record: logging.LogRecord) -> None:
        number = self._page.about(_request.get())
        self._page.send({"note": record.getMessage()} | ({} if number is None else {"id": number}))


def describe(error: Exception) -> dict[str, str]:
    """kind: the name of the class. trace: where it was, if it is none of those that are raised on purpose."""
    told = {"kind": type(error).__name__, "message": str(error) or type(error).__name__}
    if not isinstance(error, WasmrtError | ValueError | TypeError):
        told["trace"] = "".join(traceback.format_exception(error))
    return told
