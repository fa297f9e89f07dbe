"""The token streams of one request, read together as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TypeVar

from starlette.types import Receive

from potluck.coordinator.api.body import ClientGone
from potluck.coordinator.generation import Drawn, GenerationError, TokenStream

_Done = TypeVar("_Done")
# A client that reads slowly holds its own streams back here; the engine goes on for everybody else.
_AHEAD = 256


class Streams:
    """The choices of one request. Always `cancel` it at the end: that frees the KV of what is unfinished."""

    def __init__(self, streams: Sequence[TokenStream]) -> None:
        self._streams = list(streams)
        self._finished: set[int] = set()
        self._cancelled = False
        self._pumps: list[asyncio.Task[None]] = []
        self._queue: asyncio.Queue[tuple[int, Drawn | None]] = asyncio.Queue(_AHEAD)

    async def drawn(self) -> AsyncIterator[tuple[int, Drawn]]:
        """(choice, what was drawn) in the order it comes, until every choice has finished.

        Raises:
            GenerationError: a choice cannot go on.
        """
        self._pumps = [self._start(index, stream) for index, stream in enumerate(self._streams)]
        while len(self._finished) < len(self._streams):
            index, drawn = await self._queue.get()
            if index in self._finished:
                continue
            if drawn is None:
                await self._pumps[index]
                raise GenerationError("the answer ended early; please try again", status=500)
            if drawn.finish:
                self._finished.add(index)
            yield index, drawn

    def stop(self, index: int) -> None:
        """A choice needs no more tokens."""
        self._finished.add(index)
        self._streams[index].cancel()
        self._pumps[index].cancel()

    def cancel(self) -> None:
        """Stop every choice that still runs. May be called again."""
        self._cancelled = True
        for index, stream in enumerate(self._streams):
            if index not in self._finished:
                stream.cancel()
        for pump in self._pumps:
            pump.cancel()

    def _start(self, index: int, stream: TokenStream) -> asyncio.Task[None]:
        pump = asyncio.create_task(self._pump(index, stream))
        # The reader may leave at another choice's error: asyncio would then complain that nobody looked at this one.
        pump.add_done_callback(lambda done: done.cancelled() or done.exception())
        return pump

    async def _pump(self, index: int, stream: TokenStream) -> None:
        try:
            async for drawn in stream:
                await self._queue.put((index, drawn))
        finally:
            # Also after an error, which the reader then finds in this task. Nobody reads what was cancelled.
            if not self._cancelled and index not in self._finished:
                await self._queue.put((index, None))


async def while_connected(receive: Receive, work: Awaitable[_Done]) -> _Done:
    """The result of the work, which is cancelled as soon as the client leaves.

    Raises:
        ClientGone: it left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
