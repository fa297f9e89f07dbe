"""Plans to hold against each other on one fleet: the solver's, the baseline's, equal parts, one node alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from math import inf

from potluck.planner.exact import STRATEGIES
from potluck.planner.executable import executable_stages
from potluck.planner.fleet import Fleet
from potluck.planner.offers import Request
from potluck.planner.places import Places
from potluck.planner.plan import Plan
from potluck.planner.predict import predict
from potluck.planner.problem import Problem
from potluck.planner.ring import ring_route, ring_windows
from potluck.planner.solve import DoesNotFit, solve
from potluck.planner.streaming import streamed_route
from potluck.planner.validate import PlanError, validate


def candidates(fleet: Fleet, request: Request) -> dict[str, Plan]:
    """By name, every plan that the fleet can run, with its prediction; the solver's is called `solver`."""
    found: dict[str, Plan] = {}
    for name, plan in _proposed(fleet, request):
        with contextlib.suppress(PlanError, ValueError):
            validate(plan, fleet, request.spec)
            executable_stages(plan)
            found[name] = replace(plan, prediction=predict(plan, fleet, request.spec, request.goal))
    return found


def _proposed(fleet: Fleet, request: Request) -> Iterator[tuple[str, Plan]]:
    yield "solver", solve(fleet, request.spec, request.goal)
    with contextlib.suppress(DoesNotFit, ValueError):
        yield "proportional", solve(fleet, request.spec, replace(request.goal, solver="proportional"))
    with contextlib.suppress(DoesNotFit, ValueError):
        yield "equal", equal(fleet, request)
    if singles := list(_singles(fleet, request)):
        yield "single", min(singles, key=_token)
    places = Places(fleet, request)
    problem = Problem.over(fleet, request, [places.node(node) for node in fleet.nodes])
    for name, strategy in STRATEGIES.items():
        if name != "single node" and (best := strategy(problem, inf).best):
            yield name, best.plan


def equal(fleet: Fleet, request: Request) -> Plan:
    """As many layers for everybody, in the order of the fleet from the engine's node on, which has both ends."""
    names = [node.name for node in fleet.nodes]
    at = names.index(fleet.engine)
    order, layers = [*names[at:], *names[:at]], len(request.spec.layers)
    counts = {name: layers // len(order) + (place < layers % len(order)) for place, name in enumerate(order)}
    route = ring_route(ring_windows(order, counts, 1), order[0], order[0])
    route = streamed_route(route, fleet, request)
    return Plan(request.spec.name, request.goal.dtype, (route,), request.goal.kv_tokens)


def _singles(fleet: Fleet, request: Request) -> Iterator[Plan]:
    for node in fleet.nodes:
        others = frozenset(one.name for one in fleet.nodes if one.name != node.name)
        with contextlib.suppress(DoesNotFit, ValueError):
            yield solve(fleet, request.spec, replace(request.goal, excluded=others))


def _token(plan: Plan) -> float:
    return plan.prediction.time_per_token if plan.prediction else inf
