"""From ids to pieces of text: a generation as its caller sees it, with stop strings."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Protocol

from wasmrt.generate import GenerationStats

MAX_STOPS = 64
MAX_STOP_LENGTH = 1024


class Pieces(Protocol):
    """Turns ids into text as they come (Tokenizer.stream)."""

    def push(self, id: int) -> str: ...
    def flush(self) -> str: ...


class PlainIds:
    """Pieces for a model whose file has no tokenizer: each id in decimal, and a space."""

    def push(self, id: int) -> str:
        return f"{id} "

    def flush(self) -> str:
        return ""


def check_stops(stop: str | Sequence[str]) -> tuple[str, ...]:
    """Stop strings as a tuple; ValueError for empty, overlong or too many."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MAX_STOPS:
        raise ValueError(f"{len(stops)} stop strings; at most {MAX_STOPS} are allowed")
    for s in stops:
        if not isinstance(s, str) or not 0 < len(s) <= MAX_STOP_LENGTH:
            raise ValueError(f"a stop string must have 1 to {MAX_STOP_LENGTH} characters, not {s!r:.40}")
    return stops


class StopMatcher:
    """Passes text on, but holds back what may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that may be shown now, and whether a stop string came; the string itself is not shown."""
        self._held += text
        found = [at for s in self._stops if (at := self._held.find(s)) >= 0]
        if found:
            shown, self._held = self._held[: min(found)], ""
            return shown, True
        keep = max((self._overlap(s) for s in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, False

    def flush(self) -> str:
        """What was held back and turned out not to be a stop string."""
        held, self._held = self._held, ""
        return held

    def _overlap(self, stop: str) -> int:
        """Characters at the end of the held text that begin this stop string."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if stop.startswith(self._held[-n:])), 0)


class Generation(AsyncIterator[str]):
    """An async iterator over pieces of text. `tokens` and `text` grow with it, `stats` is complete at its end.

    Leaving it early is fine. `aclose`, from any task, or cancelling the task that waits for a piece stops it between two ops.
    """

    def __init__(
        self,
        ids: AsyncGenerator[int, None],
        pieces: Pieces,
        stops: Sequence[str],
        prompt_tokens: Sequence[int],
        stats: GenerationStats,
    ) -> None:
        self.prompt_tokens = list(prompt_tokens)
        self.tokens: list[int] = []
        self.text = ""
        self.stats = stats
        self._ids = ids
        self._closed = False
        self._piece: asyncio.Future[str | None] | None = None
        self._run = self._texts(pieces, StopMatcher(stops))

    async def _texts(self, pieces: Pieces, matcher: StopMatcher) -> AsyncGenerator[str, None]:
        async for token in self._ids:
            self.tokens.append(token)
            shown, stopped = matcher.push(pieces.push(token))
            if shown:
                yield shown
            if stopped:
                self.stats.finish = "stop"
                return
        shown, stopped = matcher.push(pieces.flush())
        if stopped:
            self.stats.finish = "stop"
        rest = shown if stopped else shown + matcher.flush()
        if rest:
            yield rest

    async def __anext__(self) -> str:
        if self._closed:
            raise StopAsyncIteration
        self._piece = asyncio.ensure_future(anext(self._run, None))
        try:
            piece = await self._piece
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.stats.finish == "closed" and task is not None and not task.cancelling():
                raise StopAsyncIteration from None  # it was `aclose` that cancelled the piece, not somebody the waiting task
            raise
        if piece is None:
            raise StopAsyncIteration
        self.text += piece
        return piece

    async def aclose(self) -> None:
        """Stop generating; a task that waits for a piece sees the iterator end. Idempotent."""
        self._closed = True
        self.stats.finish = self.stats.finish or "closed"
        if self._piece is not None and not self._piece.done():
            self._piece.cancel()
            await asyncio.wait([self._piece])
        await self._run.aclose()
        await self._ids.aclose()
