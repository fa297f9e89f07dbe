"""All layers in one place, the embedding and the head there too or elsewhere: every way is reckoned."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import inf

from potluck.planner.layout import Layout
from potluck.planner.places import Ends, Place
from potluck.planner.problem import Problem, Search

# Of a larger fleet, only the places that are quickest with an end are tried for it.
_MOST_ENDS = 32


def single(problem: Problem, limit: float) -> Search:
    """The best plan with all layers in one place."""
    reckoned = ((_seconds(problem, layout), layout) for layout in _layouts(problem))
    found = min(reckoned, key=lambda one: one[0], default=(inf, None))
    seconds, layout = found
    if layout is None or seconds > limit * (1 + 1e-6):
        return Search(None, _bound(problem))
    return Search(problem.found(layout), _bound(problem))


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


def _seconds(problem: Problem, layout: Layout) -> float:
    """What a layout costs, as `objective` will say of its plan."""
    place = layout.order[0]
    reading = _reading(problem.places[place], problem.layers, layout.ends(place))
    alone, aim = max(_serial(problem, layout), reading), problem.request.goal.aim
    if aim == "latency":
        return alone
    next_ = alone if reading else _slowest(problem, layout)
    return next_ if aim == "throughput" else alone + next_


def _slowest(problem: Problem, layout: Layout) -> float:
    busy = [problem.places[used].seconds(layout.counts.get(used, 0), layout.ends(used)) for used in layout.used]
    place, hops = layout.order[0], problem.hops
    return max(*busy, hops.between(layout.embedding, place), hops.between(place, layout.head))


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
