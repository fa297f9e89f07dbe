"""Layouts that stream, one move away from another: more or fewer layers that stay, a layer or an end elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations

from potluck.planner.layout import Layout
from potluck.planner.places import Ends, Place
from potluck.planner.problem import Found, Problem


def most_kept(place: Place, layers: int, ends: Ends = ()) -> int:
    """Of so many layers, those that stay where one more comes and goes; negative where that does not fit."""
    holder = place.holders[0]
    free = holder.free - holder.ends[ends] - layers * holder.layer_kv
    return min(layers - 1, free // holder.layer_weights - 1)


def kept_by_window(layout: Layout, problem: Problem) -> dict[int, int]:
    """How many layers stay in the places that stream: as many as leave room for those of one window that do not."""
    kept: dict[int, int] = {}
    for number, count in layout.counts.items():
        place, ends = problem.places[number], layout.ends(number)
        if count > place.room(ends):
            most = most_kept(place, count, ends)
            fitting = (stay for stay in range(most, -1, -1) if most + 1 - stay >= -(-(count - stay) // layout.rounds))
            kept[number] = next(fitting, 0)
    return kept


def moved_layouts(found: Found) -> Iterator[Layout]:
    """Those that fit, what changes least first."""
    layout, problem = replace(found.layout, runs={}), found.problem
    yield from _more_or_less_kept(layout, problem)
    for moved in (*_layers_moved(layout, problem), *_ends_moved(layout, problem), *_turned(layout, problem)):
        yield from _kept_as_fits(moved, problem)


def _more_or_less_kept(layout: Layout, problem: Problem) -> Iterator[Layout]:
    for number, kept in layout.kept.items():
        for other in (kept + 1, kept - 1):
            if 0 <= other <= min(most_that_stay(layout, problem, number), layout.counts[number] - 1):
                yield replace(layout, kept={**layout.kept, number: other})


def _layers_moved(layout: Layout, problem: Problem) -> Iterator[Layout]:
    """A layer to another place of the ring, or as many as there are rounds to one that joins it, or from one that
    leaves."""
    for giver in layout.order:
        for taker in range(len(problem.places)):
            if taker == giver:
                continue
            joins, leaves = taker not in layout.order, layout.counts[giver] - layout.rounds < 1
            count = layout.counts[giver] if leaves else layout.rounds if joins else 1
            left = layout.counts[giver] - count
            if 0 < left < layout.rounds:
                continue
            counts = {**layout.counts, giver: left, taker: layout.counts.get(taker, 0) + count}
            order = tuple(place for place in layout.order if counts[place])
            for at in range(len(order) + 1) if joins else (None,):
                around = order if at is None else (*order[:at], taker, *order[at:])
                yield replace(layout, counts={place: counts[place] for place in around}, order=around)


def _ends_moved(layout: Layout, problem: Problem) -> Iterator[Layout]:
    for number in range(len(problem.places)):
        yield replace(layout, embedding=number)
        yield replace(layout, head=number)


def _turned(layout: Layout, problem: Problem) -> Iterator[Layout]:
    """Two places of the ring change places; a round more or less."""
    for one, two in combinations(range(len(layout.order)), 2):
        order = list(layout.order)
        order[one], order[two] = order[two], order[one]
        yield replace(layout, order=tuple(order))
    for rounds in (layout.rounds - 1, layout.rounds + 1):
        if len(layout.order) > 1 and 1 <= rounds <= min(layout.counts.values()):
            yield replace(layout, rounds=rounds)


def _kept_as_fits(layout: Layout, problem: Problem) -> Iterator[Layout]:
    """The layout with as much staying as fits, with one layer less, and with room for a window; nothing where something
    does not fit."""
    if not set(problem.required(layout.rounds)) <= set(layout.order):
        return
    if problem.most is not None and len(layout.used) > problem.most:
        return
    most = {number: most_that_stay(layout, problem, number) for number in layout.used}
    if min(most.values()) < 0 or any(problem.places[number].share < 1 for number in layout.used):
        return
    streaming = {number: most[number] for number in layout.order if most[number] < layout.counts[number]}
    less: Mapping[int, int] = {number: max(0, count - 1) for number, count in streaming.items()}
    tried = [streaming, less, kept_by_window(layout, problem)] if streaming else []
    for number, kept in enumerate(tried):
        if kept not in tried[:number]:
            yield replace(layout, kept=kept)


def most_that_stay(layout: Layout, problem: Problem, number: int) -> int:
    """Layers of a place that can stay: all, or as many as leave room for one that comes and goes."""
    place, count, ends = problem.places[number], layout.counts.get(number, 0), layout.ends(number)
    if count <= place.room(ends):
        return count
    return most_kept(place, count, ends) if place.disk and count else -1
