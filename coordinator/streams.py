"""Streams of drawn tokens, from the threads that receive results to the API's event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from potluck.coordinator.generation import Drawn, GenerationError


class Stream:
    """The tokens of one sequence. Made and iterated on the event loop; `push` is called there too."""

    def __init__(self, number: int, cancel: Callable[[int], None]) -> None:
        self.number = number
        self._cancel = cancel
        self._arrived: deque[Drawn | GenerationError] = deque()
        self._wake = asyncio.Event()
        self._over = False

    def push(self, item: Drawn | GenerationError) -> None:
        """One more token, the end, or the reason why there is none; nothing after `cancel`."""
        if not self._over:
            self._arrived.append(item)
            self._wake.set()

    def cancel(self) -> None:
        """Stop and free its KV; safe to call at any time, from the event loop."""
        if not self._over:
            self._over = True
            self._arrived.clear()
            self._cancel(self.number)
            self._wake.set()

    async def __aiter__(self) -> AsyncIterator[Drawn]:
        """The tokens as they are drawn; after `cancel` it ends without a finish.

        Raises:
            GenerationError: it cannot go on.
        """
        while True:
            while not self._arrived:
                if self._over:
                    return
                self._wake.clear()
                await self._wake.wait()
            item = self._arrived.popleft()
            if isinstance(item, GenerationError):
                self._over = True
                raise item
            if item.finish:
                self._over = True
            yield item
            if item.finish:
                return
