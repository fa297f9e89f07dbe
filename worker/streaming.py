"""Weights that do not stay: the next units come in while others compute, those that were used are dropped.

Units are needed in the same order by every step, so the window moves round a cycle: it holds as many units ahead of
where computing is as its budget allows (papers.md sections 1 and 2: prefetch-release, sliding window). With a budget of
two windows of a piped ring the next window is whole before it is needed, and every byte is read once per step.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from potluck.worker.pieces import Unit


class Streamed(Protocol):
    """A unit that comes and goes."""

    @property
    def unit(self) -> Unit:
        """Which one."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes while it is in memory."""

    def bring_in(self, going: Callable[[], bool], asked: float) -> None:
        """Read it, as long as `going()`; there is room for it since `asked`, as time.monotonic. Raises OSError."""

    def drop(self) -> None:
        """Let go of it."""


@dataclass(slots=True)
class Cycle:
    """Which units are in memory and which comes next. Pure: no thread, no file.

    `held` are in memory or on their way, oldest first; `used` are done and may go. Where all fit, all stay.
    """

    sizes: Sequence[int]
    budget: int
    held: list[int] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    next: int = 0

    @property
    def all_fit(self) -> bool:
        """Whether nothing has to go."""
        return sum(self.sizes) <= self.budget

    def wanted(self) -> int | None:
        """The unit to bring in now: the next one, if it fits beside those held. One always fits."""
        if len(self.held) == len(self.sizes):
            return None
        while self.next in self.held:
            self.next = (self.next + 1) % len(self.sizes)
        taken = sum(self.sizes[index] for index in (*self.held, *self.used))
        if self.held and taken + self.sizes[self.next] > self.budget:
            return None
        return self.next

    def begun(self) -> None:
        """The next unit is coming in."""
        self.held.append(self.next)
        self.next = (self.next + 1) % len(self.sizes)

    def needed(self, index: int) -> None:
        """Computing has come to a unit. Those before it were passed over; one that is not held becomes the next."""
        if index not in self.held:
            self.next = index
            before = len(self.held)
        else:
            before = self.held.index(index)
        if not self.all_fit:
            self.used += self.held[:before]
            del self.held[:before]

    def done(self, index: int) -> None:
        """A unit was used."""
        if index in self.held and not self.all_fit:
            self.held.remove(index)
            self.used.append(index)

    def released(self) -> list[int]:
        """Units to drop."""
        gone, self.used = [index for index in self.used if index not in self.held], []
        return gone


class StreamError(Exception):
    """A unit could not be brought in."""


class Streamer:
    """Moves the window in a thread of its own. `here` is called from one thread."""

    def __init__(self, units: Sequence[Streamed], budget: int) -> None:
        """`units` in the order in which a step needs them; `budget` in bytes, at least the largest unit is held."""
        self._units = list(units)
        self.budget = budget
        self._cycle = Cycle([unit.nbytes for unit in units], budget)
        self._index = {unit.unit: index for index, unit in enumerate(units)}
        self._ready: set[int] = set()
        self._changed = threading.Condition()
        self._error: OSError | None = None
        self._over = False
        self._room_at = time.monotonic()
        self.stall_seconds = 0.0
        self.load_seconds = 0.0
        self.bytes_read = 0
        self._thread = threading.Thread(target=self._move, name="prefetch", daemon=True)
        self._thread.start()

    @contextmanager
    def here(self, unit: Unit) -> Iterator[None]:
        """Compute with a unit: waits until it is in memory, and lets go of it afterwards.

        Raises:
            StreamError: it cannot be read.
        """
        index = self._index.get(unit)
        if index is None:
            yield
            return
        begun = time.perf_counter()
        with self._changed:
            self._cycle.needed(index)
            self._ready.intersection_update(self._cycle.held)
            self._changed.notify_all()
            self._changed.wait_for(lambda: index in self._ready or self._error or self._over)
            if index not in self._ready:
                raise StreamError(f"{unit} cannot be read: {self._error or 'the shard was released'}")
        self.stall_seconds += time.perf_counter() - begun
        try:
            yield
        finally:
            with self._changed:
                self._cycle.done(index)
                self._room_at = time.monotonic()
                self._ready.intersection_update(self._cycle.held)
                self._changed.notify_all()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join()

    def _move(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._over or self._cycle.used or self._cycle.wanted() is not None)
                if self._over:
                    return
                gone, wanted = self._cycle.released(), None
                if not gone and (wanted := self._cycle.wanted()) is not None:
                    self._cycle.begun()
            for index in gone:
                self._units[index].drop()
            if wanted is not None:
                self._bring_in(wanted)

    def _bring_in(self, index: int) -> None:
        unit, begun = self._units[index], time.perf_counter()
        try:
            unit.bring_in(lambda: not self._over and index in self._cycle.held, self._room_at)
        except OSError as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
            return
        with self._changed:
            if index in self._cycle.held:
                self._ready.add(index)
                self.bytes_read += unit.nbytes
                self.load_seconds += time.perf_counter() - begun
            self._changed.notify_all()
