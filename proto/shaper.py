"""An emulated link: what a home network does to a frame, reckoned before the frame is sent."""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import dataclass
from typing import Protocol

_TIMER_SLACK, _NANOSECOND = 29, 1  # PR_SET_TIMERSLACK of linux/prctl.h, and its argument

# So late a sleep ends at best (worker/emulation.py); the rest is waited for awake.
_LATE_SECONDS = 20e-6


@dataclass(frozen=True, slots=True)
class Shape:
    """One-way latency in seconds and bandwidth in bytes per second; 0 is no delay and no limit."""

    latency: float = 0.0
    bandwidth: float = 0.0

    def __post_init__(self) -> None:
        """Refuse times that run backwards.

        Raises:
            ValueError: latency or bandwidth is negative or not a number.
        """
        if not (self.latency >= 0.0 and self.bandwidth >= 0.0):
            raise ValueError("an emulated link's latency and bandwidth must be 0 or more")

    @property
    def is_off(self) -> bool:
        """Whether frames pass untouched."""
        return self.latency == 0.0 and self.bandwidth == 0.0


class DelayLine:
    """When each frame of a link arrives: frames follow one another on the wire, their latencies overlap."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._free_at = 0.0

    def due(self, size: int, now: float) -> float:
        """The time at which a frame of `size` bytes, handed over `now`, has arrived; in seconds, as `now`."""
        if self._shape.is_off:
            return now
        start = max(now, self._free_at)
        self._free_at = start + (size / self._shape.bandwidth if self._shape.bandwidth else 0.0)
        return self._free_at + self._shape.latency


class Clock(Protocol):
    """What tells an emulated link when a message leaves, and lets its receiver wait: seconds of time.monotonic."""

    def now(self) -> float:
        """When what is sent now leaves."""

    def wait_until(self, due: float) -> None:
        """Go on when it is so late; at once when that is past."""


class WallClock:
    """The clock of who does everything as soon as it can (a `Clock`)."""

    def now(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def wait_until(self, due: float) -> None:
        """See `Clock`."""
        wait_until(due)


def sleep_precisely() -> None:
    """From now on sleeps of this thread, and of those it starts, overshoot by some 10 us instead of 60 (Linux): a fifth
    of a wired link's latency."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_TIMER_SLACK, _NANOSECOND, 0, 0, 0)


def wait_until(due: float) -> None:
    """Sleep until a time of `time.monotonic`; at once when it is past."""
    while (left := due - time.monotonic()) > 0:
        time.sleep(max(0.0, left - _LATE_SECONDS))
