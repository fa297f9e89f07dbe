"""Where a stage can be: a node, or a group of nodes that run it together; what it takes there, and what fits there.

A node with several devices counts with the one that reads weights fastest (`Node.device`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from potluck.models.costs import Pass
from potluck.models.sizes import formats_of, layer_parts, weight_bytes
from potluck.models.spec import ModelSpec, Part
from potluck.planner.fleet import Device, Fleet, Node, NodeName
from potluck.planner.group_sums import Setting
from potluck.planner.memory import node_bytes
from potluck.planner.offers import EMBEDDING, ENDS, HEAD, Request
from potluck.planner.plan import Plan, Route, Share, Stage
from potluck.planner.splitting import split_shares
from potluck.planner.stage_seconds import stage_seconds

Ends = tuple[Part, ...]
ALL_ENDS: tuple[Ends, ...] = ((), (EMBEDDING,), (HEAD,), ENDS)


@dataclass(frozen=True, slots=True)
class Holder:
    """The memory of one node of a place.

    Attributes:
        free: bytes for weights and KV.
        layer_weights, layer_kv: bytes of what it would hold of one layer, of the largest where they differ.
        ends: bytes of what it would hold of the embedding, the head, both or neither.
    """

    free: int
    layer_weights: int
    layer_kv: int
    ends: Mapping[Ends, int]

    def room(self, ends: Ends) -> int:
        """Layers that fit beside these ends; negative where the ends alone do not."""
        return (self.free - self.ends[ends]) // (self.layer_weights + self.layer_kv)


@dataclass(frozen=True, slots=True)
class Place:
    """A node, or a group.

    Attributes:
        nodes: the lead first.
        weights: in which proportions the nodes of a group share.
        layer_seconds, embedding_seconds, head_seconds: of one decoded token; of a layer on average.
        holders: the memory of each node.
        disk: bytes per second at which layers may be streamed; 0 where all must be resident.
        share: the fraction of a token's time that it may be busy.
    """

    nodes: tuple[NodeName, ...]
    weights: tuple[Fraction, ...]
    layer_seconds: float
    embedding_seconds: float
    head_seconds: float
    holders: tuple[Holder, ...]
    disk: float = 0.0
    share: float = 1.0

    @property
    def name(self) -> NodeName:
        """The lead, which no other place has."""
        return self.nodes[0]

    def room(self, ends: Ends = ()) -> int:
        """Layers that fit every node's memory beside these ends."""
        return min(holder.room(ends) for holder in self.holders)

    def most(self, ends: Ends = ()) -> int:
        """Layers that it could run beside these ends, some of them streamed through room for one of them."""
        holder = self.holders[0]
        if not self.disk:
            return self.room(ends)
        streamed = (holder.free - holder.ends[ends] - holder.layer_weights) // holder.layer_kv
        return max(self.room(ends), streamed)

    def seconds(self, layers: int, ends: Ends = ()) -> float:
        """Seconds that a token spends here."""
        taken = layers * self.layer_seconds
        taken += self.embedding_seconds if EMBEDDING in ends else 0.0
        return taken + (self.head_seconds if HEAD in ends else 0.0)


class Places:
    """The places of one fleet for one request. Nodes with equal devices are reckoned once."""

    def __init__(self, fleet: Fleet, request: Request) -> None:
        self._fleet, self._request = fleet, request
        self._setting = Setting(fleet, request.spec, request.goal.dtype, request.goal.software)
        self._layers = tuple(distinct_layers(request.spec))
        self._seconds: dict[Device, tuple[float, float, float]] = {}
        self._kinds = cache(self._kind)

    def node(self, node: Node) -> Place:
        """A node as a place."""
        request, device = self._request, node.device
        if device not in self._seconds:
            self._seconds[device] = self._taken((Share(node.name),), (Fraction(1),))
        weights, ends = self._kinds(device.kind)
        holder = Holder(request.free(node), weights, request.layer_kv, ends)
        # Unified memory is all or nothing: what macOS pages out of a Metal buffer comes back as a whole.
        streams = request.goal.streaming and device.kind != "metal"
        disk, share = (node.disk_bandwidth if streams else 0.0), request.goal.share(node.name)
        return Place((node.name,), (Fraction(1),), *self._seconds[device], (holder,), disk, share)

    def group(self, nodes: Sequence[Node], weights: Sequence[Fraction]) -> Place:
        """A group as a place: everything of a stage is split, the ends along the vocabulary. It streams nothing.

        Raises:
            SplitError: the model cannot be split among so many.
        """
        names = tuple(node.name for node in nodes)
        taken = self._taken(tuple(Share(name) for name in names), tuple(weights))
        holders = tuple(self._members(nodes, weights))
        share = min(self._request.goal.share(name) for name in names)
        return Place(names, tuple(weights), *taken, holders, 0.0, share)

    def _kind(self, kind: str) -> tuple[int, dict[Ends, int]]:
        request = next(self._request.on(node) for node in self._fleet.nodes if node.device.kind == kind)
        sizes = {ends: weight_bytes(request.spec, ends, request.goal.dtype, request.kind) for ends in ALL_ENDS}
        return request.layer_weights, sizes

    def _taken(self, wholes: tuple[Share, ...], weights: tuple[Fraction, ...]) -> tuple[float, float, float]:
        """Seconds of a layer, of the embedding, and of the head."""

        def seconds(parts: Sequence[Part]) -> float:
            shares = split_shares(self._request.spec, parts, wholes, weights)
            return stage_seconds(Stage(tuple(parts), shares), self._setting, Pass(1, 1, self._request.goal.context))

        count = sum(times for _, times in self._layers)
        layer = sum(times * seconds(layer_parts([layer])) for layer, times in self._layers) / count
        return layer, seconds([EMBEDDING]), seconds([HEAD])

    def _members(self, nodes: Sequence[Node], weights: Sequence[Fraction]) -> Iterator[Holder]:
        layers = [self._sizes(nodes, weights, layer_parts([layer])) for layer, _ in self._layers]
        ends = {end: self._sizes(nodes, weights, end) for end in ALL_ENDS}
        for number, node in enumerate(nodes):
            weight, kv = (max(sizes[number][which] for sizes in layers) for which in (0, 1))
            held = {end: sizes[number][0] for end, sizes in ends.items()}
            yield Holder(self._request.free(node), weight, kv, held)

    def _sizes(self, nodes: Sequence[Node], weights: Sequence[Fraction], parts: Ends) -> list[tuple[int, int]]:
        """Bytes of weights and KV that each member of a group has of some parts."""
        if not parts:
            return [(0, 0)] * len(nodes)
        goal, kinds = self._request.goal, {node.name: node.device.kind for node in nodes}
        shares = split_shares(self._request.spec, parts, [Share(node.name) for node in nodes], weights)
        plan = Plan("", goal.dtype, (Route((Stage(parts, shares),)),), goal.kv_tokens)
        return [(size.weights, size.kv) for size in node_bytes(plan, self._request.spec, kinds).values()]


def distinct_layers(spec: ModelSpec) -> Iterator[tuple[int, int]]:
    """One layer of every sort, and how many there are of it; layers in different formats are of different sorts."""
    sorts = [(kind, formats_of(spec, layer_parts([layer]))) for layer, kind in enumerate(spec.layers)]
    for sort, count in Counter(sorts).items():
        yield sorts.index(sort), count
