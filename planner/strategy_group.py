"""Tensor groups: nodes that run every layer together, each a share; one group or several, beside single nodes.

A group is a place like any other, so that the programme of a pipeline decides what each takes, what the other nodes
take, and where the ends go. Which nodes form groups is a heuristic (`group_growth`): of every size the quickest group;
and where that does not hold the model, more of that size, of nodes that are in none, until they do. Those are solved
that promise most by a bound (`capacity`). Nothing is streamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from potluck.planner.capacity import least_seconds
from potluck.planner.fleet import Node
from potluck.planner.group_growth import Growth, Members
from potluck.planner.places import Place, Places
from potluck.planner.problem import Found, Problem, Search
from potluck.planner.ring_search import best_ring
from potluck.planner.splitting import SplitError
from potluck.planner.strategy_single import single

_MOST_SOLVED = 3

Team = Mapping[Members, Place]
"""Groups that have no node in common, by their members."""


def groups(problem: Problem, limit: float) -> Search:
    """The best plan with a group that was found; the bound is none, as nothing is proved about other groups."""
    best: Found | None = None
    for least, over in sorted(_promising(problem), key=lambda one: one[0])[:_MOST_SOLVED]:
        if least >= limit:
            break
        for search in (single(over, limit), best_ring(over, 1, limit)):
            if search.best and (best is None or search.best.seconds < best.seconds):
                best, limit = search.best, min(limit, search.best.seconds)
    return Search(best if best and best.has_groups else None)


def _promising(problem: Problem) -> Iterator[tuple[float, Problem]]:
    """The problem with groups in place of nodes, and what no plan over those places can cost less than."""
    goal = problem.request.goal
    if goal.rounds > 1 or goal.spread != "best" or not goal.grouping or not _may_fit(problem):
        return
    for team in _teams(problem):
        over = _with(problem, team)
        yield least_seconds(over), over


def _teams(problem: Problem) -> Iterator[Team]:
    """One group of every size, and as many as hold the model."""
    able = [number for number, place in enumerate(problem.places) if place.room() > 0]
    growth = Growth(problem, [number for number in able if not _is_stopped(_node(problem, number))])
    building = _Building(problem, growth)
    for members in growth.grown().values():
        if team := building.joined({}, members):
            yield team
            if len(more := building.completed(team)) > 1:
                yield more


class _Building:
    """Teams of groups."""

    def __init__(self, problem: Problem, growth: Growth) -> None:
        self._problem, self._growth = problem, growth
        self._places = Places(problem.fleet, problem.request)

    def joined(self, team: Team, members: Members) -> Team:
        """The team with one more group; none where that is not possible."""
        place = self._group(members, self._problem.layers - _room(team), (*_taken(team), *members))
        return {**team, members: place} if place and place.room() > 0 else {}

    def completed(self, team: Team) -> Team:
        """The team with more groups of the size of its first, until they hold the model or there are none."""
        size = len(next(iter(team)))
        while _room(team) < self._problem.layers:
            grown = self._growth.grown(_taken(team))
            larger = self.joined(team, grown[size]) if size in grown else {}
            if not larger:
                break
            team = larger
        return team

    def _group(self, members: Members, left: int, taken: Members) -> Place | None:
        """A place of these, the engine's or else the quickest leading; None where the model cannot be split so."""
        problem = self._problem
        by_speed = sorted(members, key=lambda number: self._problem.places[number].layer_seconds)
        ordered = tuple(sorted(by_speed, key=lambda number: problem.places[number].name != problem.fleet.engine))
        weights = self._growth.weights(ordered, left, self._growth.next_seconds(len(members), taken))
        try:
            return self._places.group([_node(problem, number) for number in ordered], weights)
        except SplitError:
            return None


def _taken(team: Team) -> Members:
    return tuple(number for members in team for number in members)


def _room(team: Team) -> int:
    return sum(place.room() for place in team.values())


def _node(problem: Problem, number: int) -> Node:
    return problem.fleet.node(problem.places[number].name)


def _may_fit(problem: Problem) -> bool:
    """Whether all memory together is as large as the layers: parts of a layer take no less than the layer."""
    holders = [place.holders[0] for place in problem.places]
    room = sum(max(0, one.free) / (one.layer_weights + one.layer_kv) for one in holders)
    return room >= problem.layers


def _is_stopped(node: Node) -> bool:
    """Whether a quota stops it for a part of every period.

    Members are stopped at different times, and each sum waits for all of them: two halves of a core took 74 ms for a
    token that was predicted at 29 (bench/planner_accuracy.py).
    """
    return 0 < node.cores < 1


def _with(problem: Problem, team: Team) -> Problem:
    """The problem with groups in place of their nodes, and nobody streaming."""
    taken = {number for members in team for number in members}
    others = [replace(place, disk=0.0) for number, place in enumerate(problem.places) if number not in taken]
    return Problem.over(problem.fleet, problem.request, [*team.values(), *others])
