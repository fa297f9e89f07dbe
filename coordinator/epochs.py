"""The epochs of a deployment: one serves after the other, and each ends in its own way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from potluck.coordinator.driver import Epoch, Observers
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.epoch_loader import EpochLoader
from potluck.coordinator.in_force import InForce
from potluck.coordinator.replicas import Replicas
from potluck.coordinator.review import Review
from potluck.coordinator.serving import Observer
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.plan import Plan

_CLOSE_SECONDS = 3.0


class Loss(NamedTuple):
    """What ended an epoch: a node (None where it is not one's fault) and why, in one line."""

    node: NodeName | None
    reason: str

    def __str__(self) -> str:
        """One line for whoever sent a request."""
        return f"{f'node {self.node!r} failed' if self.node else 'the fleet failed'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class InService:
    """An epoch: what it serves, what drives it, and since when, on the monotonic clock."""

    number: int
    force: InForce
    driver: Replicas
    since: float


class Epochs:
    """Begins and ends epochs.

    Epochs begin, and are `over`, in the thread that looks after the deployment; requests are ended from any.

    Attributes:
        number: of the latest epoch, whether it came to serve or not.
        current: the epoch that serves; None when it is over.
        last: the epoch that serves, or served last.
    """

    def __init__(
        self, engine: ServingEngine, loader: EpochLoader, review: Review, failed: Callable[[Loss], None]
    ) -> None:
        self._engine, self._loader, self._review, self._on_failure = engine, loader, review, failed
        self.number = 0
        self.current: InService | None = None
        self.last: InService | None = None
        self._next_sequence = 1
        self._closing: list[threading.Thread] = []

    def serve(self, fleet: Fleet, given: Plan | None, observer: Observer) -> None:
        """Plan (unless a plan is given), load, connect and open the doors.

        Raises:
            CallError: a node could not load its share.
            DoesNotFit, PlanError, ValueError: no plan serves the model over this fleet.
        """
        force = self._loader.plan(fleet, given)
        observer.planned(force.plan, force.fleet)
        self.number += 1
        self._loader.load(self.number, force, observer.loading)
        told = Observers(self._engine.delivered, self._engine.stepped, self._failed)
        driver = self._loader.connect(self.number, force, self._next_sequence, told)
        self.current = self.last = InService(self.number, force, driver, time.monotonic())
        self._review.begin(force)
        self._engine.attach(driver)
        observer.serving()

    def rest_on(self, fleet: Fleet) -> None:
        """The epoch goes on; the fleet is what it was measured to be."""
        if self.current is not None:
            self.current = self.last = replace(self.current, force=self.current.force.over(fleet))

    def end(self, reason: str, running: str) -> None:
        """Refuse requests with the reason; those that run end with `running`."""
        driver = self._engine.detach(reason, running=running)
        if driver is not None:
            self._close(driver)

    def end_lost(self, loss: Loss) -> None:
        """Refuse requests because of a loss, until the next plan serves."""
        self.end(f"{loss}; planning anew over the nodes left", f"{loss}; send the request again")

    def end_idle(self, reason: str) -> bool:
        """Whether no request ran, so that the epoch could be ended, and was."""
        driver = self._engine.detach_idle(reason)
        if driver is not None:
            self._close(driver)
            self.over()
        return driver is not None

    def over(self) -> None:
        """The epoch has ended."""
        self.current = None

    def stop(self, reason: str, running: str) -> None:
        """`end`, and wait for what is being closed."""
        self.end(reason, running)
        for thread in self._closing:
            thread.join(_CLOSE_SECONDS)

    def _failed(self, node: NodeName | None, reason: str) -> None:
        """Its requests end at once, whatever the thread that looks after the deployment is busy with."""
        loss = Loss(node, reason)
        self.end_lost(loss)
        self._on_failure(loss)

    def _close(self, driver: Epoch) -> None:
        self._next_sequence = driver.next_number
        # Its own thread: closing waits for the links' threads, one of which may have brought the news.
        thread = threading.Thread(target=driver.close, daemon=True)
        thread.start()
        self._closing.append(thread)
