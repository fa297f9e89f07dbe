"""Which layers a node reads from disk for every step, where its memory does not hold them all.

A node keeps its KV, its ends and as many layers as it can; the rest come and go through what is left. While it
computes what stays, and while others compute, it brings in what comes next (PRIMA.CPP's prefetch, arXiv 2504.08791,
appendix A.1; TPI-LLM's sliding window, 2410.00531). What is streamed lies apart, in runs between layers that stay:
where all of it came together, a disk would have nothing to do once what is left is full, and be waited for afterwards.
Measured with SmolLM2 in bfloat16, ten of 30 layers streamed at 1 GB/s through room for two, 60 rows a step: 152 ms
apart, 212 ms together, with stalls of 69 and 111 ms; through room for one 241 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby

from potluck.models.spec import Part
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.offers import EMBEDDING, Request
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


def cut_route(route: Route, kept: Mapping[NodeName, int], runs: Mapping[NodeName, int] | None = None) -> Route:
    """The route with so many layers of some nodes resident and their others streamed.

    Every window streams its part, so that there is time to read between them; within a window it lies in so many
    `runs` (1), each after layers that stay.
    """
    done, counts = dict.fromkeys(kept, 0), {name: _layers(route, name) for name in kept}
    stages: list[Stage] = []
    for stage in route.stages:
        name = stage.nodes[0]
        if name not in kept or stage.is_group:
            stages.append(stage)
            continue
        layers = counts[name]
        before, after = (layers - kept[name]) * done[name] // layers, done[name] + len(stage.layers)
        done[name] = after
        stages += _cut(stage, (layers - kept[name]) * after // layers - before, (runs or {}).get(name, 1))
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


def _cut(stage: Stage, streamed: int, runs: int) -> list[Stage]:
    """A stage in pieces: what stays and what is streamed by turns. The ends go with their neighbours."""
    away, first = _away(stage.layers, streamed, runs), stage.layers.start
    ends = {True: first, False: stage.layers.stop - 1}

    def streams(part: Part) -> bool:
        return (ends[part == EMBEDDING] if part.layer is None else part.layer) in away

    share = Share(stage.node, residency=Residency.STREAMED)
    pieces = [(residency, tuple(parts)) for residency, parts in groupby(stage.parts, streams)]
    return [replace(stage, parts=parts, shares=(share,) if read else stage.shares) for read, parts in pieces]


def _away(layers: range, streamed: int, runs: int) -> set[int]:
    """Which layers are streamed: the last ones of every run of layers, as evenly as whole layers allow."""
    away: set[int] = set()
    runs = min(runs, len(layers))
    for run in range(runs):
        part = layers[len(layers) * run // runs : len(layers) * (run + 1) // runs]
        left = len(layers) - (part.start - layers.start)
        count = round((streamed - len(away)) * len(part) / left) if part else 0
        away.update(part[len(part) - count :])
    return away
