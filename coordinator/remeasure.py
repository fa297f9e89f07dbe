"""Measuring nodes and links again while requests are served: in a quiet moment, and what follows from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from potluck.coordinator.accuracy import Accuracy, LoneRequest
from potluck.coordinator.calls import CallError
from potluck.coordinator.drift import GAIN, Departure, departures, explains, furthest, refreshed
from potluck.coordinator.in_force import InForce
from potluck.coordinator.remaining import goal_over
from potluck.planner.fleet import Fleet
from potluck.planner.memory import streams
from potluck.planner.objective import objective
from potluck.planner.plan import Plan
from potluck.planner.predict import predict
from potluck.planner.solve import DoesNotFit, solve

# A fleet that is never quiet is not measured at all: its requests come first.
_PATIENCE_SECONDS = 600.0
_ASK_SECONDS = 0.2
# Whoever just got an answer may ask again at once, and would wait for the measuring.
_QUIET_SECONDS = 2.0


class MeasureError(Exception):
    """Nodes could not be measured again; one line."""


class Quiet(Protocol):
    """Who knows whether requests run (`ServingEngine`)."""

    arrived: int

    @property
    def busy(self) -> bool:
        """Whether any request has not ended."""

    def measure(self, begins: bool) -> None:
        """Nodes are being measured, or no more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What measuring again found.

    Attributes:
        departures: figures that were not what they were taken to be.
        explained: the new figures predict what was measured, within 30 %.
        fleet: with the new figures; None where they could not be taken.
        better: a plan that takes at least 10 % less over this fleet.
        gain: by which fraction it takes less.
        failure: why nothing could be measured.
    """

    departures: tuple[Departure, ...] = ()
    explained: bool = False
    fleet: Fleet | None = None
    better: Plan | None = None
    gain: float = 0.0
    failure: str = ""


def measure_quietly(quiet: Quiet, measure: Callable[[], Fleet], stop: threading.Event) -> Fleet:
    """Measure while no request runs; what was measured while one arrived does not count.

    Raises:
        MeasureError: there was no quiet moment in ten minutes, or nobody wants to know any more.
        CallError: a node did not answer.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    arrived, since = quiet.arrived, time.monotonic()
    while time.monotonic() < deadline and not stop.wait(_ASK_SECONDS):
        if quiet.busy or quiet.arrived != arrived:
            arrived, since = quiet.arrived, time.monotonic()
        if time.monotonic() < since + _QUIET_SECONDS:
            continue
        quiet.measure(True)
        try:
            fleet = measure()
        finally:
            quiet.measure(False)
        if quiet.arrived == arrived:
            return fleet
    if stop.is_set():
        raise MeasureError("nobody waits for it any more")
    raise MeasureError(f"requests left no quiet moment in {_PATIENCE_SECONDS / 60:.0f} minutes")


def judge(force: InForce, requests: Sequence[LoneRequest], found: Fleet) -> Outcome:
    """What new figures say about the requests that were measured, and about the plan."""
    now = force.over(refreshed(force.fleet, found))
    before, after = (Accuracy(one.predictor(), len(requests), requests).comparison() for one in (force, now))
    # A disk that nobody waits for is no news.
    told = [
        one for one in departures(force.fleet, now.fleet) if one.quantity != "disk_bandwidth" or streams(force.plan)
    ]
    outcome = Outcome(tuple(told), explains(after), now.fleet)
    # A description is what plans are made for. And figures that predict no better than those before are noise.
    keeps = force.described or force.fixed or furthest(after) >= furthest(before)
    return outcome if keeps else _with_plan(outcome, now)


def _with_plan(outcome: Outcome, force: InForce) -> Outcome:
    goal = goal_over(force.goal, force.fleet)
    try:
        plan = solve(force.fleet, force.spec, goal)
    except (DoesNotFit, ValueError):
        return outcome
    now = objective(predict(force.plan, force.fleet, force.spec, goal), goal)
    new = objective(predict(plan, force.fleet, force.spec, goal), goal)
    return replace(outcome, better=plan, gain=1.0 - new / now) if new < (1.0 - GAIN) * now else outcome


class Remeasure:
    """Measures in a thread of its own; `outcome` is there when it is over."""

    def __init__(self, quiet: Quiet, measure: Callable[[], Fleet], think: Callable[[Fleet], Outcome]) -> None:
        self.outcome: Outcome | None = None
        self._stop = threading.Event()
        self._work = (quiet, measure, think)
        self._thread = threading.Thread(target=self._run, name="remeasure", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Nobody wants to know any more; waits no longer than that for a call under way."""
        self._stop.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        quiet, measure, think = self._work
        try:
            self.outcome = think(measure_quietly(quiet, measure, self._stop))
        except (CallError, MeasureError) as error:
            self.outcome = Outcome(failure=str(error))
        finally:
            # After a bug, too, whose traceback the log has: nobody may wait for it for ever.
            self.outcome = self.outcome or Outcome(failure="measuring ended by a mistake of the server's")
