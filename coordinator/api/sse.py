"""Answers as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from potluck.coordinator.api.body import ClientGone
from potluck.coordinator.api.errors import from_generation
from potluck.coordinator.api.streams import while_connected
from potluck.coordinator.generation import GenerationError

DONE = b"data: [DONE]\n\n"
_HEADERS = {
    "Cache-Control": "no-cache",
    # nginx would collect the events of a whole answer otherwise.
    "X-Accel-Buffering": "no",
}


def event(content: object) -> bytes:
    """One server-sent event that carries JSON."""
    return b"data: " + orjson.dumps(content) + b"\n\n"


class EventStream(Response):
    """Sends events until they end with [DONE], the client leaves, or does not read for `write_timeout_s` seconds.

    An engine error becomes an event of its own, so that the client reads the reason. However it ends, `rest` is closed.
    """

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes], write_timeout_s: float) -> None:
        super().__init__(headers=_HEADERS, media_type="text/event-stream")
        # Response counted an empty body; events have no length known before.
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._write_timeout_s = write_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            await while_connected(receive, self._send_all(send))
        except (ClientGone, TimeoutError):
            # Nobody is reading: there is nobody to tell.
            pass
        finally:
            await self._rest.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._send(send, self._first)
        try:
            async for chunk in self._rest:
                await self._send(send, chunk)
        except GenerationError as error:
            await self._send(send, event(from_generation(error).body()))
        await self._send(send, DONE)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, chunk: bytes) -> None:
        async with asyncio.timeout(self._write_timeout_s):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
