"""One model being served, from the first worker's start to the last one's end."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from potluck.coordinator.calls import CallError
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.epoch_loader import EpochLoader
from potluck.coordinator.epochs import Epochs, Loss
from potluck.coordinator.fabric import Fabric
from potluck.coordinator.improvement import Improvement
from potluck.coordinator.lookout import Lookout
from potluck.coordinator.measurements import Question
from potluck.coordinator.recovery import Recovery
from potluck.coordinator.report import deployment_report
from potluck.coordinator.review import Review
from potluck.coordinator.serving import DeploymentError, ModelFiles, Observer, Serving
from potluck.coordinator.workers import Workers
from potluck.planner.fleet import Fleet
from potluck.planner.plan import Plan

_LOOK_SECONDS = 1.0
_CLOSE_SECONDS = 3.0
_SHUTDOWN = ("the server is shutting down", "the server shut down before the answer was complete")

__all__ = ["Deployment", "DeploymentError", "ModelFiles", "Observer", "Serving"]


class Deployment:
    """Serves a model through the engine until it is stopped.

    A thread of its own looks after the epoch every second, and plans anew when it has failed.
    """

    def __init__(self, fabric: Fabric, engine: ServingEngine, model: ModelFiles, serving: Serving) -> None:
        self.engine = engine
        self._serving = serving
        self._losses: queue.SimpleQueue[Loss | None] = queue.SimpleQueue()
        self._monitor: threading.Thread | None = None
        self._workers = Workers(fabric, serving.wire)
        self._review = Review(engine, self._workers, serving.remeasure_after)
        loader = EpochLoader(self._workers, model, serving)
        self._epochs = Epochs(engine, loader, self._review, self._losses.put)
        self._recovery = Recovery(engine, self._workers, self._epochs, self._losses.put)
        self._lookout = Lookout(engine, self._workers, serving)
        kept = serving.measurements if serving.fleet is None else None
        self._improvement = Improvement(self._review, self._epochs, self._recovery, kept)
        engine.metrics.refreshers.append(self._refresh_metrics)

    @property
    def plan(self) -> Plan | None:
        """The plan in force."""
        return self._epochs.last.force.plan if self._epochs.last else None

    @property
    def fleet(self) -> Fleet | None:
        """The fleet that is planned for: as described, or as measured last."""
        return self._epochs.last.force.fleet if self._epochs.last else self._serving.fleet

    @property
    def predicted(self) -> dict[str, float]:
        """Seconds of this clock to the first token of a prompt as the goal has it, and per token."""
        return self._review.predicted

    def start(self, observer: Observer) -> None:
        """Start the workers, plan, load and serve. Call `stop` whatever comes of it.

        Raises:
            FabricError, DeploymentError, DoesNotFit, PlanError: one line each.
        """
        observer.phase("starting workers")
        self._workers.start()
        try:
            self._epochs.serve(self._serving.fleet or self._measured(observer), self._serving.plan, observer)
        except CallError as error:
            raise DeploymentError(str(error)) from None
        self._monitor = threading.Thread(target=self._watch, args=(observer,), name="deployment", daemon=True)
        self._monitor.start()

    def drain(self, grace: float) -> None:
        """Refuse new requests, let running ones finish for `grace` seconds, end the rest with an error."""
        self.engine.close_doors(_SHUTDOWN[0])
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and self.engine.busy:
            time.sleep(0.05)
        self._epochs.end(*_SHUTDOWN)

    def stop(self) -> None:
        """End the epoch, the workers and what was started for them. Safe to call at any time."""
        self._losses.put(None)
        self._review.stop()
        if self._monitor is not None and self._monitor is not threading.current_thread():
            self._monitor.join(_CLOSE_SECONDS)
        self._epochs.stop(*_SHUTDOWN)
        self._workers.stop()

    def report(self) -> dict[str, Any]:
        """What is served by whom, and how it goes, as plain data."""
        last = self._epochs.last
        figures = deployment_report(self._epochs.number, last.force if last else None, self._review, self.engine)
        return figures | {"lost": self._recovery.lost}

    def _measured(self, observer: Observer) -> Fleet:
        observer.phase("measuring nodes and links")
        return self._workers.measure(
            Question(self._serving.goal.dtype, self._serving.measurements), self._serving.engine
        )

    def _watch(self, observer: Observer) -> None:
        while True:
            try:
                loss = self._losses.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                self._look(observer)
                continue
            if loss is None:
                return
            self._recovery.replan(loss, observer)

    def _look(self, observer: Observer) -> None:
        self._recovery.retry_if_due()
        service = self._epochs.current
        if service is not None and self._lookout.look(service, observer):
            self._improvement.look(observer)

    def _refresh_metrics(self) -> None:
        self.engine.metrics.set_accuracy(self._review.comparison, self._review.predicted)
