"""One model being served: workers, plan, loading, serving, and a new plan when a node is lost."""

from __future__ import annotations

import contextlib
import math
import queue
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from potluck.coordinator.assignments import BLOCK_SIZE, Loading, assignments, entries, kv_blocks
from potluck.coordinator.calls import CallError, Callers
from potluck.coordinator.driver import Epoch, Observers
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.fabric import Fabric, Worker
from potluck.coordinator.heartbeats import Heartbeats
from potluck.coordinator.measured_fleet import measure_fleet
from potluck.coordinator.measurements import Question
from potluck.coordinator.remaining import goal_over, without
from potluck.coordinator.remeasure import InForce, probed
from potluck.coordinator.replicas import Lane, Replicas
from potluck.coordinator.report import Losses, deployment_report
from potluck.coordinator.review import Review
from potluck.coordinator.scheduler.scheduler import Limits
from potluck.coordinator.serving import DeploymentError, ModelFiles, Observer, Serving
from potluck.planner.agreement import agreements
from potluck.planner.executable import executable_stages
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.memory import steps_at_once, stream_budgets
from potluck.planner.plan import Plan
from potluck.planner.predict import predict
from potluck.planner.solve import DoesNotFit, solve
from potluck.planner.validate import PlanError, validate
from potluck.proto.link import LinkTarget
from potluck.proto.shaper import Shape

_HELLO_SECONDS = 30.0
_ALIVE_SECONDS = 3.0
_EXIT_SECONDS = 0.5
_SILENT_WITH_GROUPS = 2.5  # as long as members ask each other (worker/members.py), or one look at a frozen node takes
_MOST_FAILURES = 3
_RETRY_SECONDS = 30.0
_CLOSE_SECONDS = 3.0

__all__ = ["Deployment", "DeploymentError", "ModelFiles", "Observer", "Serving"]


