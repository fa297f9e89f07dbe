"""Replicas: where the model fits more than once, several routes side by side, each over nodes of its own.

A request has one route to itself, so that tokens per second add up; a single token comes no sooner, so that who aims at
latency needs none. The moves are divisions of the places into sets, each with the best pipeline or single place over it
(`_route`); of few places all divisions are tried, of many one that fills sets with places of like speed, improved by
moving places from set to set. Nothing is streamed: a disk that is read for every token serves few requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import inf

from potluck.planner.capacity import least_seconds
from potluck.planner.divisions import Division, Set, divisions, moves_of
from potluck.planner.goal import Aim
from potluck.planner.objective import objective
from potluck.planner.predict import predict
from potluck.planner.problem import Found, Problem, Search
from potluck.planner.strategy_ring import pipeline
from potluck.planner.strategy_single import single

# 52 divisions of 31 sets are a second of programmes; six places have 203 of 63.
_MOST_DIVIDED = 5
# Of more places, so many moves are tried; each is one or two programmes.
_MOST_MOVED = 24
_CLOSER = 1 - 1e-9
# Of a division's routes, so many of the quickest are tried as that of a lone user.
_MOST_FIRST = 3


def replicas(problem: Problem, limit: float) -> Search:
    """The best division into two routes or more that was found. The bound is none where all were tried."""
    goal = problem.request.goal
    if goal.aim == "latency" or goal.rounds > 1 or problem.most is not None:
        return Search(None)
    resident = replace(problem, places=tuple(replace(place, disk=0.0) for place in problem.places))
    able = tuple(number for number, place in enumerate(resident.places) if place.room() > 0)
    if _times_it_fits(resident, able) < 2:
        return Search(None)
    few = len(able) <= _MOST_DIVIDED
    joining = _Joining(resident)
    found = joining.best_of(divisions(able)) if few else _improved(joining, _filled(resident, able))
    # Tokens per second add up, so that the best sets make the best division; times per token do not.
    tried = few and goal.aim == "throughput"
    return Search(found if found and found.seconds < limit else None, inf if tried else least_seconds(problem))


class _Joining:
    """Routes over sets of places, each looked for once, and what they are together."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._required = {problem.places[number].name for number in problem.required()}
        self._route = cache(lambda chosen, aim: _route(problem, chosen, aim))

    def best_of(self, tried: Iterator[Division]) -> Found | None:
        """The best of some divisions. Places of sets that hold no model stay unused."""
        found = (joined for division in tried for joined in self._joined(division))
        return min(found, key=lambda one: one.seconds, default=None)

    def _joined(self, division: Division) -> Iterator[Found]:
        """The routes that give most together; with a part for a lone user, also with one of the quickest quicker."""
        sets = [tuple(sorted(one)) for one in division]
        busy = {one: route for one in sets if (route := self._route(one, "throughput"))}
        if len(busy) < 2:
            return
        yield from self._together(list(busy.values()))
        quickest = sorted(busy, key=lambda one: _alone(busy[one]))[:_MOST_FIRST]
        for first in quickest if self._problem.request.goal.aim == "balanced" else ():
            quick = self._route(first, "balanced")
            yield from self._together([*([quick] if quick else []), *(busy[one] for one in busy if one != first)])

    def _together(self, routes: Sequence[Found]) -> Iterator[Found]:
        """Some routes as one plan, if all who must have a layer have one; the quickest, where a lone request goes,
        first."""
        ordered = tuple(sorted(routes, key=_alone))
        if not self._required <= {node for one in ordered for node in one.plan.nodes}:
            return
        plan = replace(ordered[0].plan, routes=tuple(one.plan.routes[0] for one in ordered), prediction=None)
        request = self._problem.request
        prediction = predict(plan, self._problem.fleet, request.spec, request.goal)
        seconds, first = objective(prediction, request.goal), ordered[0]
        yield Found(replace(plan, prediction=prediction), seconds, first.problem, first.layout, ordered)


def _alone(found: Found) -> float:
    return found.plan.prediction.time_per_token if found.plan.prediction else inf


def _times_it_fits(problem: Problem, numbers: Sequence[int]) -> int:
    return sum(min(problem.layers, problem.places[number].room()) for number in numbers) // problem.layers


def _route(problem: Problem, chosen: Set, aim: Aim) -> Found | None:
    """The best route over some places."""
    if not _times_it_fits(problem, chosen):
        return None
    request = problem.request
    aimed = replace(problem, request=replace(request, goal=replace(request.goal, aim=aim)))
    over, best = aimed.narrowed(chosen), None
    for strategy in (single, pipeline):
        search = strategy(over, best.seconds if best else inf)
        if search.best and (best is None or search.best.seconds < best.seconds):
            best = search.best
    return best


def _improved(joining: _Joining, division: Division) -> Found | None:
    """A division improved by moving one place at a time while that helps."""
    best, moves = joining.best_of(iter([division])), moves_of(division)
    for _ in range(_MOST_MOVED if best else 0):
        moved = next(moves, None)
        other = joining.best_of(iter([moved])) if moved else None
        if moved and other and best and other.seconds < best.seconds * _CLOSER:
            best, moves = other, moves_of(moved)
    return best


def _filled(problem: Problem, able: Set) -> Division:
    """Places of like speed together, as few as hold the model."""
    by_speed = sorted(able, key=lambda number: problem.places[number].layer_seconds)
    sets: list[Set] = []
    filling: Set = ()
    for number in by_speed:
        filling = (*filling, number)
        room = sum(max(0, problem.places[one].room()) for one in filling)
        # A set needs some room beyond its layers for the embedding and the head.
        if room > problem.layers or (room == problem.layers and len(filling) > 1):
            sets, filling = [*sets, filling], ()
    return (*sets[:-1], (*sets[-1], *filling)) if sets else (filling,)
