"""Stages that follow each other: a pipeline, or a ring in which places come round with small windows (PRIMA.CPP).

More rounds cost hops and nothing else, unless layers are streamed: then windows must be small enough that the next one
comes in while others compute. So a pipeline is a ring of one round that streams nothing, and more rounds are for rings
that stream, or for who asks for them.
"""

from __future__ import annotations

from itertools import product
from math import inf

from potluck.planner.problem import Found, Problem, Search
from potluck.planner.ring_enumeration import are_few, best_of_all
from potluck.planner.ring_programme import Room
from potluck.planner.ring_search import best_ring, least_streaming
from potluck.planner.stream_search import refined

# What hides all reading first, then what may not, but reads less.
_ROOMS: tuple[Room, ...] = ("window", "layer")
_MOST_REFINED = 3


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
    if are_few(problem):
        best, complete = best_of_all(problem, limit)
        if complete:
            return Search(best)
    search = _searched(problem, limit)
    return Search(search, least_streaming(problem, min(limit, search.seconds if search else inf)))


def _searched(problem: Problem, limit: float) -> Found | None:
    """The best of the programmes' rings, improved."""
    found: list[Found] = []
    for rounds, room in product(range(1, problem.layers // 2 + 1), _ROOMS):
        least = min((limit, *(one.seconds for one in found)))
        search = best_ring(problem, rounds, least, room)
        found += [search.best] if search.best and search.best.layout.kept else []
    promising = sorted(found, key=lambda one: one.seconds)[:_MOST_REFINED]
    return min(map(refined, promising), key=lambda one: one.seconds, default=None)
