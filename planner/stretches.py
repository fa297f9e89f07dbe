"""Many places divided into routes without a programme: stretches of places of like speed, layers poured over each.

With a step in flight for every place, a route gives a token as often as its busiest place is done, so that places
belong together that are done with some whole layers at the same time. In order of speed those are neighbours: of all
ways to cut that order into stretches the one that gives most tokens together is found place by place (dynamic
programming), by what a stretch would give at least if every way were the shortest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from potluck.planner.divisions import Division
from potluck.planner.layout import Layout
from potluck.planner.offers import EMBEDDING, ENDS, HEAD
from potluck.planner.places import Place
from potluck.planner.problem import Found, Problem
from potluck.planner.tour import Tour

_HALVINGS = 12
# Where the ends have no room beside that many layers, places are given more time, so often.
_SLOWER, _MOST_SLOWER = 1.05, 16


@dataclass(frozen=True, slots=True)
class _Runner:
    """What a place runs: seconds of a layer, of the head, of the way to it; layers that it has room for, alone and
    beside the head."""

    layer: float
    head: float
    way: float
    room: int
    beside: int

    def layers(self, cycle: float) -> int:
        """Whole layers that are done in so many seconds."""
        return min(self.room, int(cycle / self.layer))

    def beside_head(self, cycle: float) -> int:
        """Whole layers that are done beside the head; negative where that has no room or takes longer."""
        return min(self.beside, int((cycle - self.head) // self.layer))


def stretches(problem: Problem, able: Sequence[int]) -> Division:
    """The places cut into sets that give most tokens per second together; some may be in none."""
    places, ways = problem.places, problem.hops.cheapest
    order = sorted(able, key=lambda number: places[number].layer_seconds)
    runners = [_runner(places[number], ways[number]) for number in order]
    lengths = _lengths(problem.layers, min(problem.layers, max(one.room for one in runners)))
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(order) + 1):
        given = [(best[end - 1][0], end - 1)]
        for length in lengths:
            if length <= end:
                rate = _rate(runners[end - length : end], problem.layers)
                given.append((best[end - length][0] + rate, end - length))
        best.append(max(given))
    return tuple(tuple(order[first:end]) for first, end in _cut(best))


def _lengths(layers: int, most: int) -> list[int]:
    """As many as would run 1 layer each, 2, and so on up to so many; and one more, for the ends."""
    each = {-(-layers // count) for count in range(1, most + 1)}
    return sorted({one for length in each for one in (length, length + 1)})


def _cut(best: Sequence[tuple[float, int]]) -> list[tuple[int, int]]:
    """The stretches that gave something."""
    found, end = [], len(best) - 1
    while end:
        rate, first = best[end]
        found += [(first, end)] if rate > best[first][0] else []
        end = first
    return found[::-1]


def _rate(runners: Sequence[_Runner], layers: int) -> float:
    """Tokens per second; 0 where the layers have no room."""
    if sum(one.room for one in runners) <= layers:
        return 0.0
    cycle = _cycle(runners, layers)
    serial = sum(one.layers(cycle) * one.layer + one.way for one in runners)
    return 1 / max(cycle, serial / len(runners))


def _cycle(runners: Sequence[_Runner], layers: int) -> float:
    """Seconds in which these run all layers, each some of them, and one of them the head."""
    low = layers / sum(1 / one.layer for one in runners)
    high = max(one.layer * one.room + one.head for one in runners)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _is_enough(runners, layers, middle) else (middle, high)
    return high


def _is_enough(runners: Sequence[_Runner], layers: int, cycle: float) -> bool:
    spare = sum(one.layers(cycle) for one in runners) - layers
    with_head = ((one, one.beside_head(cycle)) for one in runners if spare >= 0)
    return any(beside >= max(0, one.layers(cycle) - spare) for one, beside in with_head)


def _runner(place: Place, way: float) -> _Runner:
    return _Runner(place.layer_seconds, place.head_seconds, way, max(0, place.room()), place.room((HEAD,)))


def poured(problem: Problem) -> Found | None:
    """A pipeline over the places that the layers reach; None where the ends have no room beside them, or one that must
    be used is not reached."""
    places = problem.places
    runners = [_runner(place, 0.0) for place in places]
    if sum(one.room for one in runners) <= problem.layers or any(place.share < 1 for place in places):
        return None
    cycle = _cycle(runners, problem.layers)
    tried = (_with_ends(runners, cycle * _SLOWER**times, problem) for times in range(_MOST_SLOWER))
    layout = next((one for one in tried if one), None)
    return problem.found(layout) if layout and set(problem.required()) <= set(layout.order) else None


def _with_ends(runners: Sequence[_Runner], cycle: float, problem: Problem) -> Layout | None:
    """The ends beside the layers where they cost fewest of them, and the order with the shortest way."""
    counts = {number: one.layers(cycle) for number, one in enumerate(runners)}
    head = _end_beside(counts, cycle, problem, -1)
    embedding = _end_beside(counts, cycle, problem, head) if head >= 0 else -1
    counts = _levelled(counts, problem)
    if embedding < 0 or sum(counts.values()) < problem.layers:
        return None
    return Layout(Tour(problem.hops, embedding, head, 1).best(list(counts)), counts, embedding, head)


def _end_beside(counts: dict[int, int], cycle: float, problem: Problem, head: int) -> int:
    """The place for the head, or once that has one for the embedding, which gives away what is too much beside it;
    negative where none has room and time."""

    def left(number: int) -> int:
        ends = (HEAD,) if head < 0 else ENDS if number == head else (EMBEDDING,)
        place = problem.places[number]
        return min(place.room(ends), int((cycle - place.seconds(0, ends)) // place.layer_seconds))

    able = (number for number in counts if left(number) >= 0)
    chosen = min(able, key=lambda number: counts[number] - left(number), default=-1)
    if chosen >= 0:
        counts[chosen] = min(counts[chosen], left(chosen))
    return chosen


def _levelled(counts: Mapping[int, int], problem: Problem) -> dict[int, int]:
    """No more layers than there are: what is too much is taken from the busiest."""
    levelled = dict(counts)
    for _ in range(sum(counts.values()) - problem.layers):
        levelled[max(levelled, key=lambda number: levelled[number] * problem.places[number].layer_seconds)] -= 1
    return {number: count for number, count in levelled.items() if count}
