"""What each node could bring: how long it takes for a layer, and how many layers its memory holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from potluck.models.costs import Pass, seconds
from potluck.models.sizes import DeviceKind, kv_bytes_per_token, layer_parts, weight_bytes
from potluck.models.spec import ModelSpec, Part, PartKind
from potluck.planner.fleet import Node, NodeName
from potluck.planner.goal import Goal
from potluck.planner.memory import worker_bytes

EMBEDDING, HEAD = Part(PartKind.EMBEDDING), Part(PartKind.HEAD)
ENDS = (EMBEDDING, HEAD)


@dataclass(frozen=True, slots=True)
class Offer:
    """One node's offer.

    Attributes:
        layer_seconds: for one layer and one decoded token.
        ends: the embedding, the head, both or neither, which it would hold beside its layers.
        ends_seconds: for those.
        room: layers that fit its memory beside what it has already; negative where the ends alone do not fit.
        most: layers it could run, those beyond `room` read from its disk for every token; `room` where it must not.
        overflow_seconds: for one layer beyond `room` and one token.
    """

    node: NodeName
    ends: tuple[Part, ...]
    layer_seconds: float
    ends_seconds: float
    room: int
    most: int
    overflow_seconds: float = 0.0

    def busy(self, layers: int) -> float:
        """Seconds per token with this many layers."""
        overflow = max(0, layers - self.room) * self.overflow_seconds
        return self.ends_seconds + layers * self.layer_seconds + overflow


@dataclass(frozen=True, slots=True)
class Request:
    """A model and a goal: what every offer is made for. Its sizes are those on a `kind` of device."""

    spec: ModelSpec
    goal: Goal
    kind: DeviceKind = "cpu"

    def on(self, node: Node) -> Request:
        """The same with the sizes that a node's device has."""
        return replace(self, kind=node.device.kind)

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer with its KV."""
        return self.layer_weights + self.layer_kv

    @property
    def layer_weights(self) -> int:
        """Bytes of one layer's weights, of the largest where formats differ."""
        layers = range(len(self.spec.layers)) if self.spec.encodings else range(1)
        return max(weight_bytes(self.spec, layer_parts([layer]), self.goal.dtype, self.kind) for layer in layers)

    @property
    def layer_kv(self) -> int:
        """Bytes of one layer's KV."""
        return self.goal.kv_tokens * kv_bytes_per_token(self.spec, self.goal.dtype)

    @property
    def ends_bytes(self) -> int:
        """Bytes of embedding and head on one node; tied ones cost once."""
        return weight_bytes(self.spec, ENDS, self.goal.dtype, self.kind)

    def free(self, node: Node, ends: tuple[Part, ...] = ()) -> int:
        """Bytes that a node has for layers and their KV beside these ends; no more than its share of its memory."""
        memory = int(node.device.memory * self.goal.share(node.name))
        return memory - worker_bytes(self.spec) - weight_bytes(self.spec, ends, self.goal.dtype, node.device.kind)

    def offer(self, node: Node, ends: tuple[Part, ...] = (), streaming: bool = False) -> Offer:
        """What a node could bring beside these ends. Streaming keeps all KV, and room for two layers, in memory."""
        work, compute = Pass(1, 1, self.goal.context), (node.device, self.goal.dtype)
        layers = layer_parts(range(len(self.spec.layers)))
        free, here = self.free(node, ends), self.on(node)
        room = most = free // here.layer_bytes
        if streaming and node.disk_bandwidth > 0:
            most = max(room, (free - 2 * here.layer_weights) // here.layer_kv)
        return Offer(
            node=node.name,
            ends=ends,
            layer_seconds=seconds(self.spec, layers, work, compute) / len(self.spec.layers),
            ends_seconds=seconds(self.spec, ends, work, compute) if ends else 0.0,
            room=room,
            most=most,
            overflow_seconds=here.layer_bytes / node.disk_bandwidth if most > room else 0.0,
        )


def split(offers: Sequence[Offer], layers: int, must: Iterable[NodeName]) -> dict[NodeName, int]:
    """Layers per node, in proportion to speed within memory.

    Water-filling: every layer goes to the node with room that would be done with it first. So no node could give a
    layer away without the other being busy longer, which is proportionality within one layer; embedding and head
    count as the work they are. `must` names nodes that get a first layer before that.

    Raises:
        ValueError: the offers have no room for so many layers, or for those that must be.
    """
    counts = {offer.node: 0 for offer in offers}
    room = {offer.node: offer.most for offer in offers}
    for node in must:
        counts[node] = 1
    if any(counts[node] > room[node] for node in must) or sum(counts.values()) > layers:
        raise ValueError("nodes that must have a layer have no room for it")
    for _ in range(layers - sum(counts.values())):
        open_ = [offer for offer in offers if counts[offer.node] < offer.most]
        if not open_:
            raise ValueError("the offers have no room for so many layers")
        first = min(open_, key=lambda offer: offer.busy(counts[offer.node] + 1))
        counts[first.node] += 1
    return counts
