"""After a loss: who is gone, a plan over the nodes left, or a refusal with the reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from potluck.coordinator.attempts import Attempts
from potluck.coordinator.calls import CallError
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.epochs import Epochs, Loss
from potluck.coordinator.remaining import without
from potluck.coordinator.serving import Observer
from potluck.coordinator.workers import Workers
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.plan import Plan
from potluck.planner.solve import DoesNotFit
from potluck.planner.validate import PlanError

_MOST_FAILURES = 3
_RETRY_SECONDS = 30.0


class Recovery:
    """Serves again after a loss. What is lost meanwhile is the `next_loss`."""

    def __init__(
        self, engine: ServingEngine, workers: Workers, epochs: Epochs, next_loss: Callable[[Loss], None]
    ) -> None:
        self._engine, self._workers, self._epochs, self._next_loss = engine, workers, epochs, next_loss
        self._attempts = Attempts(_MOST_FAILURES, _RETRY_SECONDS)
        self._gone: dict[NodeName, str] = {}
        self._cannot_load: dict[NodeName, str] = {}

    @property
    def lost(self) -> dict[NodeName, str]:
        """Nodes that are gone or cannot load their share, with the reason."""
        return self._gone | self._cannot_load

    def retry_if_due(self) -> None:
        """Try again when the pause after plans that failed is over."""
        if self._attempts.due(time.monotonic()):
            self._cannot_load.clear()
            self._next_loss(Loss(None, "trying again"))

    def replan(self, loss: Loss, observer: Observer) -> None:
        """Serve with the nodes left."""
        if self._epochs.last is None:
            return
        observer.lost(*loss)
        # Again: an epoch that failed before it was attached has been attached since.
        self._epochs.end_lost(loss)
        self._epochs.over()
        if self._attempts.failed(self._engine.steps.progressed(), time.monotonic()):
            self._serve_over(self._epochs.last.force.fleet, loss.node, observer)
        else:
            self._give_up(
                f"{loss}; {_MOST_FAILURES} plans in a row failed, see the workers' logs; "
                f"the next try is in {_RETRY_SECONDS:.0f} s",
                observer,
            )

    def change(self, fleet: Fleet, plan: Plan, observer: Observer) -> None:
        """Serve by another plan, where the epoch has ended for it and not for a loss."""
        self._workers.callers.release([node.name for node in fleet.nodes], self._epochs.number)
        try:
            self._epochs.serve(fleet, plan, observer)
        except CallError as error:
            self._leave_out(error)
        except (DoesNotFit, PlanError, ValueError) as error:
            self._next_loss(Loss(None, str(error)))

    def _serve_over(self, fleet: Fleet, suspect: NodeName | None, observer: Observer) -> None:
        names = [node.name for node in fleet.nodes]
        gone = self._workers.gone(names, suspect, self._epochs.number)
        self._gone |= gone
        self._engine.mark_dead(list(dict.fromkeys([*self._engine.dead, *gone])))
        self._workers.callers.release([name for name in names if name not in gone], self._epochs.number)
        try:
            self._serve_without(fleet, gone, observer)
        except CallError as error:
            self._leave_out(error)
        except (DoesNotFit, PlanError, ValueError) as error:
            lost = f"node {suspect!r} was lost and " if suspect in gone else ""
            self._give_up(f"{lost}the nodes left cannot serve the model: {error}", observer)

    def _serve_without(self, fleet: Fleet, gone: Mapping[NodeName, str], observer: Observer) -> None:
        """Serve without nodes that could not load their share, too, where the others can."""
        if self._cannot_load:
            try:
                self._epochs.serve(without(fleet, {**self._cannot_load, **gone}), None, observer)
                return
            except (DoesNotFit, ValueError):
                self._cannot_load.clear()
        self._epochs.serve(without(fleet, gone), None, observer)

    def _leave_out(self, error: CallError) -> None:
        """It cannot load what it is asked to (a full disk, a damaged file with nothing to build it from again)."""
        self._cannot_load[error.node] = error.reason
        self._next_loss(Loss(error.node, error.reason))

    def _give_up(self, reason: str, observer: Observer) -> None:
        self._engine.detach(reason, retry_after=round(_RETRY_SECONDS))
        observer.refused(reason)
