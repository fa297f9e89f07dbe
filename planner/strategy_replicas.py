"""Replicas: where the model fits more than once, several routes side by side, each over nodes of its own.

A request has one route to itself, so that tokens per second add up; a single token comes no sooner, so that who aims at
latency needs none. The moves are divisions of the places into sets, each with the best pipeline or single place over it
(`_route`); of few places all divisions are tried, of many one that fills sets with places of like speed, improved by
moving places from set to set. Nothing is streamed: a disk that is read for every token serves few requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import inf

from potluck.planner.objective import objective
from potluck.planner.plan import Plan
from potluck.planner.predict import predict
from potluck.planner.problem import Found, Problem, Search
from potluck.planner.strategy_ring import pipeline
from potluck.planner.strategy_single import single

Set = tuple[int, ...]
Division = tuple[Set, ...]

# 52 divisions of 31 sets are a second of programmes; six places have 203 of 63.
_MOST_DIVIDED = 5
# Of more places, so many moves are tried; each is one or two programmes.
_MOST_MOVED = 24
_CLOSER = 1 - 1e-9


def replicas(problem: Problem, limit: float) -> Search:
    """The best division into two routes or more that was found. The bound is none where all were tried."""
    goal = problem.request.goal
    if goal.aim == "latency" or goal.rounds > 1 or problem.most is not None:
        return Search(None)
    resident = replace(problem, places=tuple(replace(place, disk=0.0) for place in problem.places))
    able = tuple(number for number, place in enumerate(resident.places) if place.room() > 0)
    if _times_it_fits(resident, able) < 2:
        return Search(None)
    routes = cache(lambda chosen: _route(resident, chosen))
    few = len(able) <= _MOST_DIVIDED
    found = _best_of(resident, _divisions(able), routes) if few else _improved(resident, able, routes)
    # Tokens per second add up, so that the best sets make the best division; times per token do not.
    tried = few and goal.aim == "throughput"
    return Search(found if found and found.seconds < limit else None, inf if tried else least_seconds(problem))


def least_seconds(problem: Problem) -> float:
    """What no plan whose stages have one node each can cost less than, whatever its routes.

    With r_i visits to a node and x_i layers computed there in a second, s_i seconds each: no node computes more than
    all the time; a visit brings no more than the m_i layers that it holds; and of the tokens on their way, one per node
    at most, each is at a node or on a hop, of h_i seconds at least:

        x_i s_i <= 1,  x_i <= m_i r_i,  sum of x_i s_i + r_i h_i <= number of nodes

    Tokens per second are at most the sum of x_i over the number of layers; the greatest is found greedily.
    """
    able = [number for number, place in enumerate(problem.places) if place.most() > 0]
    costs = sorted((_layer_with_hop(problem, number), problem.places[number].layer_seconds) for number in able)
    left, layers = float(len(problem.places)), 0.0
    for cost, seconds in costs:
        taken = min(1 / seconds, left / cost)
        layers, left = layers + taken, left - taken * cost
    alone, goal = _least_alone(problem), problem.request.goal
    if goal.aim == "latency":
        return alone
    # Requests that share a step take less than one after the other.
    next_ = problem.layers / layers / goal.batch if layers else inf
    return next_ if goal.aim == "throughput" else alone + next_


def _least_alone(problem: Problem) -> float:
    """What no token can take less than: every part where it is quickest, the shortest ways from and to the engine."""
    places, numbers = problem.places, range(len(problem.places))
    least = [
        problem.layers * min((place.layer_seconds for place in places if place.most() > 0), default=inf),
        min(place.embedding_seconds for place in places),
        min(place.head_seconds for place in places),
        min(map(problem.hops.enter, numbers)),
        min(map(problem.hops.leave, numbers)),
    ]
    return sum(least)


def _layer_with_hop(problem: Problem, number: int) -> float:
    """Seconds of a layer on a place, with its part of the least way there."""
    place, hops = problem.places[number], problem.hops
    engine = hops.enter(number) + hops.leave(number)
    way = min(hops.cheapest[number], engine) if len(problem.places) > 1 else engine
    return place.layer_seconds + way / min(place.most(), problem.layers)


def _times_it_fits(problem: Problem, numbers: Sequence[int]) -> int:
    return sum(min(problem.layers, problem.places[number].room()) for number in numbers) // problem.layers


def _route(problem: Problem, chosen: Set) -> Found | None:
    """The best route over some places."""
    if not _times_it_fits(problem, chosen):
        return None
    over, best = problem.narrowed(chosen), None
    for strategy in (single, pipeline):
        search = strategy(over, best.seconds if best else inf)
        if search.best and (best is None or search.best.seconds < best.seconds):
            best = search.best
    return best


def _divisions(places: Set) -> Iterator[Division]:
    """Every way to divide places into sets."""
    if not places:
        yield ()
        return
    first = places[0]
    for division in _divisions(places[1:]):
        yield ((first,), *division)
        for number, one in enumerate(division):
            yield (*division[:number], (first, *one), *division[number + 1 :])


def _best_of(problem: Problem, divisions: Iterator[Division], routes: Callable[[Set], Found | None]) -> Found | None:
    """The best of some divisions. Places of sets that hold no model stay unused."""
    required = {problem.places[number].name for number in problem.required()}
    best: Found | None = None
    for division in divisions:
        found = [route for one in division if (route := routes(tuple(sorted(one))))]
        used = {node for route in found for node in route.plan.nodes}
        if len(found) > 1 and required <= used:
            joined = _joined(problem, found)
            best = joined if best is None or joined.seconds < best.seconds else best
    return best


def _joined(problem: Problem, found: Sequence[Found]) -> Found:
    """Some routes as one plan; the first is the one on which a token takes least, where a lone request goes."""
    fleet, spec, goal = problem.fleet, problem.request.spec, problem.request.goal
    ordered = sorted(found, key=lambda one: one.plan.prediction.time_per_token if one.plan.prediction else inf)
    plan = Plan(ordered[0].plan.model, goal.dtype, tuple(one.plan.routes[0] for one in ordered), goal.kv_tokens)
    prediction = predict(plan, fleet, spec, goal)
    seconds = objective(prediction, goal)
    first = ordered[0]
    return Found(replace(plan, prediction=prediction), seconds, first.problem, first.layout, tuple(ordered))


def _improved(problem: Problem, able: Set, routes: Callable[[Set], Found | None]) -> Found | None:
    """Begin with places of like speed together, as few as hold the model; then move one at a time while that helps."""
    division = _filled(problem, able)
    best, moves = _best_of(problem, iter([division]), routes), _moves(division)
    for _ in range(_MOST_MOVED if best else 0):
        moved = next(moves, None)
        if moved is None:
            break
        other = _best_of(problem, iter([moved]), routes)
        if other and best and other.seconds < best.seconds * _CLOSER:
            best, moves = other, _moves(moved)
    return best


def _filled(problem: Problem, able: Set) -> Division:
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


def _moves(division: Division) -> Iterator[Division]:
    """One place of a set to another, from the largest sets to the smallest first."""
    numbers = sorted(range(len(division)), key=lambda number: -len(division[number]))
    for giver in numbers:
        for place in division[giver] if len(division[giver]) > 1 else ():
            for taker in (number for number in reversed(numbers) if number != giver):
                yield _moved(division, place, taker)


def _moved(division: Division, place: int, taker: int) -> Division:
    left = (tuple(one for one in held if one != place) for held in division)
    return tuple((*held, place) if number == taker else held for number, held in enumerate(left))
