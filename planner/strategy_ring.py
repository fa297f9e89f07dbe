"""Stages that follow each other: a pipeline, or a ring in which places come round with small windows (PRIMA.CPP).

More rounds cost hops and nothing else, unless layers are streamed: then windows must be small enough that the next one
comes in while others compute. So a pipeline is a ring of one round that streams nothing, and more rounds are for rings
that stream, or for who asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from potluck.planner.problem import Found, Problem, Search
from potluck.planner.ring_columns import rounds_to_try
from potluck.planner.ring_enumeration import are_few, best_of_all
from potluck.planner.ring_search import MOST_WHOLE, Loose, best_ring, loosely, tightened
from potluck.planner.stream_search import refined

# Of so many numbers of rounds, the best ring is improved step by step.
_MOST_REFINED = 2


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
    found: dict[int, Found] = {}
    loose: list[Loose] = []
    for rounds in rounds_to_try(problem.layers):
        one = loosely(problem, rounds, _least(limit, found), "layer")
        loose += [one] if one else []
        _keep(found, one.found if one else None)
    for one in sorted(loose, key=lambda one: one.bound) if len(problem.places) <= MOST_WHOLE else ():
        if one.bound < _least(limit, found):
            _keep(found, best_ring(problem, one.ring.rounds, _least(limit, found), "window").best)
    promising = sorted(found.values(), key=lambda one: one.seconds)[:_MOST_REFINED]
    best = min(map(refined, promising), key=lambda one: one.seconds, default=None)
    return _raised(loose, best, limit)


def _raised(loose: Sequence[Loose], best: Found | None, limit: float) -> tuple[Found | None, float]:
    """The best, and the least of the bounds, which is raised by exact hops as long as one can be that is least."""
    bounds = {one.ring.rounds: one.bound for one in loose}
    open_ = {one.ring.rounds: one for one in loose}
    while bounds:
        known = min(limit, best.seconds) if best else limit
        rounds = min(bounds, key=lambda rounds: bounds[rounds])
        if rounds not in open_ or bounds[rounds] >= known:
            break
        search = tightened(open_.pop(rounds), known)
        bounds[rounds] = search.bound
        if search.best and search.best.layout.kept and search.best.seconds < known:
            best = refined(search.best)
    return best, min(bounds.values(), default=inf)


def _keep(found: dict[int, Found], other: Found | None) -> None:
    """Of rings that stream, the best of every number of rounds."""
    if other and other.layout.kept:
        rounds = other.layout.rounds
        found[rounds] = min(found.get(rounds, other), other, key=lambda one: one.seconds)


def _least(limit: float, found: Mapping[int, Found]) -> float:
    return min((limit, *(one.seconds for one in found.values())))
