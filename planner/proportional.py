"""The baseline: splits layers by speed within memory limits and lays them round the nodes in any number of rounds.

The embedding goes to the engine's node where it fits, else to the fastest node that holds it; there the ring starts.
The head goes there too, which closes the ring, or to the ring's last node, which saves a stage: whatever is faster.
Where memory is too small for that, layers are streamed from disk (`potluck.planner.streaming`). No node is left out
that could have a layer, unless as few as possible are asked for. `exact` is measured against this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from potluck.planner.fit import refusal
from potluck.planner.fleet import Fleet, Node
from potluck.planner.goal import Goal
from potluck.planner.objective import objective
from potluck.planner.offers import Request
from potluck.planner.placements import Placement, Placements
from potluck.planner.plan import Plan
from potluck.planner.predict import predict
from potluck.planner.reasons import Decision, reasons
from potluck.planner.ring import ring_route, ring_windows
from potluck.planner.streaming import rounds_to_try, streamed_route

# Every subset is tried where there are few nodes; in a larger fleet only those with the most memory.
_MOST_COMBINED = 10


def solve_in_proportion(fleet: Fleet, request: Request) -> Plan:
    """A plan with one route, layers in proportion to speed.

    Raises:
        DoesNotFit: the nodes cannot hold the model with its KV; the message says what is missing.
    """
    goal = request.goal
    nodes = [node for node in fleet.nodes if node.name not in goal.excluded]
    placements = Placements(fleet, request)
    for sets in _sets(nodes, goal):
        found = [placement for chosen in sets for placement in placements.over(chosen)]
        plans = [plan for placement in found for plan in _plans(fleet, request, placement)]
        if plans:
            return min(plans, key=lambda plan: (fleet.engine not in plan.nodes, _cost(plan, goal)))
    if goal.streaming and nodes:
        placed = Placements(fleet, request, True).over(nodes)
        streamed = [plan for placement in placed for plan in _plans(fleet, request, placement)]
        if streamed:
            return min(streamed, key=lambda plan: _cost(plan, goal))
    raise refusal(nodes, request)


def _cost(plan: Plan, goal: Goal) -> float:
    return objective(plan.prediction, goal) if plan.prediction else 0.0


def _sets(nodes: Sequence[Node], goal: Goal) -> Iterator[list[tuple[Node, ...]]]:
    """Sets of nodes to try: the first list with a set that holds the model is the one to choose from."""
    if goal.spread != "fewest":
        yield [tuple(nodes)] if nodes else []
        return
    by_memory = sorted(nodes, key=lambda node: (node.name not in goal.pinned, -node.device.memory))
    for size in range(max(1, len(goal.pinned)), len(nodes) + 1):
        if len(nodes) > _MOST_COMBINED:
            chosen = set(by_memory[:size])
            yield [tuple(node for node in nodes if node in chosen)]
        else:
            yield [group for group in combinations(nodes, size) if goal.pinned <= {node.name for node in group}]


def _plans(fleet: Fleet, request: Request, placement: Placement) -> Iterator[Plan]:
    for rounds in rounds_to_try(fleet, request, placement):
        yield _plan(fleet, request, placement, rounds)


def _plan(fleet: Fleet, request: Request, placement: Placement, rounds: int) -> Plan:
    spec, goal = request.spec, request.goal
    windows = ring_windows(placement.order, placement.counts, rounds)
    decision = Decision(placement.order[0], placement.offers, placement.counts, tuple(windows))
    plan = Plan(
        model=goal.model or spec.name,
        dtype=goal.dtype,
        routes=(streamed_route(ring_route(windows, placement.order[0], placement.head), fleet, request),),
        kv_tokens=goal.kv_tokens,
        reasons=reasons(fleet, request, decision),
    )
    return replace(plan, prediction=predict(plan, fleet, spec, goal))
