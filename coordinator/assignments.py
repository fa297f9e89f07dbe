"""From a plan to one message per worker. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from potluck.models.spec import ModelSpec, PartKind
from potluck.models.spec_codec import pack_spec
from potluck.planner.agreement import Agreement
from potluck.planner.axes import Range, axis_length, axis_range
from potluck.planner.fleet import NodeName
from potluck.planner.plan import Plan, Residency, Share, Stage
from potluck.planner.transfers import receivers, wants_sampled
from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import PROTOCOL

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Loading:
    """What all assignments of an epoch have in common.

    Attributes:
        spec: the model's shape.
        checkpoint, fingerprint: the model's path on the coordinator's machine, and its content's digest.
        addresses: host:port of every worker of the fleet.
        data_ports: where workers take frames over plain TCP; those that are missing take them over gRPC.
        readers: nodes that may read the model from their own disk.
        sources: nodes asked, in this order, for tensors by those that may not or cannot.
        max_rows: most packed rows of a step.
        stream_bytes: of nodes that stream layers, the memory for those.
        agreements: of stages that a group runs, by number, how it forms its sums; a star in float32 where none is.
    """

    epoch: int
    spec: ModelSpec
    checkpoint: str
    fingerprint: str
    addresses: Mapping[NodeName, str]
    data_ports: Mapping[NodeName, int]
    readers: frozenset[NodeName]
    sources: Sequence[NodeName]
    max_rows: int
    stream_bytes: Mapping[NodeName, int] = field(default_factory=dict)
    agreements: Mapping[int, Agreement] = field(default_factory=dict)


def kv_blocks(plan: Plan) -> int:
    """KV blocks every node of the plan keeps."""
    return -(-plan.kv_tokens // BLOCK_SIZE)


def entries(plan: Plan) -> dict[NodeName, int]:
    """Every node's first stage, in order of the route; all members of the first stage's group have 0."""
    found: dict[NodeName, int] = {}
    for number, stage in enumerate(plan.routes[0].stages):
        for node in stage.nodes:
            found.setdefault(node, number)
    return found


def assignments(plan: Plan, loading: Loading) -> dict[NodeName, pb.Assignment]:
    """The assignment of every node of a plan that this version runs."""
    windows = _windows(plan.routes[0].stages, loading)
    return {node: _assignment(plan, loading, node, windows[node]) for node in plan.nodes}


def _assignment(plan: Plan, loading: Loading, node: NodeName, windows: list[pb.Window]) -> pb.Assignment:
    return pb.Assignment(
        protocol=PROTOCOL,
        epoch=loading.epoch,
        spec=pack_spec(loading.spec),
        checkpoint=loading.checkpoint,
        fingerprint=loading.fingerprint,
        dtype=plan.dtype,
        windows=windows,
        kv_blocks=kv_blocks(plan),
        block_size=BLOCK_SIZE,
        peers=[_peer(loading, other) for other in plan.nodes],
        sources=[_peer(loading, source) for source in loading.sources if source != node],
        checkpoint_allowed=node in loading.readers,
        max_rows=loading.max_rows,
        stream_bytes=loading.stream_bytes.get(node, 0),
    )


def _peer(loading: Loading, node: NodeName) -> pb.Peer:
    return pb.Peer(node=node, address=loading.addresses[node], data_port=loading.data_ports.get(node, 0))


def _windows(stages: Sequence[Stage], loading: Loading) -> dict[NodeName, list[pb.Window]]:
    windows: dict[NodeName, list[pb.Window]] = {}
    for number, stage in enumerate(stages):
        following = stages[number + 1] if number + 1 < len(stages) else None
        for share in stage.shares:
            window = _window(number, stage, following, share)
            if stage.is_group:
                window.group.CopyFrom(_group(stage, share, loading.spec, loading.agreements.get(number, Agreement())))
            windows.setdefault(share.node, []).append(window)
    return windows


def _window(number: int, stage: Stage, following: Stage | None, share: Share) -> pb.Window:
    layers = stage.layers
    return pb.Window(
        stage=number,
        embedding=stage.has_embedding,
        first_layer=layers.start,
        end_layer=layers.stop,
        head=stage.has_head,
        next_nodes=_next_nodes(stage, following, share.node) if following else [],
        next_wants_sampled=following is not None and wants_sampled(following),
        streamed=share.residency is Residency.STREAMED,
    )


def _next_nodes(stage: Stage, following: Stage, node: NodeName) -> list[NodeName]:
    """Itself where it goes on, and of the lead all who do not have the rows yet."""
    own = [node] if node in following.nodes else []
    return own + list(receivers(stage, following)) if node == stage.nodes[0] else own


def _group(stage: Stage, share: Share, spec: ModelSpec, agreement: Agreement) -> pb.Group:
    heads, columns = (_held(spec, kind, stage, share) for kind in (PartKind.ATTENTION, PartKind.FFN))
    rows = [_held(spec, PartKind.HEAD, stage, member) for member in stage.shares]
    return pb.Group(
        nodes=stage.nodes,
        first_head=heads[0],
        end_head=heads[1],
        first_column=columns[0],
        end_column=columns[1],
        first_rows=[first for first, _ in rows],
        end_rows=[end for _, end in rows],
        wire=agreement.wire,
        pieces=agreement.pieces,
        reductions=[pb.Reduction(most_bytes=most, algorithm=name) for most, name in agreement.reductions],
    )


def _held(spec: ModelSpec, kind: PartKind, stage: Stage, share: Share) -> Range:
    """What a share holds of an axis; all of it where the stage has nothing that is split along it."""
    axis = {PartKind.EMBEDDING, PartKind.HEAD} if kind is PartKind.HEAD else {kind}
    if axis & {part.kind for part in stage.parts}:
        return axis_range(spec, kind, share)
    return 0, axis_length(spec, kind)
