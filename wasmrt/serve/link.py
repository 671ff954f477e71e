"""The link to the clients: none may hold an answer up for long; and a slow link, imitated, where all answers together carry so
many bytes a second, and each begins so much later."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wasmrt.serve.files import break_off

SEND_SECONDS = 60.0  # a client that takes no piece for so long has stopped reading
PIECES_A_SECOND = 20
LEAST_PIECE, MOST_PIECE = 512, 1 << 20
# While answers are under way, the link makes up for so much: timers are late, on a busy machine by many milliseconds.
LATE_SECONDS = 1.0


class Link:
    """Around the app. Bodies wait their turn in pieces, so that clients share the link evenly.

    A client that has stopped reading is cut off. What an answer waits for its turn is not the client's time.
    """

    def __init__(self, app: ASGIApp, *, bytes_per_second: float | None, latency_seconds: float) -> None:
        self._app, self._rate, self._latency = app, bytes_per_second, latency_seconds
        self._free_at = 0.0  # when what was asked for so far has been carried
        self._answers = 0  # under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def patiently(message: Message) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        async def slowly(message: Message) -> None:
            if message["type"] == "http.response.start":
                await asyncio.sleep(self._latency)
            if message["type"] != "http.response.body" or not self._rate:
                await patiently(message)
                return
            more, body = message.get("more_body", False), memoryview(message.get("body", b""))
            step = max(LEAST_PIECE, min(MOST_PIECE, int(self._rate / PIECES_A_SECOND)))
            for start in range(0, max(1, len(body)), step):
                piece = bytes(body[start : start + step])
                await self._carry(len(piece), self._rate)
                last = start + step >= len(body)
                await patiently({"type": "http.response.body", "body": piece, "more_body": more or not last})

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not self._answers:
            self._free_at = max(self._free_at, asyncio.get_running_loop().time())
        self._answers += 1
        try:
            await self._app(scope, receive, slowly)
        except TimeoutError as error:
            await break_off(scope, receive, error)
        finally:
            self._answers -= 1

    async def _carry(self, n_bytes: int, rate: float) -> None:
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - LATE_SECONDS) + n_bytes / rate
        await asyncio.sleep(self._free_at - now)
