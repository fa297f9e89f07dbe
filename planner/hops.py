"""What it takes to go from one place to another, and from and to the engine, in seconds of one decoded token."""

from __future__ import annotations

from collections.abc import Sequence

from potluck.models.sizes import itemsize
from potluck.planner.collectives import one_after_another
from potluck.planner.fleet import Fleet
from potluck.planner.offers import Request
from potluck.planner.places import Place


class Hops:
    """The hops among some places, by their numbers. A place reaches itself at no cost."""

    def __init__(self, fleet: Fleet, request: Request, places: Sequence[Place]) -> None:
        self._fleet, self._places = fleet, places
        self._row_bytes = request.spec.hidden * itemsize(request.goal.dtype)
        self._software = request.goal.software
        self._known: dict[tuple[int, int], tuple[float, float]] = {}
        self._cheapest: list[float] | None = None

    def between(self, source: int, target: int) -> float:
        """Seconds until all nodes of a place have a row that the lead of another sent, and have begun with it."""
        return self._way(source, target)[0]

    def wire(self, source: int, target: int) -> float:
        """Seconds for which that takes the lead's link, so that no other row gets on there."""
        return self._way(source, target)[1]

    def enter(self, place: int) -> float:
        """Seconds until a step that the engine makes has reached a place, and that has begun with it."""
        nodes = self._places[place].nodes
        software = self._software.step + self._software.frame * len(nodes) + self._software.stage
        return software + max(self._fleet.link(self._fleet.engine, node).latency for node in nodes)

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
        if source == target:
            return 0.0, 0.0
        if (source, target) not in self._known:
            lead, nodes = self._places[source].name, self._places[target].nodes
            links = [(self._fleet.link(lead, node), float(self._row_bytes)) for node in nodes]
            way = one_after_another(links)
            software = self._software.frame * len(nodes) + self._software.stage
            self._known[source, target] = way + software, way - max(link.latency for link, _ in links)
        return self._known[source, target]

    @property
    def cheapest(self) -> list[float]:
        """For every place, the least that it takes to get there from another; 0 for a place that has no other."""
        if self._cheapest is None:
            numbers = range(len(self._places))
            self._cheapest = [
                min((self.between(other, place) for other in numbers if other != place), default=0.0)
                for place in numbers
            ]
        return self._cheapest
