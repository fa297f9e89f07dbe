"""How many layers stay, and in how many runs the others are read: tried on the prediction, beginning with a layout."""

from __future__ import annotations

from dataclasses import replace

from potluck.planner.layout import Layout
from potluck.planner.problem import Found, Problem
from potluck.planner.stream_moves import moved_layouts

_CLOSER, _SAME = 1 - 1e-9, 1 + 1e-9
# Steps are predicted layer by layer: so many layers are about a second.
_MOST_LAYERS = 1_500


def refined(found: Found) -> Found:
    """The best that is found by moving one thing at a time: what stays, a layer, an end, the order, the rounds."""
    best, moves, budget = found, moved_layouts(found), max(16, _MOST_LAYERS // found.problem.layers)
    while budget and (layout := next(moves, None)) is not None:
        if least_seconds_of(layout, found.problem) >= best.seconds * _CLOSER:
            continue
        budget -= 1
        other = found.problem.found(layout)
        if other.seconds < best.seconds * _CLOSER:
            best, moves = other, moved_layouts(other)
    return fewest_runs(best)


def least_seconds_of(layout: Layout, problem: Problem) -> float:
    """What a layout that streams cannot cost less than: a token's way, or what a disk reads for it."""
    places = problem.places
    busy = sum(places[used].seconds(layout.counts.get(used, 0), layout.ends(used)) for used in layout.used)
    reading = (
        (layout.counts[number] - kept) * places[number].holders[0].layer_weights / places[number].disk
        for number, kept in layout.kept.items()
    )
    alone = max(layout.serial(problem.hops, busy), max(reading, default=0.0))
    goal = problem.request.goal
    next_ = alone / goal.batch
    return {"latency": alone, "throughput": next_, "balanced": alone + next_}[goal.aim]


def fewest_runs(found: Found) -> Found:
    """The same with as few runs as cost no more: a plan that people can read."""
    runs = 1
    while found.layout.kept and runs < found.problem.layers:
        layout = replace(found.layout, runs=dict.fromkeys(found.layout.kept, runs))
        other = found.problem.found(layout)
        if other.seconds <= found.seconds * _SAME:
            return other
        runs *= 2
    return found
