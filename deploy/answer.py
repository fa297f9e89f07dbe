"""What `cluster plan` found: the plan, and all that explaining it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from potluck.models.spec import ModelSpec, Part, PartKind
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.goal import Goal
from potluck.planner.memory import NodeBytes, node_bytes
from potluck.planner.plan import Plan, Prediction, Stage
from potluck.planner.predict import predict
from potluck.planner.prediction import Breakdown


@dataclass(frozen=True, slots=True)
class Answer:
    """A plan with its prediction for a fleet, a model and a goal; `origin` says where the model's shape is from."""

    plan: Plan
    prediction: Prediction
    fleet: Fleet
    spec: ModelSpec
    goal: Goal
    origin: str = ""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the route that is explained: the first."""
        return self.plan.routes[0].stages

    @property
    def routes(self) -> tuple[Answer, ...]:
        """Every route, explained alone."""
        if len(self.plan.routes) == 1:
            return (self,)
        return tuple(answer_of(route, self.fleet, self.spec, self.goal, self.origin) for route in self.plan.replicas)

    @property
    def decode(self) -> Breakdown:
        """What the time per token is made of."""
        if self.prediction.decode is None:
            raise ValueError("a prediction that a file had does not say what its times are made of; make a new one")
        return self.prediction.decode

    @property
    def sizes(self) -> Mapping[NodeName, NodeBytes]:
        """Bytes on every node that holds something."""
        return node_bytes(self.plan, self.spec, self.fleet.kinds)

    @property
    def parameters(self) -> int:
        """Weights of the model; a tied head counts once."""
        tied = self.spec.parameters(Part(PartKind.EMBEDDING)) if self.spec.tied_head else 0
        return sum(self.spec.parameters(part) for part in self.spec.parts()) - tied


def answer_of(plan: Plan, fleet: Fleet, spec: ModelSpec, goal: Goal, origin: str = "") -> Answer:
    """A plan explained, with a prediction for this fleet and goal, whatever it was made for."""
    prediction = predict(plan, fleet, spec, goal)
    return Answer(replace(plan, prediction=prediction), prediction, fleet, spec, goal, origin)
