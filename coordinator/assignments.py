"""From a plan to one message per worker. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from potluck.planner.fleet import NodeName
from potluck.planner.plan import Plan, Residency, Stage
from potluck.planner.transfers import wants_sampled
from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import PROTOCOL

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Loading:
    """What all assignments of an epoch have in common.

    Attributes:
        spec: the packed model spec.
        checkpoint, fingerprint: the model's path on the coordinator's machine, and its content's digest.
        addresses: host:port of every worker of the fleet.
        data_ports: where workers take frames over plain TCP; those that are missing take them over gRPC.
        readers: nodes that may read the model from their own disk.
        sources: nodes asked, in this order, for tensors by those that may not or cannot.
        max_rows: most packed rows of a step.
        stream_bytes: of nodes that stream layers, the memory for those.
    """

    epoch: int
    spec: bytes
    checkpoint: str
    fingerprint: str
    addresses: Mapping[NodeName, str]
    data_ports: Mapping[NodeName, int]
    readers: frozenset[NodeName]
    sources: Sequence[NodeName]
    max_rows: int
    stream_bytes: Mapping[NodeName, int] = field(default_factory=dict)


def kv_blocks(plan: Plan) -> int:
    """KV blocks every node of the plan keeps."""
    return -(-plan.kv_tokens // BLOCK_SIZE)


def entries(plan: Plan) -> dict[NodeName, int]:
    """Every node's first stage, in order of the route."""
    found: dict[NodeName, int] = {}
    for number, stage in enumerate(plan.routes[0].stages):
        found.setdefault(stage.node, number)
    return found


def assignments(plan: Plan, loading: Loading) -> dict[NodeName, pb.Assignment]:
    """The assignment of every node of a plan whose stages have one node each."""
    windows = _windows(plan.routes[0].stages)
    return {node: _assignment(plan, loading, node, windows[node]) for node in plan.nodes}


def _assignment(plan: Plan, loading: Loading, node: NodeName, windows: list[pb.Window]) -> pb.Assignment:
    return pb.Assignment(
        protocol=PROTOCOL,
        epoch=loading.epoch,
        spec=loading.spec,
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


def _windows(stages: Sequence[Stage]) -> dict[NodeName, list[pb.Window]]:
    windows: dict[NodeName, list[pb.Window]] = {}
    for number, stage in enumerate(stages):
        following = stages[number + 1] if number + 1 < len(stages) else None
        layers = stage.layers
        windows.setdefault(stage.node, []).append(
            pb.Window(
                stage=number,
                embedding=stage.has_embedding,
                first_layer=layers.start,
                end_layer=layers.stop,
                head=stage.has_head,
                next_nodes=[following.node] if following else [],
                next_wants_sampled=following is not None and wants_sampled(following),
                streamed=stage.shares[0].residency is Residency.STREAMED,
            )
        )
    return windows
