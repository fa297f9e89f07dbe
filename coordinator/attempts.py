"""How often a deployment plans anew before it pauses. Pure: whoever asks brings the time."""

from __future__ import annotations

import math


class Attempts:
    """Counts plans that failed in a row. After `most` of them the next try is `pause` seconds later."""

    def __init__(self, most: int, pause: float) -> None:
        self._most, self._pause = most, pause
        self._failures, self._retry_at = 0, math.inf

    def failed(self, progressed: bool, now: float) -> bool:
        """A plan failed, having served (`progressed`) or not; whether the next is to be tried at once."""
        self._failures = 1 if progressed else self._failures + 1
        retrying, self._retry_at = self._retry_at < math.inf, math.inf
        if self._failures <= self._most or retrying:
            return True
        self._retry_at = now + self._pause
        return False

    def due(self, now: float) -> bool:
        """Whether a pause is over."""
        return now >= self._retry_at
