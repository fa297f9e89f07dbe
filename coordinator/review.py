"""Holds what was predicted against what requests measure, and has nodes measured again when the two stay apart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from potluck.coordinator.accuracy import Accuracy, Comparison, Figure, LoneRequest, worth_saying
from potluck.coordinator.drift import Drift
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.in_force import InForce
from potluck.coordinator.remeasure import Outcome, Remeasure, judge
from potluck.coordinator.serving import Observer
from potluck.coordinator.workers import Workers
from potluck.planner.fleet import Fleet
from potluck.planner.plan import Plan

_FIRST_SAID = 3


@dataclass(frozen=True, slots=True)
class Remeasured:
    """The latest measuring: which figure led to it, what came of it (None while it goes on)."""

    cause: str
    figure: Figure
    outcome: Outcome | None = None


class Review:
    """Looks at every epoch in service. `look` is for the thread that looks after the deployment; the rest for any."""

    def __init__(self, engine: ServingEngine, workers: Workers, remeasure_after: int) -> None:
        self._engine, self._workers, self._latest = engine, workers, remeasure_after
        self._drift = Drift(remeasure_after)
        self._force: InForce | None = None
        self._accuracy: Accuracy | None = None
        self._said: Comparison | None = None
        self._remeasure: Remeasure | None = None
        self.predicted: dict[str, float] = {}
        self.comparison = Comparison()
        self.remeasured: Remeasured | None = None
        self.better: tuple[Fleet, Plan] | None = None

    def begin(self, force: InForce) -> None:
        """An epoch serves; what was known of the one before is past."""
        self.stop()
        self._remeasure = self.remeasured = None
        self._drift.forget()
        self.better, self._said = None, None
        self._rest_on(force, ())

    def look(self, observer: Observer) -> Fleet | None:
        """Take what requests measured since the last look, and tell what is new.

        Returns the fleet where it was measured again and is from now on predicted for.
        """
        requests = self._engine.lone_requests()
        if self._accuracy is None or self._force is None:
            return None
        for request in requests:
            self._accuracy.add(request)
        if requests:
            self.comparison = self._accuracy.comparison()
        if self._remeasure is not None:
            return self._hear(self._remeasure, self._force, observer)
        if requests:
            self._tell(observer)
            self._doubt(self._accuracy, self._force, observer)
        return None

    def stop(self) -> None:
        """Nobody wants to know what is being measured any more; waits for nothing."""
        if self._remeasure is not None:
            self._remeasure.stop(0.0)
        self._workers.end_measuring()

    def _rest_on(self, force: InForce, requests: Sequence[LoneRequest]) -> None:
        """Predict so from now on, and for these requests."""
        predict = force.predictor()
        expected = predict(force.goal.prompt, force.goal.context)
        self.predicted = {
            "time_to_first_token": expected.time_to_first_token,
            "time_per_output_token": expected.time_per_token,
        }
        self._accuracy = Accuracy(predict, self._latest, requests)
        self._force, self.comparison = force, self._accuracy.comparison()

    def _tell(self, observer: Observer) -> None:
        if self.comparison.requests >= _FIRST_SAID and worth_saying(self._said, self.comparison):
            self._say(observer)

    def _say(self, observer: Observer) -> None:
        self._said = self.comparison
        observer.compared(self.comparison)

    def _doubt(self, accuracy: Accuracy, force: InForce, observer: Observer) -> None:
        cause = self._drift.cause(self.comparison, time.monotonic())
        if cause is None:
            return
        # Whoever reads that a figure is off finds the same one in the table above.
        if self._said is not self.comparison:
            self._say(observer)
        figure = self.comparison.figures[cause]
        self.remeasured = Remeasured(cause, figure)
        observer.remeasuring(cause, figure)
        requests = accuracy.requests[-self._latest :]
        self._remeasure = Remeasure(
            self._engine, lambda: self._workers.measure_again(force), lambda found: judge(force, requests, found)
        )

    def _hear(self, remeasure: Remeasure, force: InForce, observer: Observer) -> Fleet | None:
        outcome = remeasure.outcome
        if outcome is None or self.remeasured is None or self._accuracy is None:
            return None
        self._remeasure = None
        self.remeasured = Remeasured(self.remeasured.cause, self.remeasured.figure, outcome)
        fleet = None if force.described else outcome.fleet
        if fleet is not None:
            self._rest_on(force.over(fleet), self._accuracy.requests[-self._latest :])
            self.better = (fleet, outcome.better) if outcome.better else None
        self._drift.measured(self._accuracy.comparison(), outcome.explained, time.monotonic())
        observer.remeasured(outcome, force.described)
        self._tell(observer)
        return fleet
