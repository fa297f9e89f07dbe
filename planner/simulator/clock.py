"""Simulated time."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Clock:
    """Calls what was asked for, in the order of time; at the same time, in the order of asking."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call something at a time, in seconds.

        Raises:
            ValueError: the time is past: an effect before its cause.
        """
        if not when >= self.now:
            raise ValueError(f"an event at {when} s that is caused at {self.now} s")
        self.events += 1
        heapq.heappush(self._due, (when, self.events, call))

    def run(self, going: Callable[[], bool] = lambda: True) -> None:
        """While `going()`, until nothing is due any more."""
        while self._due and going():
            self.now, _, call = heapq.heappop(self._due)
            call()
