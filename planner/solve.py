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
    nodes = [node for node in fleet.nodes if node.name not in goal.excluded]
    for group in _groups(nodes, goal):
        placements = [placement for chosen in group if (placement := _place(fleet, chosen, spec, goal))]
        if placements:
            plans = [_plan(fleet, spec, goal, placement) for placement in placements]
            return min(plans, key=lambda plan: plan.prediction.time_per_token if plan.prediction else 0.0)
    raise refusal(nodes, Request(spec, goal))


def _check_names(fleet: Fleet, goal: Goal) -> None:
    names = [str(node.name) for node in fleet.nodes]
    for name in sorted(goal.excluded | goal.pinned):
        if name not in names:
            raise ValueError(f"fleet {fleet.name!r} has no node {name!r}{suggestion(name, names)}")


def _groups(nodes: Sequence[Node], goal: Goal) -> Iterator[list[tuple[Node, ...]]]:
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


def _place(fleet: Fleet, nodes: Sequence[Node], spec: ModelSpec, goal: Goal) -> _Placement | None:
    """Layers per node, with embedding and head on the first node in question that leaves room for everything."""
    request, layers = Request(spec, goal), len(spec.layers)
    fastest = sorted(nodes, key=lambda node: request.offer(node, ends=True).busy(layers))
    for ends in sorted(fastest, key=lambda node: node.name != fleet.engine):
        offers = tuple(request.offer(node, ends=node is ends) for node in nodes)
        held = next(offer for offer in offers if offer.node == ends.name)
        enough = sum(max(0, offer.room) for offer in offers) >= layers
        pinned_fit = all(offer.room > 0 for offer in offers if offer.node in goal.pinned)
        if held.room >= 0 and enough and pinned_fit and len(goal.pinned) <= layers:
            return _Placement(ends.name, offers, split(offers, layers, _must(offers, layers, goal)))
    return None


def _must(offers: Sequence[Offer], layers: int, goal: Goal) -> list[NodeName]:
    """Who gets a first layer whatever its speed: everybody where there are enough, else only the pinned."""
    able = [offer.node for offer in offers if offer.room > 0]
    if goal.spread == "all" and len(able) <= layers:
        return able
    return [node for node in able if node in goal.pinned]


def _plan(fleet: Fleet, spec: ModelSpec, goal: Goal, placement: _Placement) -> Plan:
    used = [node for node, layers in placement.counts.items() if layers or node == placement.ends]
    order = ring_order(fleet, placement.ends, used, spec.hidden * itemsize(goal.dtype))
    windows = ring_windows(order, placement.counts, goal.rounds)
    decision = Decision(placement.ends, placement.offers, placement.counts, tuple(windows))
    plan = Plan(
        model=goal.model or spec.name,
        dtype=goal.dtype,
        routes=(ring_route(windows, placement.ends),),
        kv_tokens=goal.kv_tokens,
        reasons=reasons(fleet, Request(spec, goal), decision),
    )
    return replace(plan, prediction=predict(plan, fleet, spec, goal))
