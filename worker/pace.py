"""Keeps computing at the pace of a described node: nothing is done before it would be done there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch

from potluck.worker.operations import Operations


class Target(NamedTuple):
    """What the described node needs for a part: seconds, and the share of them that its last product takes."""

    seconds: float
    last: float = 0.0


class Pace:
    """The described node's clock of one thread that computes.

    A part is due so many seconds after it began; what this machine computes is hidden in them, and so is waiting for
    one of its cores. What was slept too long is made good by what follows. `behind`: seconds, in all, that this machine
    was late because it needed longer than the described node; where that grows, an emulation is not true.
    """

    def __init__(self) -> None:
        self.behind = 0.0
        self._due = self._overslept = 0.0
        self._targets: Sequence[Target] = ()
        self._at = 0
        self._counted = 0.0

    @contextmanager
    def window(self, targets: Callable[[], Sequence[Target]]) -> Iterator[None]:
        """Surrounds a window of parts with these targets, in order; over when the described node is done with it."""
        self._due, self._targets = time.perf_counter(), ()
        self._targets, self._at, self._counted = targets(), 0, 0.0
        yield
        while self._at < len(self._targets):
            self.done()
        self.pay()

    def done(self, left: float = 0.0) -> None:
        """The part at hand is computed, but for the last product of this share of its rows."""
        if self._at == len(self._targets):
            return
        target = self._targets[self._at]
        counted = target.seconds * (1.0 - left * target.last)
        self._due += counted - self._counted
        self._counted = counted
        if not left:
            self._at, self._counted = self._at + 1, 0.0

    def pay(self) -> None:
        """Wait until the described node would have done what is done; what follows begins now."""
        due, now = self._due - self._overslept, time.perf_counter()
        if now < due:
            time.sleep(due - now)
            now = time.perf_counter()
            self._overslept = now - due
        else:
            self.behind += max(0.0, now - self._due)
            self._overslept = min(now - due, self._overslept)
        self._due = now

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within a window: what is not computing. Begins when the described node would be done so far."""
        self.pay()
        yield
        self._due = time.perf_counter()

    @contextmanager
    def apart(self, left: float = 0.0) -> Iterator[None]:
        """As `aside`, when the part at hand is computed; `left` as in `done`."""
        self.done(left)
        with self.aside():
            yield


def counting(operations: Operations, pace: Pace) -> Operations:
    """Operations of a node that runs its window alone, telling when a part is computed: where others would sum."""

    def counted(part_TD: torch.Tensor) -> torch.Tensor:
        pace.done()
        return part_TD

    return replace(operations, sum=counted, summed=lambda product, x_TI: counted(product(x_TI)))


@contextmanager
def at_least(seconds: float) -> Iterator[None]:
    """Surrounds one operation that takes the described node so many seconds."""
    due = time.perf_counter() + seconds
    yield
    if (left := due - time.perf_counter()) > 0.0:
        time.sleep(left)
