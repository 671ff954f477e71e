"""The synchronous facade: the async engine, driven by one background event loop for all models."""

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from wasmrt import engine
from wasmrt.errors import UnsupportedError, WasmrtError
from wasmrt.generate import GenerationStats
from wasmrt.options import Ref
from wasmrt.speed import Prediction
from wasmrt.store.plan import Plan
from wasmrt.text import Generation
from wasmrt.tokenizer import Tokenizer

T = TypeVar("T")

# On Windows a wait without a time-out cannot be interrupted by Ctrl-C.
WAKE_SECONDS = 0.2


class Background:
    """The event loop and its thread, started when they are first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        if sys.platform == "emscripten":
            raise UnsupportedError("a page cannot wait for a model; use `await wasmrt.open(...)`")
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="wasmrt", daemon=True).start()
            return self._loop


    def forget(self) -> None:
        """In a forked child, which has the loop but not its thread: kept unused, as closing it would reach the parent."""
        self._lock, self._abandoned, self._loop = threading.Lock(), self._loop, None


_background = Background()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_background.forget)


def call(coroutine: Coroutine[Any, Any, T], undo: Callable[[T], Coroutine[Any, Any, None]] | None = None) -> T:
    """Run a coroutine on the background loop and wait. Ctrl-C here cancels it there, waits until it has left, and is raised.

    undo: what to do with a result that came although the wait for it was interrupted.
    """
    loop = _background.loop()
    done: Future[T] = Future()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:
        tasks.append(loop.create_task(coroutine))
        tasks[0].add_done_callback(finish)

    def finish(task: asyncio.Task[T]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(task.result())

    def cancel() -> None:
        if tasks:
            tasks[0].cancel()
        else:  # interrupted before the task was handed over
            coroutine.close()
            done.set_exception(asyncio.CancelledError())

    try:
        loop.call_soon_threadsafe(start)
        return _wait(done)
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(cancel)
        with contextlib.suppress(asyncio.CancelledError, WasmrtError):
            result = _wait(done)
            if undo is not None:
                call(undo(result))
        raise


def _wait(future: "Future[T]") -> T:
    while True:
        try:
            return future.result(WAKE_SECONDS)
        except FutureTimeout:
            if future.done():
                return future.result()


class SyncGeneration(Iterator[str]):
    """A Generation for plain `for` loops: `tokens`, `text` and `stats` grow with it."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    @property
    def prompt_tokens(self) -> list[int]:
        return self._generation.prompt_tokens

    @property
    def tokens(self) -> list[int]:
        return self._generation.tokens

    @property
    def text(self) -> str:
        return self._generation.text

    @property
    def stats(self) -> GenerationStats:
        return self._generation.stats

    def __next__(self) -> str:
        async def step() -> str | None:
            return await anext(self._generation, None)

        piece = call(step())
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Stop generating, also from another thread."""
        call(self._generation.aclose())


class SyncModel:
    """An open model for code that may block. The same names as engine.Model, without await."""

    def __init__(self, model: engine.Model) -> None:
        self.engine = model
        self.config = model.config
        self.name = model.name

    @property
    def plan(self) -> Plan:
        return self.engine.plan

    @property
    def stats(self) -> engine.ModelStats:
        return self.engine.stats

    def map(self) -> dict[str, Any]:
        """What of the model is where at this moment, also while another thread computes: engine.Model.map."""
        return self.engine.map()

    @property
    def tokenizer(self) -> Tokenizer:
        return self.engine.tokenizer

    def tokenize(self, text: str, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        """Text to token ids; parse_special lets text such as "<|im_end|>" become control tokens."""
        return self.engine.tokenize(text, add_bos, parse_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Token ids to text; control tokens give none."""
        return self.engine.detokenize(ids)

    def generate(self, prompt: str | Sequence[int], **options: Any) -> SyncGeneration:
        """Continue a text or token ids, piece by piece; the options are those of engine.Model.generate."""
        return SyncGeneration(self.engine.generate(prompt, **options))

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> SyncGeneration:
        """Answer a conversation, piece by piece; the options are those of engine.Model.chat."""
        return SyncGeneration(self.engine.chat(messages, **options))

    def logits(self, ids: Sequence[int]) -> Any:
        """The logits after every position: a float32 array (len(ids), n_vocab)."""
        import numpy as np

        return np.asarray(call(self.engine.logits(ids)))

    def loaded(self) -> None:
        """Wait until the weights that stay are there: engine.Model.loaded."""
        call(self.engine.loaded())

    def predict(self) -> Prediction:
        """How fast a token will come, from a measurement that takes a moment: engine.Model.predict."""
        return call(self.engine.predict())

    def lower_memory(self, memory: int | str) -> None:
        """Keep to a smaller budget from now on: engine.Model.lower_memory."""
        call(self.engine.lower_memory(memory))

    def close(self) -> None:
        """Stop the device and give the memory back. Idempotent."""
        call(self.engine.close())

    def __enter__(self) -> "SyncModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(ref: Ref | None = None, **options: Any) -> SyncModel:
    """Open a model and wait until it is ready. Options (device, memory, context, threads, kv_type) are those of wasmrt.open().

    What a device has no use for is named in a note to the logger "wasmrt". Ctrl-C while it loads leaves nothing behind.
    """
    return SyncModel(call(engine.open(ref, **options), undo=engine.Model.close))


def load_tokenizer(ref: Ref | None = None) -> Tokenizer:
    """The tokenizer of a GGUF file, also of one that holds nothing but a vocabulary."""
    return call(engine.open_tokenizer(ref))
