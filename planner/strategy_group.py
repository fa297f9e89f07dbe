"""Tensor groups: nodes that run every layer together, each a share by its speed; all of them, or some beside stages.

A group is a place like any other, so that the programme of a pipeline decides what it takes, what the other nodes take,
and where the ends go. Which nodes form the group is a heuristic: for every size, those that would take the least time
for a layer, begun with the pair that would and grown one by one; the best few are solved. Nothing is streamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

from potluck.planner.fleet import Node
from potluck.planner.places import Place, Places
from potluck.planner.problem import Found, Problem, Search
from potluck.planner.ring_search import best_ring
from potluck.planner.splitting import SplitError
from potluck.planner.strategy_single import single

# Sums wait for everybody, so that groups are of a few neighbours; the best few are solved with the other nodes.
_MOST_SEEDS, _MOST_MEMBERS, _MOST_SOLVED = 12, 8, 3


def groups(problem: Problem, limit: float) -> Search:
    """The best plan with a group that was found; the bound is none, as nothing is proved about other groups."""
    best: Found | None = None
    for place in _promising(problem)[:_MOST_SOLVED]:
        over = _with(problem, place)
        for search in (single(over, limit), best_ring(over, 1, limit)):
            if search.best and (best is None or search.best.seconds < best.seconds):
                best, limit = search.best, min(limit, search.best.seconds)
    return Search(best if best and any(stage.is_group for stage in best.plan.routes[0].stages) else None)


def _promising(problem: Problem) -> list[Place]:
    """Groups that take less time for a layer than their quickest member alone, the quickest first."""
    goal = problem.request.goal
    if goal.rounds > 1 or goal.spread != "best" or not goal.grouping:
        return []
    places = Places(problem.fleet, problem.request)
    alone = [place for place in problem.places if place.room() > 0 and not _is_stopped(problem.fleet.node(place.name))]
    seeds = sorted(alone, key=lambda place: place.layer_seconds)[:_MOST_SEEDS]
    found = {frozenset(place.nodes): place for place in _grown(problem, places, seeds)}
    return sorted(found.values(), key=lambda place: place.layer_seconds)


def _is_stopped(node: Node) -> bool:
    """Whether a quota stops it for a part of every period.

    Members are stopped at different times, and each sum waits for all of them: two halves of a core took 74 ms for a
    token that was predicted at 29 (bench/planner_accuracy.py).
    """
    return 0 < node.cores < 1


def _grown(problem: Problem, places: Places, seeds: Sequence[Place]) -> Iterator[Place]:
    pairs = [place for pair in combinations(seeds, 2) if (place := _group(problem, places, pair))]
    group = min(pairs, key=lambda place: place.layer_seconds, default=None)
    while group is not None and len(group.nodes) <= _MOST_MEMBERS:
        members = [seed for seed in seeds if seed.name in group.nodes]
        if group.layer_seconds < min(member.layer_seconds for member in members):
            yield group
        larger = [_group(problem, places, (*members, seed)) for seed in seeds if seed not in members]
        group = min((one for one in larger if one), key=lambda place: place.layer_seconds, default=None)


def _group(problem: Problem, places: Places, members: Sequence[Place]) -> Place | None:
    """These nodes as one place, the engine's or else the quickest leading; None where the model cannot be split so."""
    fleet = problem.fleet
    ordered = sorted(members, key=lambda place: (place.name != fleet.engine, place.layer_seconds))
    weights = [Fraction(1 / place.layer_seconds).limit_denominator(1_000_000) for place in ordered]
    nodes: list[Node] = [fleet.node(place.name) for place in ordered]
    try:
        return places.group(nodes, [max(weight, Fraction(1, 1000)) for weight in weights])
    except SplitError:
        return None


def _with(problem: Problem, group: Place) -> Problem:
    """The problem with a group in place of its nodes, and nobody streaming."""
    others = [replace(place, disk=0.0) for place in problem.places if place.name not in group.nodes]
    return Problem.over(problem.fleet, problem.request, [group, *others])
