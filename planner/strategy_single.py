"""All layers in one place, the embedding and the head there too or elsewhere: every way is reckoned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import inf

from potluck.planner.layout import Layout
from potluck.planner.places import Ends, Place
from potluck.planner.problem import Found, Problem, Search
from potluck.planner.streaming import kept_beside

# Of a larger fleet, only the places that are quickest with an end are tried for it.
_MOST_ENDS = 32


def single(problem: Problem, limit: float) -> Search:
    """The best plan with all layers in one place."""
    best, bound = None, _bound(problem)
    for least, layout in sorted(((_least(problem, one), one) for one in _layouts(problem)), key=lambda one: one[0]):
        if least > limit * (1 + 1e-6):
            break
        found = _streamed(problem, layout, limit)
        if found and (best is None or found.seconds < best.seconds):
            best, limit = found, min(limit, found.seconds)
    return Search(best, bound)


def _streamed(problem: Problem, layout: Layout, limit: float) -> Found | None:
    """The layout with as many layers resident as is best: fewer leave more room for those that come and go."""
    number, best = layout.order[0], None
    place, ends = problem.places[number], layout.ends(number)
    if place.room(ends) >= problem.layers:
        return problem.found(layout)
    holder, serial = place.holders[0], _serial(problem, layout)
    free = holder.free - holder.ends[ends] - problem.layers * holder.layer_kv
    for kept in range(min(problem.layers - 1, kept_beside(1, free, holder.layer_weights)), -1, -1):
        reading = (problem.layers - kept) * holder.layer_weights / place.disk
        if max(serial, reading) > limit or (best and max(serial, reading) >= best.seconds):
            break
        found = problem.found(replace(layout, kept={number: kept}))
        best = found if best is None or found.seconds < best.seconds else best
    return best


def _layouts(problem: Problem) -> Iterator[Layout]:
    numbers = range(len(problem.places))
    ends = sorted(numbers, key=lambda end: (problem.places[end].head_seconds, problem.hops.enter(end)))[:_MOST_ENDS]
    required = set(problem.required())
    for place in numbers:
        if required <= {place} and problem.places[place].most() >= problem.layers:
            for embedding, head in product({place, *ends}, repeat=2):
                layout = Layout((place,), {place: problem.layers}, embedding, head)
                if _fits(problem, layout):
                    yield layout


def _fits(problem: Problem, layout: Layout) -> bool:
    """Whether everything has room, and nobody is burdened more than his share."""
    held = [(problem.places[used], layout.counts.get(used, 0), layout.ends(used)) for used in layout.used]
    if any(place.room(ends) < 0 or place.most(ends) < layers for place, layers, ends in held):
        return False
    serial = _serial(problem, layout)
    return all(place.seconds(layers, ends) <= place.share * serial * (1 + 1e-9) for place, layers, ends in held)


def _serial(problem: Problem, layout: Layout) -> float:
    busy = (problem.places[used].seconds(layout.counts.get(used, 0), layout.ends(used)) for used in layout.used)
    return sum(busy) + layout.hop_seconds(problem.hops)


def _least(problem: Problem, layout: Layout) -> float:
    """What a layout costs at least; where nothing is streamed, what `objective` will say of its plan."""
    place = layout.order[0]
    reading = _reading(problem.places[place], problem.layers, layout.ends(place))
    alone, aim = max(_serial(problem, layout), reading), problem.request.goal.aim
    if aim == "latency":
        return alone
    next_ = alone if reading else max(alone / len(layout.used), _slowest(problem, layout))
    return next_ if aim == "throughput" else alone + next_


def _slowest(problem: Problem, layout: Layout) -> float:
    """The longest that a place or a link is taken for."""
    place, hops, software = layout.order[0], problem.hops, problem.request.goal.software
    stages = Counter(dict.fromkeys(layout.used, 1))
    stages[layout.embedding] += layout.embedding == layout.head != place
    busy = [
        problem.places[used].seconds(layout.counts.get(used, 0), layout.ends(used)) + stages[used] * software.stage
        for used in layout.used
    ]
    return max(*busy, hops.wire(layout.embedding, place), hops.wire(place, layout.head))


def _reading(place: Place, layers: int, ends: Ends) -> float:
    """Seconds that a token's streamed layers take to read, through room for two; 0 where all stay."""
    if place.room(ends) >= layers:
        return 0.0
    holder = place.holders[0]
    free = holder.free - holder.ends[ends] - layers * holder.layer_kv
    kept = min(layers, free // holder.layer_weights - 2)
    return (layers - kept) * holder.layer_weights / place.disk


def _bound(problem: Problem) -> float:
    """Infinite where every way was reckoned."""
    if len(problem.places) <= _MOST_ENDS:
        return inf
    return problem.layers * min(place.layer_seconds for place in problem.places)
