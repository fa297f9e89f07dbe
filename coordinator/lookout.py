"""Watching the epoch that serves: steps that are overdue, nodes that fell silent, spares that died."""

from __future__ import annotations

import time
from collections.abc import Sequence

from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.epochs import InService
from potluck.coordinator.heartbeats import Heartbeats
from potluck.coordinator.serving import Observer, Serving
from potluck.coordinator.workers import Workers
from potluck.planner.fleet import NodeName
from potluck.planner.plan import Plan
from potluck.proto import cluster_pb2 as pb

_SILENT_WITH_GROUPS = 2.5  # as long as members ask each other (worker/members.py), or one look at a frozen node takes


class Lookout:
    """Looks at an epoch every second, and ends it where a node has to be given up. Takes in what workers count."""

    def __init__(self, engine: ServingEngine, workers: Workers, serving: Serving) -> None:
        self._engine, self._workers, self._serving = engine, workers, serving
        self._watched, self._beats = 0, Heartbeats((), 0.0)

    def look(self, service: InService, observer: Observer) -> bool:
        """Whether the epoch goes on."""
        driver, plan = service.driver, service.force.plan
        if driver.overdue(self._serving.step_seconds):
            driver.fail(None, f"a step had no answer for {self._serving.step_seconds:.0f} s")
            return False
        self._look_at_spares(service, observer)
        statuses = self._workers.callers.statuses(plan.nodes)
        for status in statuses:
            self._engine.steps.node_reported(status)
        limit = self._silent_seconds(plan)
        if silent := self._silent(service, statuses, limit):
            driver.fail(silent, f"it has not answered for {limit:g} s")
            return False
        self._engine.steps.engine_reported(service.force.fleet.engine, driver.link_counts())
        return True

    def _silent(self, service: InService, statuses: Sequence[pb.StatusReply], limit: float) -> NodeName | None:
        if service.number != self._watched:
            self._watched, self._beats = service.number, Heartbeats(service.force.plan.nodes, service.since)
        now = time.monotonic()
        self._beats.heard([NodeName(status.node) for status in statuses], now)
        return self._beats.silent(limit, now)

    def _silent_seconds(self, plan: Plan) -> float:
        """A group ends within seconds of losing a member, whether its members wait for it or it is a stage before."""
        grouped = any(stage.is_group for route in plan.routes for stage in route.stages)
        return min(self._serving.silent_seconds, _SILENT_WITH_GROUPS) if grouped else self._serving.silent_seconds

    def _look_at_spares(self, service: InService, observer: Observer) -> None:
        """Tell of nodes without a stage whose worker has ended: nobody else would miss them before the next plan."""
        known = (*service.force.plan.nodes, *self._engine.dead)
        spares = [node.name for node in service.force.fleet.nodes if node.name not in known]
        ended = self._workers.ended() if spares else {}
        for node in (node for node in spares if node in ended):
            self._engine.mark_dead([*self._engine.dead, node])
            observer.spare_lost(node, ended[node])
