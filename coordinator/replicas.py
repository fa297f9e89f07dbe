"""The routes of one epoch, side by side: a request goes to the one where its tokens will come soonest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from potluck.coordinator.driver import Driver, Observers
from potluck.coordinator.generation import Generation
from potluck.coordinator.scheduler.scheduler import Limits, Scheduler
from potluck.planner.fleet import NodeName
from potluck.proto.link import LinkTarget


@dataclass(frozen=True, slots=True)
class Lane:
    """One route: its nodes in order, each with its first stage (`assignments.entries`), and its limits.

    Predicted: how many tokens per second it gives (a route of none takes as many requests as any), and the seconds
    between two tokens of a request that is alone on it.
    """

    entries: Mapping[NodeName, int]
    limits: Limits
    tokens_per_second: float = 0.0
    time_per_token: float = 0.0


class Replicas:
    """One epoch in service, over one route or more. Routes share no node; when one fails, the epoch is over."""

    def __init__(self, epoch: int, lanes: Sequence[Lane], first_number: int, observers: Observers) -> None:
        """`first_number` of a sequence: route i of n takes every n-th number from the i-th on, so that each is one
        sequence of the epoch."""
        self._lock = threading.Lock()
        self._failed = observers.failed
        self._over = False
        heard = Observers(observers.delivered, observers.stepped, self._fail_once)
        self._drivers = [
            Driver(epoch, Scheduler(lane.limits, first_number + number, len(lanes)), lane.entries, heard)
            for number, lane in enumerate(lanes)
        ]
        most = max(lane.tokens_per_second for lane in lanes) or 1.0
        self._shared = [1.0 / (lane.tokens_per_second or most) for lane in lanes]
        self._alone = [lane.time_per_token for lane in lanes]
        self._nodes = [frozenset(lane.entries) for lane in lanes]

    def connect(self, targets: Mapping[NodeName, LinkTarget]) -> None:
        """Open a link to every worker of the epoch."""
        for driver, nodes in zip(self._drivers, self._nodes, strict=True):
            driver.connect({node: target for node, target in targets.items() if node in nodes})

    def submit(self, generations: Sequence[Generation], register: Callable[[list[int]], None]) -> None:
        """Queue the choices of a request on one route; see `Driver.submit`.

        Raises:
            NeverFits, QueueFull, EpochOver: see `Driver.submit`.
        """
        asked = [sum(driver.load[:2]) + len(generations) for driver in self._drivers]
        number = min(range(len(asked)), key=lambda route: self._seconds(route, asked[route]))
        self._drivers[number].submit(generations, register)

    def cancel(self, number: int) -> None:
        """Forget a sequence and free its KV."""
        for driver in self._drivers:
            driver.cancel(number)

    def close(self) -> None:
        """End the epoch without a failure."""
        with self._lock:
            self._over = True
        for driver in self._drivers:
            driver.close()

    def overdue(self, deadline: float) -> bool:
        """Whether a step has had no answer for `deadline` seconds."""
        return any(driver.overdue(deadline) for driver in self._drivers)

    def fail(self, node: NodeName | None, reason: str) -> None:
        """End the epoch because of a node. Only the first reason counts."""
        holder = next((driver for driver, nodes in self._routes() if node in nodes), self._drivers[0])
        holder.fail(node, reason)

    @property
    def load(self) -> tuple[int, int, float]:
        """Running and waiting sequences, and the used fraction of the KV."""
        loads = [driver.load for driver in self._drivers]
        running, waiting, used = (sum(values) for values in zip(*loads, strict=True))
        return int(running), int(waiting), used / len(loads)

    @property
    def sequences(self) -> int:
        """Sequences that have not ended."""
        return sum(driver.sequences for driver in self._drivers)

    @property
    def next_number(self) -> int:
        """A number that no sequence has had yet."""
        return max(driver.next_number for driver in self._drivers)

    def link_counts(self) -> dict[NodeName, tuple[int, int, int]]:
        """Frames, payload bytes and header bytes sent to each worker."""
        return {node: counts for driver in self._drivers for node, counts in driver.link_counts().items()}

    def _seconds(self, route: int, requests: int) -> tuple[float, float]:
        """Between two tokens of a request on a route with so many; then what tells routes of the same apart."""
        shared = requests * self._shared[route]
        return max(self._alone[route], shared), shared

    def _routes(self) -> Iterator[tuple[Driver, frozenset[NodeName]]]:
        return zip(self._drivers, self._nodes, strict=True)

    def _fail_once(self, node: NodeName | None, reason: str) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._failed(node, reason)
