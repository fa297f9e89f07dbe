"""The planner: a fleet, a model and a goal become a plan."""

from __future__ import annotations

from potluck.models.spec import ModelSpec
from potluck.planner.exact import solve_exactly
from potluck.planner.fields import suggestion
from potluck.planner.fit import DoesNotFit
from potluck.planner.fleet import Fleet
from potluck.planner.goal import Goal
from potluck.planner.offers import Request
from potluck.planner.plan import Plan
from potluck.planner.proportional import solve_in_proportion

__all__ = ["DoesNotFit", "solve"]


def solve(fleet: Fleet, spec: ModelSpec, goal: Goal) -> Plan:
    """A plan with one route. The same fleet, model and goal always give the same plan.

    Raises:
        DoesNotFit: the nodes cannot hold the model with its KV; the message says what is missing.
        ValueError: the goal names a node that the fleet does not have.
    """
    names = [str(node.name) for node in fleet.nodes]
    for name in sorted(goal.named):
        if name not in names:
            raise ValueError(f"fleet {fleet.name!r} has no node {name!r}{suggestion(name, names)}")
    solver = solve_exactly if goal.solver == "exact" else solve_in_proportion
    return solver(fleet, Request(spec, goal))
