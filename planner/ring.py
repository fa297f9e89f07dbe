"""The way round: in which order nodes follow each other, and which window of layers each has in which round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from potluck.models.sizes import layer_parts
from potluck.models.spec import Part, PartKind
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.plan import Route, Share, Stage
from potluck.planner.predict import hop_seconds

# 720 orders take about 2 ms; a home has fewer nodes, and beyond it the nearest next node is good enough.
_MOST_PERMUTED = 6


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive layers on one node."""

    node: NodeName
    layers: range


def ring_order(fleet: Fleet, start: NodeName, nodes: Sequence[NodeName], row_bytes: int) -> list[NodeName]:
    """The nodes from `start` on so that a token's hops round the ring take the least time; ties keep their order."""
    rest = [node for node in nodes if node != start]
    if len(rest) > _MOST_PERMUTED:
        return _nearest_next(fleet, start, rest, row_bytes)

    def around(order: tuple[NodeName, ...]) -> float:
        hops = zip((start, *order), (*order, start), strict=True)
        return sum(hop_seconds(fleet.link(*hop), row_bytes) for hop in hops)

    return [start, *min(permutations(rest), key=around)]


def ring_windows(order: Sequence[NodeName], counts: Mapping[NodeName, int], rounds: int) -> list[Window]:
    """The windows in the order a token visits them, neighbours on one node joined.

    PRIMA.CPP (arXiv 2504.08791) gives window sizes w and derives how many layers l each node gets, the last round
    being cut where W = sum(w) does not divide L:

        l_m = floor(L / W) w_m + min(w_m, max(0, R - sum_{j<m} min(w_j, R))),  R = L mod W

    so the nodes that come first get up to a window more than their speed earns. Here l is decided first, within
    memory, and cut into windows: after round r a node has done ceil(l_m (r + 1) / k) of its layers. Where k divides
    every l_m both are the same; else the early rounds are the full ones, as there, but l stays what it was.
    """
    windows: list[Window] = []
    first = 0
    for number in range(rounds):
        for node in order:
            end = first + _done(counts[node], number + 1, rounds) - _done(counts[node], number, rounds)
            if end > first and windows and windows[-1].node == node:
                windows[-1] = Window(node, range(windows[-1].layers.start, end))
            elif end > first:
                windows.append(Window(node, range(first, end)))
            first = end
    return windows


def ring_route(windows: Sequence[Window], start: NodeName, head: NodeName) -> Route:
    """The route of these windows, with the embedding before them on `start` and the head after them on `head`."""
    stages: list[tuple[NodeName, tuple[Part, ...]]] = [(start, (Part(PartKind.EMBEDDING),))]
    for window in windows:
        stages.append((window.node, layer_parts(window.layers)))
    stages.append((head, (Part(PartKind.HEAD),)))
    return Route(tuple(Stage(parts, (Share(node),)) for node, parts in joined(stages)))


def _done(layers: int, rounds_done: int, rounds: int) -> int:
    return -(-layers * rounds_done // rounds)


def joined(stages: Sequence[tuple[NodeName, tuple[Part, ...]]]) -> Iterator[tuple[NodeName, tuple[Part, ...]]]:
    """Stages by the name of who runs them, those that follow each other in one place as one."""
    name, parts = stages[0]
    for next_name, next_parts in stages[1:]:
        if next_name == name:
            parts += next_parts
        else:
            yield name, parts
            name, parts = next_name, next_parts
    yield name, parts


def _nearest_next(fleet: Fleet, start: NodeName, rest: list[NodeName], row_bytes: int) -> list[NodeName]:
    order = [start]
    while rest:
        nearest = min(rest, key=lambda node: hop_seconds(fleet.link(order[-1], node), row_bytes))
        rest.remove(nearest)
        order.append(nearest)
    return order
