"""Asking nodes what they measure of themselves: hosts at once, the workers of one host in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import grpc

from potluck.coordinator.calls import CallError, Callers, answered, reason_of
from potluck.coordinator.measurements import Question, refreshed
from potluck.planner.fleet import NodeName
from potluck.proto import cluster_pb2 as pb

_PROBE_SECONDS = 90.0


class _Answer(NamedTuple):
    """What a node tells, and whether it measured that now."""

    reply: pb.ProbeReply
    is_new: bool


def probe_nodes(callers: Callers, ask: Question) -> dict[NodeName, pb.ProbeReply]:
    """What every worker measured of its node; what is new is kept where the question says, if it can be.

    Raises:
        CallError: one of them did not answer.
    """
    hosts = _by_host(callers)
    calls = [callers.submit(_probe_host, callers, nodes, ask) for nodes in hosts]
    answers: dict[NodeName, _Answer] = {}
    for nodes, call in zip(hosts, calls, strict=True):
        answers |= answered(nodes[0], call)
    if ask.measurements and (new := {node: answer.reply for node, answer in answers.items() if answer.is_new}):
        with contextlib.suppress(OSError):
            ask.measurements.keep(ask.dtype, new)
    return {node: answers[node].reply for node in callers.addresses}


def _by_host(callers: Callers) -> list[list[NodeName]]:
    hosts: dict[str, list[NodeName]] = {}
    for node, address in callers.addresses.items():
        hosts.setdefault(address.rpartition(":")[0], []).append(node)
    return list(hosts.values())


def _probe_host(callers: Callers, nodes: Sequence[NodeName], ask: Question) -> dict[NodeName, _Answer]:
    # One after the other: workers of one machine would measure each other.
    return {node: _probe_node(callers, node, ask) for node in nodes}


def _probe_node(callers: Callers, node: NodeName, ask: Question) -> _Answer:
    kept = ask.kept(node)
    request = pb.ProbeRequest(dtype=ask.dtype, formats=ask.formats, known=kept.reply.fingerprint if kept else "")
    try:
        reply = callers.stub(node).Probe(request, timeout=_PROBE_SECONDS, wait_for_ready=True)
    except (grpc.RpcError, ValueError) as error:
        # With a ValueError gRPC says that its channel was closed.
        raise CallError(node, reason_of(error)) from None
    return _Answer(refreshed(kept.reply, reply), False) if kept and reply.unchanged else _Answer(reply, True)
