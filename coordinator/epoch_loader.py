"""From a fleet to an epoch that can serve: the plan, shares that are loaded, links that are open."""

from __future__ import annotations

from dataclasses import replace

from potluck.coordinator.assignments import BLOCK_SIZE, Loading, assignments, entries, kv_blocks
from potluck.coordinator.calls import OnLoad
from potluck.coordinator.driver import Observers
from potluck.coordinator.in_force import InForce, plan_for
from potluck.coordinator.remaining import goal_over
from potluck.coordinator.replicas import Lane, Replicas
from potluck.coordinator.scheduler.scheduler import Limits
from potluck.coordinator.serving import ModelFiles, Serving
from potluck.coordinator.workers import Workers
from potluck.planner.agreement import agreements
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.memory import goes_ahead, steps_at_once, stream_budgets
from potluck.planner.plan import Plan
from potluck.planner.predict import predict
from potluck.proto.link import LinkTarget
from potluck.proto.shaper import Shape


class EpochLoader:
    """Prepares epochs of one model over the workers."""

    def __init__(self, workers: Workers, model: ModelFiles, serving: Serving) -> None:
        self._workers, self._model, self._serving = workers, model, serving

    def plan(self, fleet: Fleet, given: Plan | None) -> InForce:
        """What will serve over this fleet: the given plan, or else the best one.

        Raises:
            DoesNotFit, PlanError, ValueError: one line each.
        """
        serving = self._serving
        plan = plan_for(fleet, self._model.spec, goal_over(serving.goal, fleet), given)
        goal = replace(serving.goal, chunk=serving.max_rows)
        fixed, described = serving.plan is not None, serving.fleet is not None
        return InForce(plan, fleet, self._model.spec, goal, serving.scale, described, fixed)

    def load(self, epoch: int, force: InForce, on_progress: OnLoad) -> None:
        """Have every worker load its share.

        Raises:
            CallError: the first node that could not.
        """
        shares = {
            node: share
            for route in force.plan.replicas
            for node, share in assignments(route, self._loading(epoch, route, force.fleet)).items()
        }
        self._workers.callers.load(shares, on_progress)

    def connect(self, epoch: int, force: InForce, first_sequence: int, observers: Observers) -> Replicas:
        """The epoch with a link to every worker; its sequences count from this number."""
        lanes = [self._lane(route, force.fleet) for route in force.plan.replicas]
        driver = Replicas(epoch, lanes, first_sequence, observers)
        driver.connect({node: self._target(epoch, node, force.fleet.engine) for node in force.plan.nodes})
        return driver

    def _loading(self, epoch: int, route: Plan, fleet: Fleet) -> Loading:
        readers = [node.name for node in fleet.nodes if node.checkpoint]
        return Loading(
            epoch,
            self._model.spec,
            self._model.path,
            self._model.fingerprint,
            self._workers.callers.addresses,
            self._workers.data_ports,
            frozenset(readers),
            sorted(readers, key=lambda node: node != fleet.engine),
            self._serving.max_rows,
            stream_budgets(route, fleet, self._model.spec),
            agreements(route, fleet),
        )

    def _lane(self, route: Plan, fleet: Fleet) -> Lane:
        serving = self._serving
        at_once = steps_at_once(route), serving.max_waiting, goes_ahead(route)
        limits = Limits(kv_blocks(route), BLOCK_SIZE, serving.context, serving.max_rows, *at_once)
        goal, spec = goal_over(serving.goal, fleet), self._model.spec
        alone = predict(route, fleet, spec, replace(goal, batch=1)).time_per_token
        return Lane(entries(route), limits, predict(route, fleet, spec, goal).tokens_per_second, alone)

    def _target(self, epoch: int, node: NodeName, engine: NodeName) -> LinkTarget:
        workers, shape = self._workers, self._serving.links.get(node, Shape())
        address, port = workers.callers.addresses[node], workers.data_ports.get(node, 0)
        return LinkTarget(engine, node, address, workers.token, epoch, "coordinator", shape, port)
