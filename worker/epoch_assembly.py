"""From an assignment to an epoch: links to other nodes, groups, the pace of a described node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace

from potluck.proto import cluster_pb2 as pb
from potluck.proto.link import LinkTarget
from potluck.proto.stream import StreamRole
from potluck.worker.assignment import Share, wire_dtype
from potluck.worker.described import Described
from potluck.worker.emulation import Emulation
from potluck.worker.epochs import Epoch, Paced, Ways
from potluck.worker.group import Group, SumTotals
from potluck.worker.group_assignment import agreement_with
from potluck.worker.members import Members
from potluck.worker.overlap import unpaced
from potluck.worker.pace import Pace
from potluck.worker.shard import Shard


class Assembly:
    """Puts epochs of one node together. `pace` is that of all its windows, None where it is not described."""

    def __init__(self, name: str, token: str, emulation: Emulation, pace: Pace | None) -> None:
        self._name, self._token, self._emulation, self._pace = name, token, emulation, pace
        self.sums = SumTotals()

    def members(self, assignment: pb.Assignment, share: Share) -> Members:
        """Links to the other members of this node's groups."""
        others = {node for group in share.groups.values() for node in group.nodes}
        targets = self._targets(assignment, others, "member").items()
        agreed = {node: replace(target, agreement=agreement_with(node, share.groups)) for node, target in targets}
        return Members(self._name, agreed, self._pace)

    def groups(self, share: Share, members: Members) -> dict[int, Group]:
        """The groups of its stages, by stage; their sums travel over these links."""
        own, apart = self._name, self._pace.apart if self._pace else unpaced
        return {stage: Group(plan, own, members.link, self.sums, apart) for stage, plan in share.groups.items()}

    def epoch(self, assignment: pb.Assignment, shard: Shard, share: Share, members: Members) -> Epoch:
        """The epoch that runs this shard."""
        nexts = {w.stage: tuple(w.next_nodes) for w in assignment.windows}
        targets = self._targets(assignment, {node for nodes in nexts.values() for node in nodes}, "worker")
        ways = Ways(nexts, targets, wire_dtype(assignment.dtype), share.spec.hidden, assignment.max_rows)
        return Epoch(assignment.epoch, shard, ways, members, self._paced(share, assignment.dtype))

    def _paced(self, share: Share, dtype: str) -> Paced:
        pace, device = self._pace, self._emulation.device
        if pace is None or device is None:
            return lambda stage, step: contextlib.nullcontext()
        described = Described(share.spec, share.windows, (device, dtype))
        return lambda stage, step: pace.window(lambda: described.targets(stage, step))

    def _targets(self, assignment: pb.Assignment, nodes: Iterable[str], role: StreamRole) -> dict[str, LinkTarget]:
        peers = {peer.node: peer for peer in assignment.peers}
        others = set(nodes) - {self._name}
        return {node: self._target(peers[node], assignment.epoch, role) for node in others}

    def _target(self, peer: pb.Peer, epoch: int, role: StreamRole) -> LinkTarget:
        shape = self._emulation.link(peer.node)
        return LinkTarget(self._name, peer.node, peer.address, self._token, epoch, role, shape, peer.data_port)
