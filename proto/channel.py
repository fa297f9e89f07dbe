"""One set of gRPC options for both ends, and the version they speak."""

from __future__ import annotations

import grpc

from potluck.proto import cluster_pb2_grpc as rpc
from potluck.proto.auth import TokenSender

PROTOCOL = 4
MAX_MESSAGE = 4 << 20  # a part of 1 MiB and a header of 1 MiB fit twice

_KEEPALIVE = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
)

# A subchannel pool of its own gives every link its own connection, so that links to one node do not share a queue.
CLIENT_OPTIONS: tuple[tuple[str, int], ...] = (
    *_KEEPALIVE,
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

# The server must allow the pings the clients send, or it ends their connections with ENHANCE_YOUR_CALM; without
# so_reuseport 0 a second process could bind the same port.
SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *_KEEPALIVE,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # A process that was paused finds the pings of the whole pause at once; that is no reason to cut its links.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
)


def open_channel(address: str, token: str) -> grpc.Channel:
    """A channel to a worker (host:port) that sends the cluster's token with every call."""
    channel = grpc.insecure_channel(address, options=CLIENT_OPTIONS)
    return grpc.intercept_channel(channel, TokenSender(token))


def worker_stub(channel: grpc.Channel) -> rpc.WorkerStub:
    """The calls of the Worker service; the generated class itself is untyped."""
    return rpc.WorkerStub(channel)  # type: ignore[no-untyped-call]
