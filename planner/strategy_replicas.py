"""Replicas: where the model fits more than once, several routes side by side, each over nodes of its own.

A request has one route to itself, so that tokens per second add up; a single token comes no sooner, so that who aims at
latency needs none. The moves are divisions of the places into sets, each with the best pipeline or single place over it
(`side_by_side`); of few places all divisions are tried; of more, one that fills sets with places of like speed,
improved by moving places from set to set; of very many, stretches of the order by speed (`stretches`). With a part for
a lone user, his quickest route is tried, too, which may be of groups, beside sets of the places that it leaves over.
Nothing is streamed: a disk that is read for every token serves few requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from math import inf

from potluck.planner.capacity import least_seconds
from potluck.planner.divisions import Division, Set, divisions, moves_of
from potluck.planner.problem import Found, Problem, Search
from potluck.planner.ring_search import MOST_WHOLE
from potluck.planner.side_by_side import SideBySide, Together, times_it_fits
from potluck.planner.strategy_group import groups
from potluck.planner.strategy_ring import pipeline
from potluck.planner.stretches import stretches
from potluck.planner.tour import MOST_EXACT

# 52 divisions of 31 sets are a second of programmes; six places have 203 of 63.
_MOST_DIVIDED = 5
# Of more places, so many moves are tried, each one or two programmes: those of so many that promise most.
_MOST_MOVED, _MOST_RANKED = 12, 128
# Moves of one place seldom save more than that.
_NEAR = 1.2
_CLOSER = 1 - 1e-9


def replicas(problem: Problem, limit: float) -> Search:
    """The best division into two routes or more that was found. The bound is none where all were tried."""
    goal = problem.request.goal
    if goal.aim == "latency" or goal.rounds > 1 or problem.most is not None:
        return Search(None)
    resident = replace(problem, places=tuple(replace(place, disk=0.0) for place in problem.places))
    able = tuple(number for number, place in enumerate(resident.places) if place.room() > 0)
    if times_it_fits(resident, able) < 2:
        return Search(None)
    joining = SideBySide(resident)
    beside = _beside_lone(joining, resident, able)
    divided = _divided(joining, resident, able, min(limit, beside.seconds) if beside else limit)
    best = min((one for one in (beside, divided) if one), key=lambda one: one.seconds, default=None)
    found = joining.found(best) if best and best.seconds < limit else None
    # Tokens per second add up, so that the best sets make the best division; times per token do not.
    complete = len(able) <= _MOST_DIVIDED and goal.aim == "throughput"
    return Search(found, inf if complete else least_seconds(problem))


def _divided(joining: SideBySide, problem: Problem, able: Set, limit: float) -> Together | None:
    """The best division found of all places; one that costs more than the limit need not be looked for further."""
    aim = problem.request.goal.aim
    if len(able) <= _MOST_DIVIDED:
        return joining.best_of(divisions(able), limit)
    if len(able) > MOST_WHOLE:
        # The quickest route of a lone user is that beside which the others are divided.
        return joining.best_of([_begun(problem, able)]) if aim == "throughput" else None
    # Over large sets a lone user's programmes take half a second each, and of five fleets of 32 none gained by moves.
    most = _MOST_MOVED if len(able) <= MOST_EXACT or aim == "throughput" else 0
    return _improved(joining, _begun(problem, able), limit, most)


def _begun(problem: Problem, able: Set) -> Division:
    """A division that promises much; nobody is left out of it who must have a layer."""
    cut = stretches(problem, able)
    return cut if len(cut) > 1 and not problem.required() else _filled(problem, able)


def _beside_lone(joining: SideBySide, problem: Problem, able: Set) -> Together | None:
    """With a part for a lone user: the route that is quickest for him, and the best division found of who is left."""
    if problem.request.goal.aim != "balanced":
        return None
    lone = _quickest(problem)
    left = tuple(number for number in able if lone and problem.places[number].name not in lone.plan.nodes)
    if not lone or not times_it_fits(problem, left):
        return None
    few = len(left) <= _MOST_DIVIDED
    return joining.best_beside(lone, divisions(left) if few else [stretches(problem, left)])


def _quickest(problem: Problem) -> Found | None:
    """The quickest route for a lone user, of groups or of single places."""
    request = problem.request
    aimed = replace(problem, request=replace(request, goal=replace(request.goal, aim="latency")))
    piped = pipeline(aimed, inf).best
    found = groups(aimed, piped.seconds if piped else inf).best or piped
    return _of_its_own(found.predicted()) if found else None


def _of_its_own(found: Found) -> Found:
    """The same over its own places alone."""
    layout, used = found.layout, found.layout.used
    number = {place: number for number, place in enumerate(used)}
    counts = {number[place]: count for place, count in layout.counts.items()}
    order = tuple(number[place] for place in layout.order)
    own = replace(layout, order=order, counts=counts, embedding=number[layout.embedding], head=number[layout.head])
    return replace(found, problem=found.problem.narrowed(used), layout=own)


def _improved(joining: SideBySide, division: Division, limit: float, most: int) -> Together | None:
    """A division improved by moving one place at a time while that helps, if it is not far from the limit."""
    best, moves = joining.best_of([division], limit * _NEAR), _promising(joining, division)
    for _ in range(most if best else 0):
        moved = next(moves, None)
        if best is None or moved is None or joining.least(moved) >= min(limit, best.seconds):
            break
        if other := joining.best_of([moved], best.seconds * _CLOSER):
            best, moves = other, _promising(joining, moved)
    return best


def _promising(joining: SideBySide, division: Division) -> Iterator[Division]:
    """The moves of a division, those first that could cost least."""
    yield from sorted(islice(moves_of(division), _MOST_RANKED), key=joining.least)


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
