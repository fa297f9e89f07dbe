"""The plan that is in force over a fleet, as one value: whoever reads it sees both as they belong together. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from potluck.coordinator.accuracy import Predict, predictor
from potluck.coordinator.drift import stretched
from potluck.models.spec import ModelSpec
from potluck.planner.executable import executable_stages
from potluck.planner.fleet import Fleet
from potluck.planner.goal import Goal
from potluck.planner.plan import Plan
from potluck.planner.predict import predict
from potluck.planner.solve import solve
from potluck.planner.validate import validate


@dataclass(frozen=True, slots=True)
class InForce:
    """What is served: a plan, the fleet it was made for, and how it is predicted.

    Attributes:
        goal: with the rows of a step as they are served.
        scale: seconds of this clock for one of the fleet's.
        described: the fleet is a description, which measuring can only contradict.
        fixed: the plan was made by hand, and is not replaced.
    """

    plan: Plan
    fleet: Fleet
    spec: ModelSpec
    goal: Goal
    scale: float = 1.0
    described: bool = False
    fixed: bool = False

    def predictor(self) -> Predict:
        """Predictions for one request, in seconds of this clock."""
        return predictor(self.plan, stretched(self.fleet, self.scale), self.spec, self.goal)

    def over(self, fleet: Fleet) -> InForce:
        """The same plan over the fleet as it was measured."""
        return replace(self, fleet=fleet)


def plan_for(fleet: Fleet, spec: ModelSpec, goal: Goal, given: Plan | None) -> Plan:
    """The given plan, or else the best one: valid, of stages that workers run, and with a prediction.

    Raises:
        DoesNotFit, PlanError, ValueError: one line each.
    """
    plan = given or solve(fleet, spec, goal)
    validate(plan, fleet, spec)
    executable_stages(plan)
    return plan if plan.prediction else replace(plan, prediction=predict(plan, fleet, spec, goal))
