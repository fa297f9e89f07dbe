"""Evens out what a solution leaves open: nodes of one speed get as many layers, memory allowing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from potluck.planner.layout import Layout
from potluck.planner.problem import Problem


def smoothed(layout: Layout, problem: Problem) -> Layout:
    """The layout with layers moved from busy places to others where a layer takes as long, one by one.

    A token's time stays what it is, and prompts and many requests gain. Layouts that may stream stay as they are.
    """
    counts, moved = dict(layout.counts), layout.rounds == 1
    while moved:
        moved = False
        for giver, taker in _pairs(replace(layout, counts=counts), problem):
            counts[giver], counts[taker], moved = counts[giver] - 1, counts[taker] + 1, True
            break
    return replace(layout, counts=counts)


def _pairs(layout: Layout, problem: Problem) -> Iterator[tuple[int, int]]:
    """Places of one speed of which the first would still be as busy as the second with a layer less."""
    places, counts = problem.places, layout.counts

    def busy(place: int) -> float:
        return places[place].seconds(counts[place], layout.ends(place))

    by_busy = sorted(layout.order, key=busy)
    for giver, taker in product(reversed(by_busy), by_busy):
        layer = places[giver].layer_seconds
        alike = places[taker].layer_seconds == layer
        uneven = busy(giver) - busy(taker) > layer * (1 + 1e-9)
        if alike and uneven and counts[giver] > 1 and _may_take(layout, problem, taker):
            yield giver, taker


def _may_take(layout: Layout, problem: Problem, place: int) -> bool:
    taker, ends = problem.places[place], layout.ends(place)
    # A place with a share of its own was given as much as it may have.
    return taker.share == 1.0 and layout.counts[place] < taker.room(ends)
