"""Opening a link, over TCP where the worker has a data port."""

from __future__ import annotations

from potluck.proto.grpc_link import GrpcLink
from potluck.proto.link import Link, LinkTarget, OnBroken, OnFrame
from potluck.proto.tcp_link import TcpLink


def open_link(target: LinkTarget, on_frame: OnFrame, on_broken: OnBroken) -> Link:
    """Open a link at once; a peer that cannot be reached is reported through `on_broken`.

    Args:
        on_frame: gets what the worker answers (results and faults; nothing on a link between workers).
        on_broken: gets the peer's name, the gRPC status and one line, once, and never after `close`.
    """
    return TcpLink(target, on_frame, on_broken) if target.data_port else GrpcLink(target, on_frame, on_broken)
