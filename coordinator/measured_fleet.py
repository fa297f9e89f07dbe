"""The fleet as its workers measure it: of themselves, and of the links between any two of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from potluck.coordinator.calls import Callers
from potluck.coordinator.link_rounds import Pair
from potluck.coordinator.links import probe_links
from potluck.coordinator.measurements import Question
from potluck.coordinator.node_probes import probe_nodes
from potluck.models.costs import FormatSpeed
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.proto import cluster_pb2 as pb

_WIRED = Link(1e-3, 1.25e8)  # what nodes that `--add` brings to a measured fleet hang on; it has no other unknown links


def measure_fleet(callers: Callers, ask: Question, data_ports: Mapping[NodeName, int], engine: str = "") -> Fleet:
    """Nodes first, then links (over these ports); requests arrive at `engine`, or else at the first node.

    Raises:
        CallError: a worker does not answer, or cannot reach another one.
    """
    replies = probe_nodes(callers, ask)
    links = probe_links(callers, data_ports)
    return fleet_of(replies, links, NodeName(engine or next(iter(replies))))


def fleet_of(replies: Mapping[NodeName, pb.ProbeReply], links: Mapping[Pair, Link], engine: NodeName) -> Fleet:
    """The fleet that these measurements describe. Pure."""
    nodes = tuple(_node(name, reply) for name, reply in replies.items())
    return Fleet(nodes, engine, _WIRED, links, name="as measured")


def _node(name: NodeName, reply: pb.ProbeReply) -> Node:
    return Node(
        name,
        (_device(reply),),
        _rounded(reply.disk_bandwidth),
        disk_random=_rounded(reply.disk_random),
        cores=reply.cores,
        swap=reply.swap_total,
        swap_free=reply.swap_free,
    )


def _device(reply: pb.ProbeReply) -> Device:
    kind: Literal["cpu", "cuda"] = "cuda" if reply.device == "cuda" else "cpu"
    return Device(
        kind,
        _rounded(reply.flops),
        _rounded(reply.memory_bandwidth),
        reply.memory_free,
        reply.device_name,
        {one.format: FormatSpeed(_rounded(one.flops), _rounded(one.bandwidth)) for one in reply.formats},
        _rounded(reply.layer_overhead),
        reply.memory_total,
        _rounded(reply.copy_bandwidth),
    )


def _rounded(measured: float) -> float:
    """What can be told of a measurement: a file of more digits would be no truer, and harder to read."""
    return float(f"{measured:.4g}")
