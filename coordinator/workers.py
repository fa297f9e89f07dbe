"""The workers of a deployment: started, measured, found gone, stopped."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Mapping, Sequence

from potluck.coordinator.calls import Callers
from potluck.coordinator.drift import stretched
from potluck.coordinator.fabric import Fabric, Worker
from potluck.coordinator.in_force import InForce
from potluck.coordinator.measured_fleet import measure_fleet
from potluck.coordinator.measurements import Question
from potluck.coordinator.serving import DeploymentError, Wire
from potluck.planner.fleet import Fleet, NodeName

_HELLO_SECONDS = 30.0
_ALIVE_SECONDS = 3.0
_EXIT_SECONDS = 0.5


class Workers:
    """The workers that a fabric starts, and the calls to them. `stop` whatever comes of `start`."""

    def __init__(self, fabric: Fabric, wire: Wire) -> None:
        self.token = secrets.token_hex(32)
        self._fabric, self._wire = fabric, wire
        self._started: list[Worker] = []
        self._callers: Callers | None = None
        self._measuring: Callers | None = None

    def start(self) -> None:
        """Start one per node, and hear that all are there.

        Raises:
            FabricError, DeploymentError: one line each.
        """
        self._started = list(self._fabric.start(self.token))
        self._callers = Callers(self._started, self.token)
        for node, reason in self._callers.silent(list(self._callers.addresses), 0, _HELLO_SECONDS).items():
            raise DeploymentError(f"the worker of node {node!r} does not answer: {reason}")

    def stop(self) -> None:
        """End all of them, and the calls under way."""
        if self._callers is not None:
            self._callers.close()
        self._fabric.stop()

    @property
    def callers(self) -> Callers:
        """The calls to all of them.

        Raises:
            DeploymentError: they have not been started.
        """
        if self._callers is None:
            raise DeploymentError("the deployment has not been started")
        return self._callers

    @property
    def data_ports(self) -> Mapping[NodeName, int]:
        """Where they take frames over sockets; of none where frames travel over gRPC."""
        return self.callers.data_ports if self._wire == "tcp" else {}

    def measure(self, ask: Question, engine: str) -> Fleet:
        """The fleet as they measure it; see `measure_fleet`."""
        return measure_fleet(self.callers, ask, self.data_ports, engine)

    def measure_again(self, force: InForce) -> Fleet:
        """What those of the fleet in force measure now, in its own seconds. `end_measuring` ends it.

        Raises:
            CallError: one of them did not answer, or the end came first.
        """
        names = {node.name for node in force.fleet.nodes}
        # Requests wait meanwhile: no format is measured that the model does not have.
        ask = Question(force.plan.dtype, formats=set(force.spec.encodings.values()))
        # Channels of its own: whatever comes of it, the calls that look after the epoch are not held up.
        with contextlib.closing(Callers([one for one in self._started if one.node in names], self.token)) as callers:
            self._measuring = callers
            return stretched(measure_fleet(callers, ask, self.data_ports), 1.0 / force.scale)

    def end_measuring(self) -> None:
        """Nobody wants to know what they measure any more."""
        if self._measuring is not None:
            self._measuring.close()

    def ended(self) -> dict[NodeName, str]:
        """Nodes whose worker has ended, which also reaps it, with the reason."""
        return {NodeName(node): f"its worker ended (exit code {code})" for node, code in self._fabric.exits().items()}

    def gone(self, nodes: Sequence[NodeName], suspect: NodeName | None, epoch: int) -> dict[NodeName, str]:
        """Those of the nodes whose worker has ended or does not answer, with the reason."""
        deadline = time.monotonic() + _EXIT_SECONDS
        while suspect not in (ended := self.ended()) and suspect and time.monotonic() < deadline:
            # A dying process closes its connections some time before it is gone.
            time.sleep(0.05)
        gone = {node: ended[node] for node in nodes if node in ended}
        rest = [node for node in nodes if node not in gone]
        return gone | self.callers.silent(rest, epoch, _ALIVE_SECONDS)
