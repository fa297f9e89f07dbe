"""Which layers a node reads from disk for every step, where its memory does not hold them all.

A node keeps its KV, its ends and as many layers as it can; the rest come and go through what is left. While others
compute, a node brings in its next window (PRIMA.CPP's prefetch, arXiv 2504.08791, appendix A.1; TPI-LLM's sliding
window, 2410.00531): so a window may take at most half of what is left, which more rounds with smaller windows achieve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from potluck.models.spec import Part, PartKind
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.offers import Request
from potluck.planner.placements import Placement
from potluck.planner.plan import Residency, Route, Share, Stage


def rounds_to_try(fleet: Fleet, request: Request, placement: Placement) -> list[int]:
    """The rounds asked for; where one was and nodes stream, all that make their windows small enough.

    More rounds make smaller windows, so that more layers can stay, and cost more hops: which is best, the prediction
    says.
    """
    counts = {node: count for node, count in placement.counts.items() if count}
    offers = {offer.node: offer for offer in placement.offers}
    overloaded = [node for node, count in counts.items() if count > offers[node].room]
    if request.goal.rounds > 1 or not overloaded or len(counts) == 1:
        return [request.goal.rounds]

    def fits(node: NodeName, rounds: int) -> bool:
        free = request.free(fleet.node(node), offers[node].ends) - counts[node] * request.layer_kv
        layer = request.on(fleet.node(node)).layer_weights
        return 2 * -(-counts[node] // rounds) * layer <= free

    most = max(counts.values())
    # Windows of the same sizes come of many numbers of rounds; the fewest of each is enough.
    fewest = {-(-most // rounds): rounds for rounds in range(most, 0, -1)}
    return [k for k in sorted(fewest.values()) if all(fits(node, k) for node in overloaded)] or [most]


def streamed_route(route: Route, fleet: Fleet, request: Request) -> Route:
    """The route with the layers that do not fit marked as streamed; a window may be cut between both kinds.

    Groups stay as they are.
    """
    alone = {stage.node for stage in route.stages if not stage.is_group}
    resident = {node: _resident(route, fleet, request, node) for node in alone}
    pieces = (_cut(stage, resident) if not stage.is_group else [stage] for stage in route.stages)
    return replace(route, stages=tuple(piece for cut in pieces for piece in cut))


def _resident(route: Route, fleet: Fleet, request: Request, node: NodeName) -> int:
    """Layers of a node that stay in memory."""
    request = request.on(fleet.node(node))
    stages = [stage for stage in route.stages if stage.nodes == (node,)]
    ends = tuple(part for stage in stages for part in stage.parts if part.layer is None)
    layers = sum(len(stage.layers) for stage in stages)
    free = request.free(fleet.node(node), ends)
    if layers * request.layer_bytes <= free:
        return layers
    # Room for two windows, or for two layers where one window is everything: those ahead come in as others go.
    window = 1 if len(stages) == 1 else max(len(stage.layers) for stage in stages)
    left = (free - layers * request.layer_kv) // request.layer_weights - 2 * window
    return int(min(max(0, left), layers))


def _cut(stage: Stage, resident: dict[NodeName, int]) -> Iterator[Stage]:
    """A stage as one or two, taking what it keeps from the node's budget of resident layers."""
    keep = min(resident[stage.node], len(stage.layers))
    resident[stage.node] -= keep
    if keep == len(stage.layers):
        yield stage
        return
    first = stage.layers[keep]
    if keep:
        yield replace(stage, parts=tuple(part for part in stage.parts if _is_before(part, first)))
        stage = replace(stage, parts=tuple(part for part in stage.parts if not _is_before(part, first)))
    yield replace(stage, shares=(Share(stage.node, residency=Residency.STREAMED),))


def _is_before(part: Part, layer: int) -> bool:
    if part.layer is None:
        return part.kind is PartKind.EMBEDDING
    return part.layer < layer
