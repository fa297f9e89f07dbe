"""What it takes to go from one place to another, and from and to the engine, in seconds of one decoded token."""

from __future__ import annotations

from collections.abc import Sequence

from potluck.planner.collectives import one_after_another
from potluck.planner.costs import itemsize
from potluck.planner.fleet import Fleet
from potluck.planner.offers import Request
from potluck.planner.places import Place

# What a stage costs a token beside its compute and its way: waking a processor, reading and writing a frame
# (bench/pipeline.py: 0.4 to 0.8 ms).
STAGE_SECONDS = 0.5e-3


class Hops:
    """The hops among some places, by their numbers. A place reaches itself at no cost."""

    def __init__(self, fleet: Fleet, request: Request, places: Sequence[Place]) -> None:
        self._fleet, self._places = fleet, places
        self._row_bytes = request.spec.hidden * itemsize(request.goal.dtype)
        self._known: dict[tuple[int, int], float] = {}
        self._cheapest: list[float] | None = None

    def between(self, source: int, target: int) -> float:
        """Seconds until all nodes of a place have a row that the lead of another sent, and have begun with it."""
        if source == target:
            return 0.0
        if (source, target) not in self._known:
            lead, nodes = self._places[source].name, self._places[target].nodes
            way = one_after_another([(self._fleet.link(lead, node), self._row_bytes) for node in nodes])
            self._known[source, target] = way + STAGE_SECONDS
        return self._known[source, target]

    def enter(self, place: int) -> float:
        """Seconds until a step that the engine sends has reached a place."""
        return max(self._fleet.link(self._fleet.engine, node).latency for node in self._places[place].nodes)

    def leave(self, place: int) -> float:
        """Seconds until a token that was sampled in a place has reached the engine."""
        return self._fleet.link(self._places[place].name, self._fleet.engine).latency

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
