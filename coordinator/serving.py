"""What a deployment is asked to serve, and who is told how it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from potluck.coordinator.accuracy import Comparison, Figure
from potluck.coordinator.measurements import Measurements
from potluck.coordinator.remeasure import Outcome
from potluck.models.spec import ModelSpec
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.goal import Goal
from potluck.planner.plan import Plan
from potluck.proto import cluster_pb2 as pb
from potluck.proto.shaper import Shape

Wire = Literal["tcp", "grpc"]


class DeploymentError(Exception):
    """The model cannot be served; one line with the remedy."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The model to serve: its spec, its path on this machine and its content's digest."""

    spec: ModelSpec
    path: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Serving:
    """How to serve.

    Attributes:
        goal: what the planner plans for.
        fleet: the described fleet of an emulation; None to measure the workers' nodes.
        engine: node where requests arrive when the fleet is measured.
        measurements: what nodes measured before is kept there; None to measure them every time.
        plan: a plan made by hand; None to solve for one.
        links: emulated links from the engine's node, by target.
        max_rows: most packed rows of a step.
        wire: how frames travel: sockets of their own, or the gRPC port that carries everything else.
        step_seconds: a step without an answer for so long counts as a lost node.
        scale: seconds of this clock that an emulation takes for one second of its fleet.
        remeasure_after: so many of the latest requests that ran alone must be more than 30 % off their predictions,
            in the median, before nodes and links are measured again; 0 never does.
        silent_seconds: a node that answers no question for so long counts as lost, too (frozen, or cut off).
    """

    goal: Goal
    context: int
    fleet: Fleet | None = None
    engine: str = ""
    measurements: Measurements | None = None
    plan: Plan | None = None
    links: Mapping[str, Shape] = field(default_factory=dict)
    max_rows: int = 256
    max_waiting: int = 4096
    step_seconds: float = 60.0
    silent_seconds: float = 10.0
    wire: Wire = "tcp"
    scale: float = 1.0
    remeasure_after: int = 0


class Observer(Protocol):
    """Told what goes on, from any thread."""

    def phase(self, what: str) -> None:
        """Something that takes a while begins."""

    def planned(self, plan: Plan, fleet: Fleet) -> None:
        """This plan will be loaded."""

    def loading(self, node: NodeName, progress: pb.LoadProgress) -> None:
        """A node got on with loading."""

    def serving(self) -> None:
        """Requests are served from now on."""

    def lost(self, node: NodeName | None, reason: str) -> None:
        """A node was lost, or the epoch failed for another reason."""

    def spare_lost(self, node: NodeName, reason: str) -> None:
        """A node that held nothing was lost: serving goes on."""

    def refused(self, reason: str) -> None:
        """There is no plan any more; requests are refused with this reason."""

    def compared(self, comparison: Comparison) -> None:
        """What requests measured beside what was predicted, the first time and when it has changed."""

    def remeasuring(self, cause: str, figure: Figure) -> None:
        """This figure stays apart from its prediction; nodes and links are measured when no request runs."""

    def remeasured(self, outcome: Outcome, described: bool) -> None:
        """What that found; `described` fleets stay as they are described."""
