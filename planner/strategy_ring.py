"""Stages that follow each other: a pipeline, or a ring in which places come round with small windows (PRIMA.CPP).

More rounds cost hops and nothing else, unless layers are streamed: then windows must be small enough that the next one
comes in while others compute. So a pipeline is a ring of one round that streams nothing, and more rounds are for rings
that stream, or for who asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from potluck.planner.problem import Found, Problem, Search
from potluck.planner.ring_columns import rounds_to_try
from potluck.planner.ring_enumeration import are_few, best_of_all
from potluck.planner.ring_search import MOST_WHOLE, Loose, best_ring, loosely, tightened
from potluck.planner.stream_search import refined


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
    best: Found | None = None
    loose: list[Loose] = []
    for rounds in rounds_to_try(problem.layers):
        one = loosely(problem, rounds, _least(limit, best), "layer")
        loose += [one] if one else []
        best = _better(best, one.found if one else None)
    for one in sorted(loose, key=lambda one: one.bound) if len(problem.places) <= MOST_WHOLE else ():
        if one.bound < _least(limit, best):
            best = _better(best, best_ring(problem, one.ring.rounds, _least(limit, best), "window").best)
    return _raised(loose, refined(best) if best else None, limit)


def _raised(loose: Sequence[Loose], best: Found | None, limit: float) -> tuple[Found | None, float]:
    """The best, and the least of the bounds, which is raised by exact hops as long as one can be that is least."""
    bounds = {one.ring.rounds: one.bound for one in loose}
    open_ = {one.ring.rounds: one for one in loose}
    while bounds and best:
        rounds = min(bounds, key=lambda rounds: bounds[rounds])
        if rounds not in open_ or bounds[rounds] >= best.seconds:
            break
        search = tightened(open_.pop(rounds), best)
        bounds[rounds] = search.bound
        better = _better(best, search.best)
        best = refined(better) if better and better is not best else best
    return best, min(bounds.values(), default=inf)


def _better(best: Found | None, other: Found | None) -> Found | None:
    """The better of the best and another that streams."""
    if other is None or not other.layout.kept or (best and best.seconds <= other.seconds):
        return best
    return other


def _least(limit: float, best: Found | None) -> float:
    return min(limit, best.seconds) if best else limit
