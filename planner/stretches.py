"""Many places divided into routes without a programme: stretches of places of like speed, layers poured over each.

With a step in flight for every place, a route gives a token as often as its busiest place is done, so that places
belong together that are done with some whole layers at the same time. In order of speed those are neighbours: of all
ways to cut that order into stretches the one that gives most tokens together is found place by place (dynamic
programming), by what a stretch would give at least if every way were the shortest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from potluck.models.spec import Part
from potluck.planner.divisions import Division
from potluck.planner.layout import Layout
from potluck.planner.offers import EMBEDDING, HEAD
from potluck.planner.places import Place
from potluck.planner.problem import Found, Problem
from potluck.planner.tour import Tour

_HALVINGS = 12
# Where the ends have no room beside that many layers, places are given more time, so often.
_SLOWER, _MOST_SLOWER = 1.05, 16


@dataclass(frozen=True, slots=True)
class _Runner:
    """What a place runs: seconds of a layer, of the head, of the way to it, and how many layers it has room for."""

    layer: float
    head: float
    way: float
    room: int

    def layers(self, cycle: float) -> int:
        """Whole layers that are done in so many seconds."""
        return min(self.room, int(cycle / self.layer))

    def has_time_for_head(self, cycle: float) -> bool:
        """Whether it runs as many layers with the head beside them."""
        return self.layers(cycle) * self.layer + self.head <= cycle


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
    held = sum(one.layers(cycle) for one in runners)
    return held > layers or (held == layers and any(one.has_time_for_head(cycle) for one in runners))


def _runner(place: Place, way: float) -> _Runner:
    return _Runner(place.layer_seconds, place.head_seconds, way, max(0, place.room()))


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
    beside: list[int] = []
    for end in (HEAD, EMBEDDING):
        left = {number: _left(problem, number, end, cycle) for number in counts if number not in beside}
        number = min(left, key=lambda number: counts[number] - left[number], default=-1)
        if number < 0 or left[number] < 1:
            return None
        counts[number] = min(counts[number], left[number])
        beside.append(number)
    counts, (head, embedding) = _levelled(counts, problem), beside
    if sum(counts.values()) < problem.layers or not {head, embedding} <= set(counts):
        return None
    return Layout(Tour(problem.hops, embedding, head, 1).best(list(counts)), counts, embedding, head)


def _left(problem: Problem, number: int, end: Part, cycle: float) -> int:
    """Layers that a place has room and time for beside an end."""
    place = problem.places[number]
    return min(place.room((end,)), int((cycle - place.seconds(0, (end,))) / place.layer_seconds))


def _levelled(counts: Mapping[int, int], problem: Problem) -> dict[int, int]:
    """No more layers than there are: what is too much is taken from the busiest."""
    levelled = dict(counts)
    for _ in range(sum(counts.values()) - problem.layers):
        levelled[max(levelled, key=lambda number: levelled[number] * problem.places[number].layer_seconds)] -= 1
    return {number: count for number, count in levelled.items() if count}
