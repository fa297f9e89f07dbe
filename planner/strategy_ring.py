"""Stages that follow each other: a pipeline, or a ring in which places come round with small windows (PRIMA.CPP).

More rounds cost hops and nothing else, unless layers are streamed: then windows must be small enough that the next one
comes in while others compute. So a pipeline is a ring of one round that streams nothing, and more rounds are for rings
that stream, or for who asks for them.
"""

from __future__ import annotations

from math import inf

from potluck.planner.problem import Problem, Search
from potluck.planner.ring_search import best_ring


def pipeline(problem: Problem, limit: float) -> Search:
    """The best pipeline; with rounds asked for, the best ring of so many, or of as many as there are layers for."""
    asked = problem.request.goal.rounds
    for rounds in range(min(asked, max(1, problem.layers // 2)), 0, -1):
        search = best_ring(problem, rounds, limit)
        if search.best or limit < inf:
            return search
    return Search(None)


def streamed_ring(problem: Problem, limit: float) -> Search:
    """The best ring that may stream, of all numbers of rounds."""
    if problem.request.goal.rounds > 1 or not any(place.disk for place in problem.places):
        return Search(None)
    best, bound = None, inf
    for rounds in range(2, problem.layers // 2 + 1):
        search = best_ring(problem, rounds, limit)
        bound = min(bound, search.bound)
        if search.best and search.best.seconds < limit:
            best, limit = search.best, search.best.seconds
    return Search(best, bound)
