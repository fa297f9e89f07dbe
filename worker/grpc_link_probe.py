"""Measures the link to a worker whose frames travel over gRPC. An emulated link's shape, which calls do not feel, is
added."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import grpc

from potluck.proto import cluster_pb2 as pb
from potluck.proto import cluster_pb2_grpc as rpc
from potluck.proto.channel import PROTOCOL, open_channel, worker_stub
from potluck.proto.shaper import Shape

_TRANSFER = 1 << 20
_TRIPS, _TRANSFERS = 12, 3
_HELLO_SECONDS, _FETCH_SECONDS = 5.0, 30.0


def probe_over_grpc(peer: pb.Peer, token: str, shape: Shape, with_bulk: bool) -> pb.LinkReport:
    """Round trips of small calls, and with a bulk the bandwidth.

    Raises:
        grpc.RpcError: the peer does not answer.
    """
    channel = open_channel(peer.address, token)
    try:
        stub = worker_stub(channel)
        trip = statistics.median(_timed(lambda: _hello(stub), _TRIPS))
        rate = _rate(stub, trip, shape) if with_bulk else 0.0
        return pb.LinkReport(round_trip=trip + 2 * shape.latency, bandwidth=rate)
    finally:
        channel.close()


def _rate(stub: rpc.WorkerStub, trip: float, shape: Shape) -> float:
    padded = pb.FetchRequest(fingerprint="0" * 64, key="x" * _TRANSFER)
    seconds = statistics.median(_timed(lambda: _refused(stub, padded), _TRANSFERS)) - trip
    return _TRANSFER / (max(1e-6, seconds) + (_TRANSFER / shape.bandwidth if shape.bandwidth else 0.0))


def _hello(stub: rpc.WorkerStub) -> None:
    stub.Hello(pb.HelloRequest(protocol=PROTOCOL), timeout=_HELLO_SECONDS, wait_for_ready=True)


def _refused(stub: rpc.WorkerStub, request: pb.FetchRequest) -> None:
    """A megabyte to a peer that refuses its key: what counts is that it had to arrive first."""
    try:
        list(stub.Fetch(request, timeout=_FETCH_SECONDS))
    except grpc.RpcError as error:
        if not (isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.INVALID_ARGUMENT):
            raise


def _timed(call: Callable[[], None], times: int) -> Iterator[float]:
    for _ in range(times):
        begun = time.perf_counter()
        call()
        yield time.perf_counter() - begun
