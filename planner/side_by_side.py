"""Routes side by side over sets of places, each looked for once, and what they cost together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf

from potluck.planner.capacity import able_places, least_alone, least_between
from potluck.planner.divisions import Division, Set
from potluck.planner.goal import Aim
from potluck.planner.objective import cost_of, objective
from potluck.planner.predict import predict
from potluck.planner.problem import Found, Problem
from potluck.planner.ring_search import MOST_WHOLE
from potluck.planner.strategy_ring import pipeline
from potluck.planner.strategy_single import single
from potluck.planner.stretches import poured

_RARE, _LIKELY = 1e-12, 1.5
# Of a division's routes, so many of the quickest are tried as that of a lone user.
_MOST_FIRST = 3


@dataclass(frozen=True, slots=True)
class Together:
    """Routes side by side and what they cost together; the quickest, where a lone request goes, first."""

    seconds: float
    routes: tuple[Found, ...]


class SideBySide:
    """The routes of a problem's divisions, some of them beside one that is given."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._required = {problem.places[number].name for number in problem.required()}
        self._route = cache(lambda chosen, aim: _route(problem, chosen, aim))
        self._least = cache(lambda chosen: _least(problem.narrowed(chosen)))

    def best_of(self, tried: Iterable[Division], limit: float = inf) -> Together | None:
        """The best of some divisions that costs less than the limit. Places of sets that hold no model stay unused."""
        best: Together | None = None
        for division in tried:
            for joined in self._joined(division, best.seconds if best else limit):
                if joined.seconds < (best.seconds if best else limit):
                    best = joined
        return best

    def best_beside(self, lone: Found, tried: Iterable[Division]) -> Together | None:
        """The best of some divisions of the places that a lone user's route leaves over, together with that route."""
        divided = (list(self._busy(division).values()) for division in tried)
        joined = (one for routes in divided if routes for one in self._together([lone, *routes]))
        return min(joined, key=lambda one: one.seconds, default=None)

    def least(self, division: Division) -> float:
        """What a division cannot cost less than."""
        alone, next_ = zip(*(self._least(tuple(sorted(one))) for one in division), strict=True)
        return cost_of(min(alone), 1 / max(sum(1 / one for one in next_), _RARE), self._problem.request.goal)

    def found(self, best: Together) -> Found:
        """As a plan with its prediction."""
        first, request = best.routes[0], self._problem.request
        plan = replace(first.plan, routes=tuple(one.plan.routes[0] for one in best.routes), prediction=None)
        prediction = predict(plan, self._problem.fleet, request.spec, request.goal)
        seconds = objective(prediction, request.goal)
        return Found(replace(plan, prediction=prediction), seconds, first.problem, first.layout, best.routes)

    def _joined(self, division: Division, limit: float) -> Iterator[Together]:
        """The routes that give most together; with a part for a lone user, also with one of the quickest quicker."""
        busy = self._busy(division)
        if len(busy) < 2:
            return
        yield from self._together(list(busy.values()))
        quickest = sorted(busy, key=lambda one: _alone(busy[one]))[:_MOST_FIRST]
        for first in quickest if self._problem.request.goal.aim == "balanced" else ():
            others = [busy[one] for one in busy if one != first]
            alone, next_ = self._least(first)
            if cost_of(alone, 1 / (_rate(others) + 1 / next_), self._problem.request.goal) < limit:
                quick = self._route(first, "balanced")
                yield from self._together([*([quick] if quick else []), *others])

    def _busy(self, division: Division) -> dict[Set, Found]:
        sets = [tuple(sorted(one)) for one in division]
        return {one: route for one in sets if (route := self._route(one, "throughput"))}

    def _together(self, routes: Sequence[Found]) -> Iterator[Together]:
        """Some routes, if all who must have a layer have one. Their tokens per second add up."""
        ordered = tuple(sorted(routes, key=_alone))
        if not self._required or self._required <= {node for one in ordered for node in one.plan.nodes}:
            seconds = cost_of(_alone(ordered[0]), 1 / _rate(ordered), self._problem.request.goal)
            yield Together(seconds, ordered)


def times_it_fits(problem: Problem, numbers: Sequence[int]) -> int:
    """How often some places hold all layers."""
    return sum(min(problem.layers, problem.places[number].room()) for number in numbers) // problem.layers


def _least(problem: Problem) -> tuple[float, float]:
    """What a token cannot take less than, and the time between tokens."""
    able = able_places(problem)
    return least_alone(problem, able), least_between(able, problem, whole=True)


def _rate(routes: Iterable[Found]) -> float:
    return sum(one.plan.prediction.tokens_per_second for one in routes if one.plan.prediction)


def _alone(found: Found) -> float:
    return found.plan.prediction.time_per_token if found.plan.prediction else inf


def _route(problem: Problem, chosen: Set, aim: Aim) -> Found | None:
    """The best route over some places; of a large fleet, which has many, one that needs no programme."""
    if not times_it_fits(problem, chosen):
        return None
    request = problem.request
    aimed = replace(problem, request=replace(request, goal=replace(request.goal, aim=aim)))
    over = aimed.narrowed(chosen)
    found = [one for one in (single(over, inf).best, poured(over)) if one]
    limit = min((one.seconds for one in found), default=inf)
    if not found or len(problem.places) <= MOST_WHOLE:
        found += [one for one in (_piped(over, limit),) if one]
    return min(found, key=lambda one: one.seconds).predicted() if found else None


def _piped(over: Problem, limit: float) -> Found | None:
    # A limit that most pipelines keep spares the programme that finds one.
    likely = _LIKELY * cost_of(*_least(over), over.request.goal)
    found = pipeline(over, min(likely, limit)).best
    return found or (pipeline(over, limit).best if likely < limit else None)
