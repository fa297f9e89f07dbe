"""The first solver: splits layers by speed within memory limits and lays them round the nodes in any number of rounds.

Embedding and head go to the engine's node where they fit, else to the fastest node that holds them; there the ring
starts and ends. The full solver (streamed weights, groups, experts, leaving out slow links) is later work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from potluck.models.spec import ModelSpec
from potluck.planner.costs import itemsize
from potluck.planner.fields import suggestion
from potluck.planner.fit import DoesNotFit, refusal
from potluck.planner.fleet import Fleet, Node, NodeName
from potluck.planner.goal import Goal
from potluck.planner.offers import Offer, Request, split
from potluck.planner.plan import Plan
from potluck.planner.predict import predict
from potluck.planner.reasons import Decision, reasons
from potluck.planner.ring import ring_order, ring_route, ring_windows

__all__ = ["DoesNotFit", "solve"]

# Every subset is tried where there are few nodes; in a larger fleet only those with the most memory.
_MOST_COMBINED = 10


@dataclass(frozen=True, slots=True)
class _Placement:
    """Who has how many layers, and who has embedding and head."""

    ends: NodeName
    offers: tuple[Offer, ...]
    counts: Mapping[NodeName, int]


def solve(fleet: Fleet, spec: ModelSpec, goal: Goal) -> Plan:
    """A plan with one route. The same fleet, model and goal always give the same plan.

    Raises:
        DoesNotFit: the nodes cannot hold the model with its KV; the message says what is missing.
        ValueError: the goal names a node that the fleet does not have.
    """
    _check_names(fleet, goal)
    request = Request(spec, goal)
    nodes = [node for node in fleet.nodes if node.name not in goal.excluded]
    offers = {(node.name, ends): request.offer(node, ends) for node in nodes for ends in (False, True)}
    for sets in _sets(nodes, goal):
        found = [_place(fleet.engine, [node.name for node in chosen], request, offers) for chosen in sets]
        plans = [_plan(fleet, request, placement) for placement in found if placement]
        if plans:
            return min(plans, key=lambda plan: (fleet.engine not in plan.nodes, _time_per_token(plan)))
    raise refusal(nodes, request)


def _time_per_token(plan: Plan) -> float:
    return plan.prediction.time_per_token if plan.prediction else 0.0


def _check_names(fleet: Fleet, goal: Goal) -> None:
    names = [str(node.name) for node in fleet.nodes]
    for name in sorted(goal.excluded | goal.pinned):
        if name not in names:
            raise ValueError(f"fleet {fleet.name!r} has no node {name!r}{suggestion(name, names)}")


def _sets(nodes: Sequence[Node], goal: Goal) -> Iterator[list[tuple[Node, ...]]]:
    """Sets of nodes to try: the first list with a set that holds the model is the one to choose from."""
    if goal.spread == "all":
        yield [tuple(nodes)] if nodes else []
        return
    by_memory = sorted(nodes, key=lambda node: (node.name not in goal.pinned, -node.device.memory))
    for size in range(max(1, len(goal.pinned)), len(nodes) + 1):
        if len(nodes) > _MOST_COMBINED:
            chosen = set(by_memory[:size])
            yield [tuple(node for node in nodes if node in chosen)]
        else:
            yield [group for group in combinations(nodes, size) if goal.pinned <= {node.name for node in group}]


def _place(
    engine: NodeName, nodes: Sequence[NodeName], request: Request, offers: Mapping[tuple[NodeName, bool], Offer]
) -> _Placement | None:
    """Layers per node, with embedding and head on the first node in question that leaves room for everything."""
    layers = len(request.spec.layers)
    fastest = sorted(nodes, key=lambda node: (node != engine, offers[node, True].busy(layers)))
    for ends in fastest:
        chosen = tuple(offers[node, node == ends] for node in nodes)
        if offers[ends, True].room >= 0 and _enough(chosen, request):
            return _Placement(ends, chosen, split(chosen, layers, _must(chosen, layers, request.goal)))
    return None


def _enough(offers: Sequence[Offer], request: Request) -> bool:
    """Whether the layers fit, and the pinned nodes can each have one."""
    layers, pinned = len(request.spec.layers), request.goal.pinned
    room = sum(max(0, offer.room) for offer in offers)
    return room >= layers >= len(pinned) and all(offer.room > 0 for offer in offers if offer.node in pinned)


def _must(offers: Sequence[Offer], layers: int, goal: Goal) -> list[NodeName]:
    """Who gets a first layer whatever its speed: everybody where there are enough, else only the pinned."""
    able = [offer.node for offer in offers if offer.room > 0]
    if goal.spread == "all" and len(able) <= layers:
        return able
    return [node for node in able if node in goal.pinned]


def _plan(fleet: Fleet, request: Request, placement: _Placement) -> Plan:
    spec, goal = request.spec, request.goal
    used = [node for node, layers in placement.counts.items() if layers or node == placement.ends]
    order = ring_order(fleet, placement.ends, used, spec.hidden * itemsize(goal.dtype))
    windows = ring_windows(order, placement.counts, goal.rounds)
    decision = Decision(placement.ends, placement.offers, placement.counts, tuple(windows))
    plan = Plan(
        model=goal.model or spec.name,
        dtype=goal.dtype,
        routes=(ring_route(windows, placement.ends),),
        kv_tokens=goal.kv_tokens,
        reasons=reasons(fleet, request, decision),
    )
    return replace(plan, prediction=predict(plan, fleet, spec, goal))
