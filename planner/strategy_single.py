"""All layers in one place, the embedding and the head there too or elsewhere: every way is reckoned.

Of those that stream, as many as there is time for, the most promising first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from math import inf

from potluck.planner.layout import Layout
from potluck.planner.problem import Problem, Search
from potluck.planner.stream_moves import most_kept
from potluck.planner.stream_search import fewest_runs
from potluck.planner.tour import MOST_EXACT

_CLOSE = 1 + 1e-6
# What is streamed is predicted layer by layer: so many layers are about a second.
_MOST_LAYERS = 1_500
# In a larger fleet, the quickest places for an end: the second serves where both ends do not fit the first.
_MOST_ENDS = 2


def single(problem: Problem, limit: float) -> Search:
    """The best plan with all layers in one place."""
    reckoned = [(_least(problem, layout), layout) for layout in _layouts(problem, limit)]
    reckoned.sort(key=lambda one: one[0])
    whole = next((layout for _, layout in reckoned if not layout.kept), None)
    best = problem.found(whole) if whole else None
    limit = min(limit, best.seconds if best else inf)
    chosen: Layout | None = None
    budget = max(4, _MOST_LAYERS // problem.layers)
    bound = inf
    for least, layout in (one for one in reckoned if one[1].kept):
        if least * _CLOSE >= limit:
            break
        if not budget:
            bound = least
            break
        seconds, budget = problem.seconds(layout), budget - 1
        if seconds < limit:
            chosen, limit = layout, seconds
    return Search(fewest_runs(problem.found(chosen)) if chosen else best, bound)


def _layouts(problem: Problem, limit: float) -> Iterator[Layout]:
    """Every layout that fits; where layers are streamed, with every number of those that stay, if any may cost less
    than the limit."""
    required = set(problem.required())
    for place in range(len(problem.places)):
        if required <= {place} and _may_have_all(problem, place, limit):
            for embedding, head in _ends(problem, place):
                layout = Layout((place,), {place: problem.layers}, embedding, head)
                if _fits(problem, layout):
                    yield from (replace(layout, kept=kept) for kept in _kept(problem, layout))


def _may_have_all(problem: Problem, number: int, limit: float) -> bool:
    """Whether a place could have all layers: what does not fit must not take longer than the limit to run or read."""
    place, layers = problem.places[number], problem.layers
    if place.most() < layers or place.room() >= layers:
        return place.room() >= layers
    reading = (layers - place.room()) * place.holders[0].layer_weights / place.disk
    return max(layers * place.layer_seconds, reading) * _CLOSE < limit


def _ends(problem: Problem, place: int) -> Iterator[tuple[int, int]]:
    places, hops = problem.places, problem.hops

    def embedding(end: int) -> float:
        return places[end].embedding_seconds + hops.enter(end) + hops.between(end, place)

    def head(end: int) -> float:
        return places[end].head_seconds + hops.leave(end) + hops.between(place, end)

    yield from product(_quickest(problem, place, embedding), _quickest(problem, place, head))


def _quickest(problem: Problem, place: int, seconds: Callable[[int], float]) -> list[int]:
    """Where an end could be: the place with the layers, and the quickest others, all of them where they are few."""
    others = sorted((end for end in range(len(problem.places)) if end != place), key=seconds)
    few = len(others) < MOST_EXACT
    return [place, *(others if few else [end for end in others if problem.places[end].room() >= 0][:_MOST_ENDS])]


def _kept(problem: Problem, layout: Layout) -> Iterator[dict[int, int]]:
    """How many layers stay: all where they fit, else every number that leaves room for one that comes and goes."""
    number = layout.order[0]
    place, ends = problem.places[number], layout.ends(number)
    if place.room(ends) >= problem.layers:
        yield {}
        return
    for kept in range(most_kept(place, problem.layers, ends) + 1):
        yield {number: kept}


def _fits(problem: Problem, layout: Layout) -> bool:
    """Whether everything has room, and nobody is burdened more than his share."""
    if problem.most is not None and len(layout.used) > problem.most:
        return False
    held = [(problem.places[used], layout.counts.get(used, 0), layout.ends(used)) for used in layout.used]
    if any(place.room(ends) < 0 or place.most(ends) < layers for place, layers, ends in held):
        return False
    serial = _serial(problem, layout)
    return all(place.seconds(layers, ends) <= place.share * serial * (1 + 1e-9) for place, layers, ends in held)


def _serial(problem: Problem, layout: Layout) -> float:
    busy = (problem.places[used].seconds(layout.counts.get(used, 0), layout.ends(used)) for used in layout.used)
    return layout.serial(problem.hops, sum(busy))


def _least(problem: Problem, layout: Layout) -> float:
    """What a layout costs at least; where nothing is streamed, what `objective` will say of its plan."""
    alone = max(_serial(problem, layout), _reading(problem, layout))
    aim = problem.request.goal.aim
    if aim == "latency":
        return alone
    next_ = alone if layout.kept else max(alone / len(layout.used), _slowest(problem, layout))
    return next_ if aim == "throughput" else alone + next_


def _slowest(problem: Problem, layout: Layout) -> float:
    """The longest that a place or a link is taken for."""
    place, hops, software = layout.order[0], problem.hops, problem.request.goal.software
    stages = Counter(() if layout.goes_ahead else layout.used)
    stages[layout.embedding] += layout.embedding == layout.head != place
    busy = [
        problem.places[used].seconds(layout.counts.get(used, 0), layout.ends(used)) + stages[used] * software.stage
        for used in layout.used
    ]
    return max(*busy, hops.wire(layout.embedding, place), hops.wire(place, layout.head))


def _reading(problem: Problem, layout: Layout) -> float:
    """Seconds that a token's streamed layers take to read."""
    return max(
        (
            (problem.layers - kept) * problem.places[number].holders[0].layer_weights / problem.places[number].disk
            for number, kept in layout.kept.items()
        ),
        default=0.0,
    )
