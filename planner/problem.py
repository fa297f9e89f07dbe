"""What a strategy is given: the fleet, what is asked for, the places that may be used and the hops among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from potluck.planner.fleet import Fleet
from potluck.planner.hops import Hops
from potluck.planner.layout import Layout, route_of
from potluck.planner.offers import Request
from potluck.planner.places import Place
from potluck.planner.plan import Plan
from potluck.planner.predict import predict, predicted_cost
from potluck.planner.streaming import cut_route


@dataclass(frozen=True, slots=True)
class Problem:
    """Places that together are the nodes which may be used, and the hops among them; `most` of them may be."""

    fleet: Fleet
    request: Request
    places: tuple[Place, ...]
    hops: Hops
    most: int | None = None

    @classmethod
    def over(cls, fleet: Fleet, request: Request, places: Sequence[Place]) -> Problem:
        """The problem over these places."""
        return cls(fleet, request, tuple(places), Hops(fleet, request, places))

    @property
    def layers(self) -> int:
        """How many layers there are to place."""
        return len(self.request.spec.layers)

    def required(self, rounds: int = 1) -> list[int]:
        """The places that must have layers: the pinned; with spread `all` everybody, where there are enough layers."""
        pinned = self.request.goal.pinned
        able = [number for number, place in enumerate(self.places) if place.most() >= rounds]
        if self.request.goal.spread == "all" and len(able) * rounds <= self.layers:
            return able
        return [number for number, place in enumerate(self.places) if pinned & set(place.nodes)]

    def narrowed(self, numbers: Sequence[int]) -> Problem:
        """The same with these places alone."""
        places = tuple(self.places[number] for number in numbers)
        return replace(self, places=places, hops=Hops(self.fleet, self.request, places, self.hops))

    def plan(self, layout: Layout) -> Plan:
        """A layout as a plan, nothing predicted."""
        spec, goal = self.request.spec, self.request.goal
        kept = {self.places[number].name: count for number, count in layout.kept.items()}
        runs = {self.places[number].name: layout.runs.get(number, self.layers) for number in layout.kept}
        route = cut_route(route_of(layout, self.places, spec), kept, runs)
        return Plan(goal.model or spec.name, goal.dtype, (route,), goal.kv_tokens)

    def seconds(self, layout: Layout) -> float:
        """What a layout costs (`objective`)."""
        return predicted_cost(self.plan(layout), self.fleet, self.request.spec, self.request.goal)

    def found(self, layout: Layout) -> Found:
        """A layout as a plan, and what it costs."""
        plan = self.plan(layout)
        return Found(plan, predicted_cost(plan, self.fleet, self.request.spec, self.request.goal), self, layout)


@dataclass(frozen=True, slots=True)
class Found:
    """A plan, what it costs in seconds (`objective`), and how it came about.

    `routes`: of a plan with several, each found by itself; `problem` and `layout` are then the first one's.
    """

    plan: Plan
    seconds: float
    problem: Problem
    layout: Layout
    routes: tuple[Found, ...] = ()

    def predicted(self) -> Found:
        """The same with its prediction, which takes as long again as what it costs."""
        problem = self.problem
        if self.plan.prediction:
            return self
        prediction = predict(self.plan, problem.fleet, problem.request.spec, problem.request.goal)
        return replace(self, plan=replace(self.plan, prediction=prediction))

    @property
    def has_groups(self) -> bool:
        """Whether any stage is run by several nodes."""
        return any(stage.is_group for route in self.plan.routes for stage in route.stages)


@dataclass(frozen=True, slots=True)
class Search:
    """What came of a search: the best found, if any, and what nothing that it did not find can cost less than.

    The bound is infinite where everything was searched.
    """

    best: Found | None
    bound: float = inf
