"""Which layers a node reads from disk for every step, where its memory does not hold them all.

A node keeps its KV, its ends and as many layers as it can; the rest come and go through what is left. While others
compute, a node brings in its next window (PRIMA.CPP's prefetch, arXiv 2504.08791, appendix A.1; TPI-LLM's sliding
window, 2410.00531): so a window may take at most half of what is left, which more rounds with smaller windows achieve.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """The route with the layers that do not fit marked as streamed."""
    names = {stage.node for stage in route.stages}
    resident = {name: _resident(route, fleet, request, name) for name in names}
    return cut_route(route, {name: count for name, count in resident.items() if count < _layers(route, name)})


def cut_route(route: Route, kept: Mapping[NodeName, int]) -> Route:
    """The route with so many layers of some nodes resident and their others streamed; a window may be cut in two.

    Every window streams its part, so that there is time to read between them.
    """
    done = dict.fromkeys(kept, 0)
    stages: list[Stage] = []
    for stage in route.stages:
        name = stage.nodes[0]
        if name not in kept or stage.is_group:
            stages.append(stage)
            continue
        layers = _layers(route, name)
        before, after = (layers - kept[name]) * done[name] // layers, done[name] + len(stage.layers)
        done[name] = after
        stages += _cut(stage, (layers - kept[name]) * after // layers - before)
    return replace(route, stages=tuple(stages))


def _layers(route: Route, name: NodeName) -> int:
    return sum(len(stage.layers) for stage in route.stages if stage.nodes == (name,))


def _resident(route: Route, fleet: Fleet, request: Request, name: NodeName) -> int:
    """Layers of a node that stay in memory."""
    node = fleet.node(name)
    stages = [stage for stage in route.stages if stage.node == name]
    ends = tuple(part for stage in stages for part in stage.parts if part.layer is None)
    layers, free = _layers(route, name), request.free(node, ends)
    if layers * request.on(node).layer_bytes <= free:
        return layers
    # One window is everything where a node comes by once: then those ahead come in as others go.
    window = 1 if len(stages) == 1 else max(len(stage.layers) for stage in stages)
    left = kept_beside(window, free - layers * request.layer_kv, request.on(node).layer_weights)
    return min(max(0, left), layers)


def kept_beside(window: int, free: int, layer: int) -> int:
    """Layers of so many bytes that stay beside room for two windows; negative where there is no room for those."""
    return free // layer - 2 * window


def _cut(stage: Stage, streamed: int) -> list[Stage]:
    """A stage as one or two: what stays, then so many layers that are streamed, then the head."""
    if not streamed:
        return [stage]
    share = Share(stage.node, residency=Residency.STREAMED)
    if streamed == len(stage.layers):
        return [replace(stage, shares=(share,))]
    first = stage.layers[len(stage.layers) - streamed]
    kept = tuple(part for part in stage.parts if _is_before(part, first))
    away = tuple(part for part in stage.parts if not _is_before(part, first))
    return [replace(stage, parts=kept), replace(stage, parts=away, shares=(share,))]


def _is_before(part: Part, layer: int) -> bool:
    if part.layer is None:
        return part.kind is PartKind.EMBEDDING
    return part.layer < layer
