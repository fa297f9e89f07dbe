"""Every ring that streams, where they are few: by what each cannot cost less than, until nothing left can be better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations, product
from math import comb, perm

from potluck.planner.layout import Layout
from potluck.planner.problem import Found, Problem
from potluck.planner.stream_moves import most_that_stay
from potluck.planner.stream_search import fewest_runs, least_seconds_of

_MOST_LAYOUTS = 30_000
# Steps are predicted layer by layer: so many layers are about a second.
_MOST_LAYERS = 5_000
_CLOSE = 1 + 1e-9


def are_few(problem: Problem) -> bool:
    """Whether every ring can be looked at. Shares of time are for the programme to keep."""
    places, layers = len(problem.places), problem.layers
    if any(place.share < 1 for place in problem.places):
        return False
    rings = 0
    for count in range(2, min(places, layers) + 1):
        splits = sum(comb(layers - count * (rounds - 1) - 1, count - 1) for rounds in range(1, layers // count + 1))
        rings += perm(places, count) * splits
    return rings * places**2 <= _MOST_LAYOUTS


def best_of_all(problem: Problem, limit: float) -> tuple[Found | None, bool]:
    """The best ring that streams and costs less than the limit, and whether all were looked at."""
    least = [(least_seconds_of(layout, problem), layout) for layout in _streaming(problem)]
    least.sort(key=lambda one: one[0])
    best: Layout | None = None
    budget = _MOST_LAYERS // problem.layers
    for bound, layout in least:
        if bound * _CLOSE >= limit or not budget:
            break
        for kept in _every_kept(layout):
            if least_seconds_of(kept, problem) * _CLOSE >= limit:
                continue
            seconds, budget = problem.seconds(kept), budget - 1
            if seconds < limit:
                best, limit = kept, seconds
            if not budget:
                break
    return (fewest_runs(problem.found(best)) if best else None), budget > 0


def _streaming(problem: Problem) -> Iterator[Layout]:
    """Every ring in which some layers cannot stay, with as many staying as can."""
    numbers = range(len(problem.places))
    for count in range(2, min(len(numbers), problem.layers) + 1):
        for order, rounds in product(permutations(numbers, count), range(1, problem.layers // count + 1)):
            if not set(problem.required(rounds)) <= set(order):
                continue
            for counts, (embedding, head) in product(
                _splits(problem.layers, count, rounds), product(numbers, repeat=2)
            ):
                layout = Layout(order, dict(zip(order, counts, strict=True)), embedding, head, rounds)
                yield from _kept(layout, problem)


def _kept(layout: Layout, problem: Problem) -> Iterator[Layout]:
    most = {number: most_that_stay(layout, problem, number) for number in layout.used}
    kept = {number: stay for number, stay in most.items() if stay < layout.counts.get(number, 0)}
    if kept and min(most.values()) >= 0 and len(layout.used) <= (problem.most or len(problem.places)):
        yield replace(layout, kept=kept)


def _every_kept(layout: Layout) -> Iterator[Layout]:
    for stay in product(*(range(most, -1, -1) for most in layout.kept.values())):
        yield replace(layout, kept=dict(zip(layout.kept, stay, strict=True)))


def _splits(layers: int, places: int, least: int) -> Iterator[tuple[int, ...]]:
    if places == 1:
        yield (layers,)
        return
    for first in range(least, layers - least * (places - 1) + 1):
        yield from ((first, *rest) for rest in _splits(layers - first, places - 1, least))