class Deployment:
    """Serves a model through the engine until it is stopped."""

    def __init__(self, fabric: Fabric, engine: ServingEngine, model: ModelFiles, serving: Serving) -> None:
        self.engine = engine
        self._fabric, self._model, self._serving = fabric, model, serving
        self._observer: Observer | None = None
        self._token = secrets.token_hex(32)
        self._callers: Callers | None = None
        self._fleet: Fleet | None = serving.fleet
        self._plan: Plan | None = None
        self._driver: Replicas | None = None
        self._epoch, self._next_sequence, self._failures = 0, 1, 0
        self._retry_at = math.inf
        self._bad: dict[NodeName, str] = {}
        self._beats = Heartbeats((), 0.0)
        self._lost: queue.SimpleQueue[tuple[NodeName | None, str] | None] = queue.SimpleQueue()
        self._monitor: threading.Thread | None = None
        self._closing: list[threading.Thread] = []
        self._workers: list[Worker] = []
        self._probing: Callers | None = None
        self._losses: Losses = {}
        self._review = Review(engine, self._measure_again, serving.remeasure_after)
        engine.metrics.refreshers.append(self._refresh_metrics)

    @property
    def plan(self) -> Plan | None:
        """The plan in force."""
        return self._plan

    @property
    def fleet(self) -> Fleet | None:
        """The fleet that is planned for: as described, or as measured last."""
        return self._fleet

    @property
    def predicted(self) -> dict[str, float]:
        """Seconds of this clock to the first token of a prompt as the goal has it, and per token."""
        return self._review.predicted

    def start(self, observer: Observer) -> None:
        """Start the workers, plan, load and serve. Call `stop` whatever comes of it.

        Raises:
            FabricError, DeploymentError, DoesNotFit, PlanError: one line each.
        """
        self._observer = observer
        observer.phase("starting workers")
        self._workers = list(self._fabric.start(self._token))
        self._callers = Callers(self._workers, self._token)
        nodes = list(self._callers.addresses)
        silent = self._callers.silent(nodes, self._epoch, _HELLO_SECONDS)
        if silent:
            node, reason = next(iter(silent.items()))
            raise DeploymentError(f"the worker of node {node!r} does not answer: {reason}")
        try:
            if self._fleet is None:
                observer.phase("measuring nodes and links")
                self._fleet = self._measure(self._callers)
            self._serve(self._fleet, self._serving.plan, observer)
        except CallError as error:
            raise DeploymentError(str(error)) from None
        self._monitor = threading.Thread(target=self._watch, name="deployment", daemon=True)
        self._monitor.start()

    def drain(self, grace: float) -> None:
        """Refuse new requests, let running ones finish for `grace` seconds, end the rest with an error."""
        self.engine.close_doors("the server is shutting down")
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and self.engine.busy:
            time.sleep(0.05)
        self._detach("the server is shutting down", "the server shut down before the answer was complete")

    def stop(self) -> None:
        """End the epoch, the workers and what was started for them. Safe to call at any time."""
        self._lost.put(None)
        self._review.stop(0.0)
        self._end_probing()
        if self._monitor is not None and self._monitor is not threading.current_thread():
            self._monitor.join(_CLOSE_SECONDS)
        self._detach("the server is shutting down", "the server shut down before the answer was complete")
        for thread in self._closing:
            thread.join(_CLOSE_SECONDS)
        if self._callers is not None:
            self._callers.close()
        self._fabric.stop()

    def _measure(self, callers: Callers) -> Fleet:
        ask = Question(self._serving.goal.dtype, self._serving.measurements)
        return measure_fleet(callers, ask, self._data_ports(), self._serving.engine)

    def _serve(self, fleet: Fleet, plan: Plan | None, observer: Observer) -> None:
        """Plan, load, connect and open the doors."""
        goal = goal_over(self._serving.goal, fleet)
        plan = plan or solve(fleet, self._model.spec, goal)
        validate(plan, fleet, self._model.spec)
        executable_stages(plan)
        if plan.prediction is None:
            plan = replace(plan, prediction=predict(plan, fleet, self._model.spec, goal))
        observer.planned(plan, fleet)
        self._epoch += 1
        callers = self._required_callers()
        shares = {
            node: share
            for route in plan.replicas
            for node, share in assignments(route, self._loading(fleet, route)).items()
        }
        callers.load(shares, observer.loading)
        driver = self._new_driver(plan, fleet)
        driver.connect({node: self._target(node, fleet.engine) for node in plan.nodes})
        self._beats = Heartbeats(plan.nodes, time.monotonic())
        self._fleet, self._plan, self._driver = fleet, plan, driver
        self._end_probing()
        self._review.begin(self._in_force(fleet, plan))
        self.engine.attach(driver)
        observer.serving()

    def _end_probing(self) -> None:
        if self._probing is not None:
            self._probing.close()

    def _in_force(self, fleet: Fleet, plan: Plan) -> InForce:
        serving = self._serving
        goal = replace(serving.goal, chunk=serving.max_rows)
        fixed, described = serving.plan is not None, serving.fleet is not None
        return InForce(plan, fleet, self._model.spec, goal, serving.scale, described, fixed)

    def _measure_again(self, force: InForce) -> Fleet:
        names = {node.name for node in force.fleet.nodes}
        # Channels of its own: whatever comes of it, the calls that look after the epoch are not held up.
        with contextlib.closing(Callers([one for one in self._workers if one.node in names], self._token)) as callers:
            self._probing = callers
            return probed(callers, self._data_ports(), force)

    def _loading(self, fleet: Fleet, plan: Plan) -> Loading:
        readers = [node.name for node in fleet.nodes if node.checkpoint]
        return Loading(
            self._epoch,
            self._model.spec,
            self._model.path,
            self._model.fingerprint,
            self._required_callers().addresses,
            self._data_ports(),
            frozenset(readers),
            sorted(readers, key=lambda node: node != fleet.engine),
            self._serving.max_rows,
            stream_budgets(plan, fleet, self._model.spec),
            agreements(plan, fleet),
        )

    def _new_driver(self, plan: Plan, fleet: Fleet) -> Replicas:
        observers = Observers(self.engine.delivered, self.engine.stepped, self._failed)
        return Replicas(self._epoch, [self._lane(one, fleet) for one in plan.replicas], self._next_sequence, observers)

    def _lane(self, plan: Plan, fleet: Fleet) -> Lane:
        serving = self._serving
        limits = Limits(
            kv_blocks(plan), BLOCK_SIZE, serving.context, serving.max_rows, steps_at_once(plan), serving.max_waiting
        )
        predicted = predict(plan, fleet, self._model.spec, goal_over(serving.goal, fleet))
        return Lane(entries(plan), limits, predicted.tokens_per_second)

    def _target(self, node: NodeName, engine: NodeName) -> LinkTarget:
        address = self._required_callers().addresses[node]
        shape = self._serving.links.get(node, Shape())
        port = self._data_ports().get(node, 0)
        return LinkTarget(engine, node, address, self._token, self._epoch, "coordinator", shape, port)

    def _data_ports(self) -> Mapping[NodeName, int]:
        return self._required_callers().data_ports if self._serving.wire == "tcp" else {}

    def _failed(self, node: NodeName | None, reason: str) -> None:
        """The epoch is over: its requests end at once, whatever the monitor is busy with."""
        self._refuse(node, reason)
        self._lost.put((node, reason))

    def _refuse(self, node: NodeName | None, reason: str) -> None:
        message = f"{_failure(node)}: {reason}"
        self._detach(f"{message}; planning anew over the nodes left", f"{message}; send the request again")

    def _detach(self, reason: str, running: str) -> None:
        driver = self.engine.detach(reason, running=running)
        if driver is not None:
            self._close(driver)

    def _close(self, driver: Epoch) -> None:
        self._next_sequence = driver.next_number
        # Its own thread: closing waits for the links' threads, one of which may have brought the news.
        thread = threading.Thread(target=driver.close, daemon=True)
        thread.start()
        self._closing.append(thread)

    def _watch(self) -> None:
        """Look after the epoch every second; plan anew when it has failed."""
        while True:
            try:
                lost = self._lost.get(timeout=1.0)
            except queue.Empty:
                self._look()
                continue
            if lost is None:
                return
            self._replan(*lost)

    def _look(self) -> None:
        if time.monotonic() >= self._retry_at:
            self._bad.clear()
            self._lost.put((None, "trying again"))
        driver, plan = self._driver, self._plan
        if driver is None or plan is None or self._fleet is None:
            return
        if driver.overdue(self._serving.step_seconds):
            driver.fail(None, f"a step had no answer for {self._serving.step_seconds:.0f} s")
            return
        self._look_at_spares(self._fleet, plan)
        statuses = self._required_callers().statuses(plan.nodes)
        for status in statuses:
            self.engine.steps.node_reported(status)
        self._beats.heard([NodeName(status.node) for status in statuses], time.monotonic())
        limit = self._silent_seconds(plan)
        if silent := self._beats.silent(limit, time.monotonic()):
            driver.fail(silent, f"it has not answered for {limit:g} s")
            return
        self.engine.steps.engine_reported(self._fleet.engine, driver.link_counts())
        if self._observer is not None:
            self._look_at_times(self._observer)

    def _look_at_times(self, observer: Observer) -> None:
        found = self._review.look(observer)
        if found is not None:
            self._take_over(found)
        if self._review.better is not None:
            self._improve(*self._review.better, observer)

    def _take_over(self, fleet: Fleet) -> None:
        """What nodes measured last counts for the next plan; later commands measure them, too."""
        self._fleet = fleet
        if self._serving.measurements is not None and self._serving.fleet is None:
            # A disk that is full is no reason to stop serving.
            with contextlib.suppress(OSError):
                self._serving.measurements.forget(*(node.name for node in fleet.nodes))

    def _improve(self, fleet: Fleet, plan: Plan, observer: Observer) -> None:
        """Serve by a better plan; as long as requests run they are left alone."""
        before = [node.name for node in fleet.nodes]
        driver = self.engine.detach_idle("a better plan is being loaded; send the request again")
        if driver is None:
            return
        self._close(driver)
        self._driver = None
        self._required_callers().release(before, self._epoch)
        try:
            self._serve(fleet, plan, observer)
        except CallError as error:
            self._cannot_load(error)
        except (DoesNotFit, PlanError, ValueError) as error:
            self._lost.put((None, str(error)))

    def _cannot_load(self, error: CallError) -> None:
        """It cannot load what it is asked to (a full disk, a damaged file with nothing to build it from again)."""
        self._bad[error.node] = error.reason
        self._lost.put((error.node, error.reason))

    def report(self) -> dict[str, Any]:
        """What is served by whom, and how it goes, as plain data."""
        fleet, plan = self._fleet, self._plan
        force = None if fleet is None or plan is None else self._in_force(fleet, plan)
        return deployment_report(self._epoch, force, self._review, self.engine) | {"lost": self._losses | self._bad}

    def _refresh_metrics(self) -> None:
        self.engine.metrics.set_accuracy(self._review.comparison, self._review.predicted)

    def _look_at_spares(self, fleet: Fleet, plan: Plan) -> None:
        """Tell of nodes without a stage whose worker has ended: nobody else would miss them before the next plan."""
        spares = [node.name for node in fleet.nodes if node.name not in (*plan.nodes, *self.engine.dead)]
        ended = self._fabric.exits() if spares else {}
        for node in (node for node in spares if node in ended):
            self.engine.mark_dead([*self.engine.dead, node])
            if self._observer is not None:
                self._observer.spare_lost(node, _ended(ended[node]))

    def _silent_seconds(self, plan: Plan) -> float:
        """A group ends within seconds of losing a member, whether its members wait for it or it is a stage before."""
        grouped = any(stage.is_group for route in plan.routes for stage in route.stages)
        return min(self._serving.silent_seconds, _SILENT_WITH_GROUPS) if grouped else self._serving.silent_seconds

    def _replan(self, node: NodeName | None, reason: str) -> None:
        """Serve with the nodes left. A node that fails meanwhile is the next thing lost."""
        observer, fleet = self._observer, self._fleet
        if observer is None or fleet is None:
            return
        observer.lost(node, reason)
        # Again: an epoch that failed before it was attached has been attached since.
        self._refuse(node, reason)
        self._driver = None
        self._failures = 1 if self.engine.steps.progressed() else self._failures + 1
        retrying, self._retry_at = self._retry_at < math.inf, math.inf
        if self._failures > _MOST_FAILURES and not retrying:
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            self._give_up(
                f"{_failure(node)}: {reason}; {_MOST_FAILURES} plans in a row failed, see the workers' logs; "
                f"the next try is in {_RETRY_SECONDS:.0f} s"
            )
            return
        gone = self._gone([one.name for one in fleet.nodes], node)
        self._losses |= gone
        self.engine.mark_dead(list(dict.fromkeys([*self.engine.dead, *gone])))
        self._required_callers().release([one.name for one in fleet.nodes if one.name not in gone], self._epoch)
        try:
            self._serve_with_the_rest(fleet, gone, observer)
        except CallError as error:
            self._cannot_load(error)
        except (DoesNotFit, PlanError, ValueError) as error:
            lost = f"node {node!r} was lost and " if node in gone else ""
            self._give_up(f"{lost}the nodes left cannot serve the model: {error}")

    def _serve_with_the_rest(self, fleet: Fleet, gone: Mapping[NodeName, str], observer: Observer) -> None:
        """Serve without nodes that could not load their share, too, where the others can."""
        if self._bad:
            try:
                self._serve(without(fleet, {**self._bad, **gone}), None, observer)
                return
            except (DoesNotFit, ValueError):
                self._bad.clear()
        self._serve(without(fleet, gone), None, observer)

    def _gone(self, nodes: Sequence[NodeName], suspect: NodeName | None) -> dict[NodeName, str]:
        """Nodes whose worker has ended, which also reaps it, or does not answer."""
        deadline = time.monotonic() + _EXIT_SECONDS
        while suspect not in (ended := self._fabric.exits()) and suspect and time.monotonic() < deadline:
            # A dying process closes its connections some time before it is gone.
            time.sleep(0.05)
        gone = {node: _ended(ended[node]) for node in nodes if node in ended}
        rest = [node for node in nodes if node not in gone]
        return gone | self._required_callers().silent(rest, self._epoch, _ALIVE_SECONDS)

    def _give_up(self, reason: str) -> None:
        self.engine.detach(reason, retry_after=round(_RETRY_SECONDS))
        if self._observer is not None:
            self._observer.refused(reason)

    def _required_callers(self) -> Callers:
        if self._callers is None:
            raise DeploymentError("the deployment has not been started")
        return self._callers


def _ended(code: int) -> str:
    return f"its worker ended (exit code {code})"


def _failure(node: NodeName | None) -> str:
    return f"node {node!r} failed" if node else "the fleet failed"
