"""Keeps computing at the pace of a described node: nothing is done before it would be done there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch

from potluck.proto.shaper import wait_until
from potluck.worker.operations import Operations

# More than that is no inaccuracy of sleeping: this machine had no core to wake up on.
_OVERSLEPT = 1e-3


class Target(NamedTuple):
    """What the described node needs for a part: seconds, and the share of them that its last product takes."""

    seconds: float
    last: float = 0.0


class Pace:
    """The described node's clock of one thread that computes (a `proto.shaper.Clock`).

    Every part is due so many seconds after it began; what this machine computes is hidden in them, and so is waiting
    for one of its cores. Within a window the clock may be behind the wall's: who was late, or slept too long, has less
    time for what follows. Members of a group tell each other when messages left by this clock; otherwise everybody
    would wait for whoever is late last. `behind`: seconds, in all, that windows were over later than on the described
    node; where that grows, this machine is too slow or too busy for the emulation to be true.
    """

    def __init__(self) -> None:
        self.behind = 0.0
        self._due = self._overslept = 0.0
        self._targets: Sequence[Target] = ()
        self._at = 0
        self._counted = 0.0
        self._paid = True

    @contextmanager
    def window(self, targets: Callable[[], Sequence[Target]]) -> Iterator[None]:
        """Surrounds a window of parts with these targets, in order; over when the described node is done with it."""
        self._due, self._overslept = time.monotonic() - self._overslept, 0.0
        self._targets, self._at, self._counted, self._paid = (), 0, 0.0, False
        self._targets = targets()
        yield
        while self._at < len(self._targets):
            self.done()
        if not self._paid:
            self.pay()

    def now(self) -> float:
        """When the described node was done with what is done, in seconds of time.monotonic."""
        return self._due

    def wait_until(self, due: float) -> None:
        """What the described node waits for comes then."""
        wait_until(due)
        self._due = max(self._due, due)

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
        """Wait until the described node would have done what is done."""
        wait_until(self._due)
        self._paid = self._at == len(self._targets)
        if self._paid:
            late = time.monotonic() - self._due
            self._overslept = min(late, _OVERSLEPT)
            self.behind += late - self._overslept

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within a window: what is not computing, by the clock on the wall; computing goes on when it is over."""
        self.pay()
        yield
        self._due = max(self._due, time.monotonic())

    @contextmanager
    def apart(self, left: float = 0.0) -> Iterator[None]:
        """Within a window: messages to others and from them, by this clock, when the part at hand is computed; `left`
        as in `done`."""
        self.done(left)
        self.pay()
        yield


def counting(operations: Operations, pace: Pace) -> Operations:
    """Operations of a node that runs its window alone, telling when a part is computed: where others would sum."""

    def counted(part_TD: torch.Tensor) -> torch.Tensor:
        pace.done()
        return part_TD

    return replace(
        operations, sum=counted, summed=lambda product, x_TI: counted(product(x_TI)), in_one=lambda count: None
    )


@contextmanager
def at_least(seconds: float) -> Iterator[None]:
    """Surrounds one operation that takes the described node so many seconds."""
    due = time.monotonic() + seconds
    yield
    wait_until(due)
