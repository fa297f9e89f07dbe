"""Who could hold what: layers, embedding and head over a set of nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from potluck.models.sizes import itemsize
from potluck.models.spec import Part
from potluck.planner.fleet import Fleet, Node, NodeName
from potluck.planner.goal import Goal
from potluck.planner.offers import EMBEDDING, ENDS, HEAD, Offer, Request, split
from potluck.planner.ring import ring_order


@dataclass(frozen=True, slots=True)
class Placement:
    """The way round, from the node with the embedding on; who has the head; who has how many of the layers."""

    order: tuple[NodeName, ...]
    head: NodeName
    offers: tuple[Offer, ...]
    counts: Mapping[NodeName, int]


class Placements:
    """Placements over nodes of one fleet."""

    def __init__(self, fleet: Fleet, request: Request, streaming: bool = False) -> None:
        """`streaming`: nodes may run more layers than their memory holds."""
        self._fleet, self._request, self._streaming = fleet, request, streaming
        self._row_bytes = request.spec.hidden * itemsize(request.goal.dtype)
        self._offers: dict[tuple[NodeName, tuple[Part, ...]], Offer] = {}

    def over(self, nodes: Sequence[Node]) -> Iterator[Placement]:
        """The closed ring, with the head beside the embedding, and the open ones, with the head on another, last node.

        They start at the engine's node, or where that has no room, at the fastest that has. None that does not fit.
        """
        layers = len(self._request.spec.layers)
        starts = sorted(nodes, key=lambda node: (node.name != self._fleet.engine, self._offer(node, ENDS).busy(layers)))
        for start in starts:
            heads = [start, *(node for node in reversed(starts) if node != start)]
            tried = (self._place(nodes, start.name, head.name) for head in heads)
            found = [placement for placement in tried if placement]
            yield from found
            # Tokens enter where they can enter nearest to the engine, even if another node saved a stage.
            if found:
                return

    def _place(self, nodes: Sequence[Node], start: NodeName, head: NodeName) -> Placement | None:
        request, goal = self._request, self._request.goal
        ends = {start: ENDS} if head == start else {start: (EMBEDDING,), head: (HEAD,)}
        offers = tuple(self._offer(node, ends.get(node.name, ())) for node in nodes)
        if any(offer.room < 0 for offer in offers if offer.ends) or not _enough(offers, request):
            return None
        layers = len(request.spec.layers)
        counts = split(offers, layers, _must(offers, layers, goal))
        order = self._order(start, [node.name for node in nodes if counts[node.name] or node.name in ends])
        if head != start:
            order = [*(node for node in order if node != head), head]
        return Placement(tuple(order), head, offers, counts)

    def _order(self, start: NodeName, nodes: Sequence[NodeName]) -> list[NodeName]:
        return ring_order(self._fleet, start, nodes, self._row_bytes)

    def _offer(self, node: Node, ends: tuple[Part, ...]) -> Offer:
        key = (node.name, ends)
        if key not in self._offers:
            self._offers[key] = self._request.offer(node, ends, self._streaming)
        return self._offers[key]


def _enough(offers: Sequence[Offer], request: Request) -> bool:
    """Whether the layers fit, and the pinned nodes can each have one."""
    layers, pinned = len(request.spec.layers), request.goal.pinned
    room = sum(max(0, offer.most) for offer in offers)
    return room >= layers >= len(pinned) and all(offer.most > 0 for offer in offers if offer.node in pinned)


def _must(offers: Sequence[Offer], layers: int, goal: Goal) -> list[NodeName]:
    """Who gets a first layer whatever its speed: everybody where there are enough, else only the pinned."""
    able = [offer.node for offer in offers if offer.most > 0]
    if goal.spread != "fewest" and len(able) <= layers:
        return able
    return [node for node in able if node in goal.pinned]
