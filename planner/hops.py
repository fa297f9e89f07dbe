"""What it takes to go from one place to another, and from and to the engine, in seconds of one decoded token."""

from __future__ import annotations

from collections.abc import Sequence

from potluck.models.sizes import itemsize
from potluck.planner.collectives import one_after_another
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.offers import Request
from potluck.planner.places import Place
from potluck.planner.software import Software

Nodes = tuple[NodeName, ...]


def entering_seconds(fleet: Fleet, software: Software, nodes: Nodes) -> float:
    """Seconds from when the engine may pack a step until these nodes have begun with it, were they free."""
    latency = max(fleet.link(fleet.engine, node).latency for node in nodes)
    return software.step + latency + software.frame * len(nodes) + software.stage


class Hops:
    """The hops among some places, by their numbers. A place reaches itself at no cost."""

    def __init__(self, fleet: Fleet, request: Request, places: Sequence[Place], known: Hops | None = None) -> None:
        """`known`: hops of the same fleet and request, so that none is worked out twice."""
        self._fleet, self._places = fleet, places
        self._row_bytes = request.spec.hidden * itemsize(request.goal.dtype)
        self._software = request.goal.software
        self._known: dict[tuple[int, int], tuple[float, float]] = {}
        self._by_nodes: dict[tuple[Nodes, Nodes], tuple[float, float]] = known._by_nodes if known else {}
        self._cheapest: list[float] | None = None

    def between(self, source: int, target: int) -> float:
        """Seconds until all nodes of a place have a row that the lead of another sent, and have begun with it."""
        return self._way(source, target)[0]

    def wire(self, source: int, target: int) -> float:
        """Seconds for which that takes the lead's link, so that no other row gets on there."""
        return self._way(source, target)[1]

    def enter(self, place: int) -> float:
        """Seconds until a step that the engine makes has reached a place, and that has begun with it."""
        return entering_seconds(self._fleet, self._software, self._places[place].nodes)

    def leave(self, place: int) -> float:
        """Seconds until a token that was sampled in a place has reached the engine."""
        return self._fleet.link(self._places[place].name, self._fleet.engine).latency + self._software.frame

    def again(self, place: int) -> float:
        """Seconds from a token that a place with everything has drawn until all its nodes have begun with it."""
        lead, *others = self._places[place].nodes
        return self._software.again + max((self._fleet.link(lead, node).latency for node in others), default=0.0)

    def turn(self, place: int) -> float:
        """The least between a token that a place has drawn and the next one: past the engine, or without."""
        return min(self.enter(place) + self.leave(place), self.again(place))

    @property
    def least_turn(self) -> float:
        """The least between two tokens, wherever the first is drawn and the next enters."""
        numbers = range(len(self._places))
        past = min(map(self.enter, numbers)) + min(map(self.leave, numbers))
        return min(past, *map(self.again, numbers))

    def _way(self, source: int, target: int) -> tuple[float, float]:
        known = self._known.get((source, target))
        if known is None:
            nodes = self._places[source].nodes, self._places[target].nodes
            if nodes not in self._by_nodes:
                self._by_nodes[nodes] = (0.0, 0.0) if source == target else self._worked_out(*nodes)
            known = self._known[source, target] = self._by_nodes[nodes]
        return known

    def _worked_out(self, source: Nodes, target: Nodes) -> tuple[float, float]:
        links = [(self._fleet.link(source[0], node), float(self._row_bytes)) for node in target]
        way = one_after_another(links)
        software = self._software.frame * len(target) + self._software.stage
        return way + software, way - max(link.latency for link, _ in links)

    @property
    def cheapest(self) -> list[float]:
        """For every place, the least that it takes to get there from another; 0 for a place that has no other."""
        if self._cheapest is None:
            leads = {place.name: number for number, place in enumerate(self._places)}
            named: list[list[int]] = [[] for _ in self._places]
            for source, target in self._fleet.links:
                if source != target and source in leads and target in leads:
                    named[leads[target]].append(leads[source])
            self._cheapest = [self._nearest(number, sources) for number, sources in enumerate(named)]
        return self._cheapest

    def _nearest(self, place: int, named: Sequence[int]) -> float:
        """The least way to a place, given from where links to its lead are named: all others are alike."""
        others = [number for number in range(len(self._places)) if number != place]
        if len(self._places[place].nodes) == 1 and len(named) < len(others):
            known = set(named)
            others = [*named, next(number for number in others if number not in known)]
        return min((self.between(other, place) for other in others), default=0.0)
