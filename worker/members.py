"""The other members of an epoch's groups: one socket to each, opened by whoever's name comes first."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping

import grpc

from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import PROTOCOL, open_channel, worker_stub
from potluck.proto.connection import Socket
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.link import LinkCounts, LinkTarget
from potluck.proto.member_link import MemberError, MemberLink
from potluck.proto.shaper import Clock, WallClock
from potluck.proto.stream import StreamHead
from potluck.proto.tcp import Notice, dial, greet

_ALIVE_SECONDS = 2.0


class Members:
    """Links to the members of all groups that a node is in; closed for good with the epoch."""

    def __init__(self, own: str, targets: Mapping[str, LinkTarget], clock: Clock | None = None) -> None:
        """`targets`: how to reach every other member; their shapes are those of the links to them. `clock`: of an
        emulated node."""
        self._own, self._targets, self._clock = own, dict(targets), clock or WallClock()
        self._links: dict[str, MemberLink] = {}
        self._changed = threading.Condition()
        self._channels: dict[str, grpc.Channel] = {}
        self._closed = False

    def link(self, node: str) -> MemberLink:
        """The link to another member; opened, or waited for, when it is first asked for.

        Raises:
            MemberError: it cannot be had.
        """
        with self._changed:
            found = self._links.get(node)
        if found is None:
            found = self._opened(node) if self._own < node else self._awaited(node)
        return found

    def check(self, head: StreamHead) -> None:
        """Look at who opens a socket before it is accepted.

        Raises:
            FrameError: it is no member, has one already, or would form sums in another way: both would read parts of
                the right size and add up the wrong ones.
        """
        node = head.node
        if node not in self._targets or self._own < node:
            raise FrameError(f"node {node!r} has no sum to form with node {self._own!r}", Refusal.MISMATCH)
        if head.agreement != self._targets[node].agreement:
            reason = f"nodes {self._own!r} and {node!r} were told different things about the sums that they form"
            raise FrameError(f"{reason}; plan again", Refusal.MISMATCH)
        with self._changed:
            self._check_free(node)

    def take(self, node: str, sock: Socket) -> MemberLink:
        """The socket of a member that was accepted.

        Raises:
            FrameError: it has one already.
        """
        return self._add(node, sock)

    def counts(self) -> dict[str, LinkCounts]:
        """What went to every member."""
        with self._changed:
            return {node: link.counts for node, link in self._links.items()}

    def close(self) -> None:
        """End all links; whoever waits in a sum is told."""
        with self._changed:
            self._closed = True
            links, channels, self._channels = list(self._links.values()), list(self._channels.values()), {}
            self._changed.notify_all()
        for link in links:
            link.close()
        for channel in channels:
            channel.close()

    def _add(self, node: str, sock: Socket) -> MemberLink:
        link = MemberLink(node, sock, self._targets[node].shape, lambda: self._doubt(node), self._clock)
        with self._changed:
            self._check_free(node)
            self._links[node] = link
            self._changed.notify_all()
        return link

    def _check_free(self, node: str) -> None:
        if self._closed or node in self._links:
            raise FrameError(f"node {self._own!r} takes no more links of node {node!r}", Refusal.MISMATCH)

    def _opened(self, node: str) -> MemberLink:
        target = self._targets[node]
        try:
            with contextlib.ExitStack() as refused:
                sock = refused.enter_context(dial(target.address, target.data_port, target.tls))
                greet(sock, target.head, target.token)
                link = self._add(node, sock)
                refused.pop_all()
                return link
        except (Notice, FrameError, EOFError, OSError) as error:
            raise MemberError(node, f"cannot be reached for a sum ({error})") from None

    def _awaited(self, node: str) -> MemberLink:
        with self._changed:
            while not self._closed:
                if self._changed.wait_for(lambda: node in self._links or self._closed, 1.0):
                    break
                self._doubt(node)
            if node not in self._links:
                raise MemberError(node, "was waited for when the epoch was released")
            return self._links[node]

    def _doubt(self, node: str) -> None:
        """Nothing came for a second: a slow member answers calls all the same, a frozen or lost one does not.

        Raises:
            MemberError: it does not, or has left the epoch.
        """
        target = self._targets[node]
        channel = self._channels.get(node) or open_channel(target.address, target.token)
        self._channels[node] = channel
        try:
            hello = worker_stub(channel).Hello(pb.HelloRequest(protocol=PROTOCOL), timeout=_ALIVE_SECONDS)
        except grpc.RpcError as error:
            code = error.code().name.lower() if isinstance(error, grpc.Call) else "no answer"
            raise MemberError(node, f"does not answer in the middle of a sum ({code})") from None
        if target.epoch not in hello.epochs:
            raise MemberError(node, f"has left epoch {target.epoch} in the middle of a sum", ended=True)
