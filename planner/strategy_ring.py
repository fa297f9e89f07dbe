"""Stages that follow each other: a pipeline, or a ring in which places come round with small windows (PRIMA.CPP).

More rounds cost hops and nothing else, unless layers are streamed: then windows must be small enough that the next one
comes in while others compute. So a pipeline is a ring of one round that streams nothing, and more rounds are for rings
that stream, or for who asks for them.
"""

from __future__ import annotations

from itertools import product
from math import inf

from potluck.planner.problem import Found, Problem, Search
from potluck.planner.ring_columns import Room, rounds_to_try
from potluck.planner.ring_enumeration import are_few, best_of_all
from potluck.planner.ring_search import MOST_WHOLE, best_ring
from potluck.planner.stream_search import refined

# What hides all reading first, then what may not, but reads less.
_ROOMS: tuple[Room, ...] = ("window", "layer")
_MOST_REFINED = 1


def pipeline(problem: Problem, limit: float) -> Search:
    """The best pipeline; with rounds asked for, the best ring of so many, or of as many as there are layers for."""
    asked = problem.request.goal.rounds
    for rounds in range(min(asked, max(1, problem.layers // 2)), 0, -1):
        search = best_ring(problem, rounds, limit, "window" if rounds > 1 else "none")
        if search.best or limit < inf:
            return search
    return Search(None)


def streamed_ring(problem: Problem, limit: float) -> Search:
    """The best ring found that may stream, of all numbers of rounds."""
    if problem.request.goal.rounds > 1 or not any(place.disk for place in problem.places):
        return Search(None)
    tried: Found | None = None
    if are_few(problem):
        tried, complete = best_of_all(problem, limit)
        if complete:
            return Search(tried)
    found, bound = _searched(problem, tried.seconds if tried else limit)
    best = min((one for one in (tried, found) if one), key=lambda one: one.seconds, default=None)
    return Search(best, bound)


def _searched(problem: Problem, limit: float) -> tuple[Found | None, float]:
    """The best of the programmes' rings, improved, and what no ring can cost less than."""
    found: list[Found] = []
    bound = inf
    rooms = _ROOMS if len(problem.places) <= MOST_WHOLE else _ROOMS[-1:]
    for rounds, room in product(rounds_to_try(problem.layers), rooms):
        search = best_ring(problem, rounds, min((limit, *(one.seconds for one in found))), room)
        found += [search.best] if search.best and search.best.layout.kept else []
        bound = min(bound, search.bound) if room == "layer" else bound
    promising = sorted(found, key=lambda one: one.seconds)[:_MOST_REFINED]
    return min(map(refined, promising), key=lambda one: one.seconds, default=None), bound
