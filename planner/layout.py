"""Who has what, and in which order a token comes round: what strategies look for. Then it becomes a route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from potluck.models.sizes import layer_parts
from potluck.models.spec import ModelSpec, Part
from potluck.planner.fleet import NodeName
from potluck.planner.hops import Hops
from potluck.planner.offers import EMBEDDING, HEAD
from potluck.planner.places import Ends, Place
from potluck.planner.plan import Route, Share, Stage
from potluck.planner.ring import joined, ring_windows
from potluck.planner.splitting import split_shares


@dataclass(frozen=True, slots=True)
class Layout:
    """Places by their numbers.

    Attributes:
        order: those with layers, in the order of the ring.
        counts: how many layers each of them has, cut into a window per round.
        embedding, head: where these are; they need not be in the ring.
        rounds: how often a token comes round.
        kept: how many layers stay in memory, of those places that stream the others.
        runs: of those, in how many runs a window's streamed layers lie; each apart where not said.
    """

    order: tuple[int, ...]
    counts: Mapping[int, int]
    embedding: int
    head: int
    rounds: int = 1
    kept: Mapping[int, int] = field(default_factory=dict)
    runs: Mapping[int, int] = field(default_factory=dict)

    def ends(self, place: int) -> Ends:
        """What a place has beside layers."""
        return (EMBEDDING,) * (place == self.embedding) + (HEAD,) * (place == self.head)

    @property
    def used(self) -> tuple[int, ...]:
        """Every place that has something, in the order in which a token first comes there."""
        return tuple(dict.fromkeys((self.embedding, *self.order, self.head)))

    @property
    def goes_ahead(self) -> bool:
        """Whether its plan does, as `memory.goes_ahead` says."""
        streams = any(kept < self.counts[place] for place, kept in self.kept.items())
        return len(self.used) == self.rounds == 1 and not streams

    def serial(self, hops: Hops, busy: float) -> float:
        """Seconds of a token that meets nobody and waits for no disk, where places are busy with it for so long.

        Of steps that go ahead two are under way at most.
        """
        past = busy + self.hop_seconds(hops)
        return max(busy + hops.again(self.embedding), past / 2) if self.goes_ahead else past

    def hop_seconds(self, hops: Hops) -> float:
        """Seconds that a token is on its way: from the engine, round and round, and back."""
        visits = (self.embedding, *self.order * self.rounds, self.head)
        return hops.enter(self.embedding) + sum(hops.between(*hop) for hop in pairwise(visits)) + hops.leave(self.head)


def route_of(layout: Layout, places: tuple[Place, ...], spec: ModelSpec) -> Route:
    """The stages of a layout, neighbours in one place joined."""
    by_name = {places[number].name: places[number] for number in layout.used}
    counts = {places[number].name: layout.counts[number] for number in layout.order}
    windows = ring_windows([places[number].name for number in layout.order], counts, layout.rounds)
    visits: list[tuple[NodeName, tuple[Part, ...]]] = [(places[layout.embedding].name, (EMBEDDING,))]
    visits += [(window.node, layer_parts(window.layers)) for window in windows]
    visits.append((places[layout.head].name, (HEAD,)))
    return Route(tuple(_stage(by_name[name], parts, spec) for name, parts in joined(visits)))


def _stage(place: Place, parts: tuple[Part, ...], spec: ModelSpec) -> Stage:
    return Stage(parts, split_shares(spec, parts, [Share(node) for node in place.nodes], place.weights))
