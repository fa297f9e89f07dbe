"""Measures the link from this node to another over the data port, the way that frames take, with what emulates it.

A round trip carries as much as a decode step's hidden rows do: what packets cost, and an access point that gathers
them, then count as they do for a hop. What waking the two threads costs is in every hop already
(`planner/software.py`), so the node's round trip to itself, made in turn with the others, is taken off.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc

from potluck.proto import cluster_pb2 as pb
from potluck.proto.connection import Socket
from potluck.proto.echo import (
    MOST_BULK_SECONDS,
    MOST_BYTES,
    NOISE,
    TRIP_BYTES,
    Ask,
    bulk_size,
    pack_message,
    read_report,
)
from potluck.proto.errors import FrameError
from potluck.proto.link import LinkError, LinkTarget
from potluck.proto.outbox import Outbox
from potluck.proto.shaper import Shape
from potluck.proto.tcp import Notice, dial, greet, read_message
from potluck.worker.grpc_link_probe import probe_over_grpc

_ANSWER_SECONDS = 5.0
_BULK_GRACE_SECONDS = 6.0
_LEAST, _MOST, _TRIPS_SECONDS = 5, 25, 0.4
_PAUSE_SECONDS = 1e-3  # before each round trip: hops, too, find processors that sleep
_LOADED_PAUSE_SECONDS, _LOADED_PAUSE_TRIPS = 5e-3, 4  # round trips would take what the bulk is to have


@dataclass(frozen=True, slots=True)
class LinkProbe:
    """A node that measures its links; `address` is that of its calls, `data_port` as in HelloReply."""

    name: str
    token: str
    link_shape: Callable[[str], Shape]
    address: str = ""
    data_port: int = 0

    def measure(self, request: pb.LinkRequest) -> pb.LinkReport:
        """Round trips to the peer, with `bulk_seconds` the bandwidth, too; `failure` where it cannot be reached."""
        peer, seconds = request.peer, min(request.bulk_seconds, MOST_BULK_SECONDS)
        try:
            if not peer.data_port:
                return probe_over_grpc(peer, self.token, self.link_shape(peer.node), seconds > 0)
            if not seconds:
                return self._trips(peer)
            return self._loaded(peer, seconds) if request.trips_meanwhile else self._bulk(peer, seconds)
        except (Notice, FrameError, LinkError, EOFError) as error:
            return pb.LinkReport(failure=str(error))
        except OSError as error:
            return pb.LinkReport(failure=error.strerror or str(error))
        except grpc.RpcError as error:
            return pb.LinkReport(failure=_status(error))

    def _trips(self, peer: pb.Peer) -> pb.LinkReport:
        own = pb.Peer(node=self.name, address=self.address, data_port=self.data_port)
        with self._open(peer) as there, self._open(own) as here:
            trips = list(_both(there, here))
        far, near = (statistics.median(column) for column in zip(*trips, strict=True))
        return pb.LinkReport(round_trip=max(0.0, far - near), trip_bytes=TRIP_BYTES)

    def _bulk(self, peer: pb.Peer, seconds: float) -> pb.LinkReport:
        with self._open(peer) as line:
            return pb.LinkReport(bandwidth=_Bulk(line, seconds).rate())

    def _loaded(self, peer: pb.Peer, seconds: float) -> pb.LinkReport:
        with self._open(peer) as trips, self._open(peer) as line:
            bulk = _Bulk(line, seconds)
            trip = statistics.median(_while_sending(trips, bulk))
            return pb.LinkReport(bandwidth=bulk.rate(), round_trip=trip, trip_bytes=TRIP_BYTES)

    @contextlib.contextmanager
    def _open(self, peer: pb.Peer) -> Iterator[_Line]:
        shape = self.link_shape(peer.node) if peer.node != self.name else Shape()
        target = LinkTarget(self.name, peer.node, peer.address, self.token, 0, "probe", shape, peer.data_port)
        with dial(target.address, target.data_port, target.tls) as sock:
            greet(sock, target.head, target.token)
            sock.settimeout(_ANSWER_SECONDS)
            line = _Line(sock, Outbox(shape))
            line.outbox.open(sock)
            try:
                yield line
            finally:
                line.hang_up()


@dataclass(frozen=True, slots=True)
class _Line:
    """An open stream of role probe."""

    sock: Socket
    outbox: Outbox

    def trip(self) -> float:
        """Seconds of a round trip."""
        begun = time.perf_counter()
        self.outbox.post(pack_message(Ask("trip")), NOISE[:TRIP_BYTES], _ANSWER_SECONDS)
        read_message(self.sock, MOST_BYTES)
        return time.perf_counter() - begun

    def hang_up(self) -> None:
        """End it with all that is not sent yet."""
        self.outbox.end("is over")
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.outbox.join(_ANSWER_SECONDS)


class _Bulk:
    """Sends from a thread until the other end has seen enough, which another thread waits for."""

    def __init__(self, line: _Line, seconds: float) -> None:
        self._line, self._ask = line, pack_message(Ask("bulk", seconds))
        self._line.sock.settimeout(seconds + _BULK_GRACE_SECONDS)
        self._rate, self._failure = 0.0, ""
        self.over = threading.Event()
        threading.Thread(target=self._send, name="bulk", daemon=True).start()
        threading.Thread(target=self._wait, name="bulk-report", daemon=True).start()

    def rate(self) -> float:
        """Bytes per second.

        Raises:
            LinkError: the other end did not say.
        """
        self.over.wait()
        if self._failure:
            raise LinkError(self._failure)
        return self._rate

    def _send(self) -> None:
        number = 0
        with contextlib.suppress(LinkError):
            while not self.over.is_set():
                self._line.outbox.post(self._ask, NOISE[: bulk_size(number)], _BULK_GRACE_SECONDS)
                number += 1

    def _wait(self) -> None:
        try:
            self._rate = read_report(read_message(self._line.sock, MOST_BYTES)[0]).rate
        except (Notice, FrameError, EOFError, OSError) as error:
            self._failure = str(error)
        finally:
            self.over.set()


def _both(there: _Line, here: _Line) -> Iterator[tuple[float, float]]:
    """Round trips to the peer and to ourselves in turn; the first, on which threads start, does not count."""
    there.trip(), here.trip()
    until = time.monotonic() + _TRIPS_SECONDS
    for number in range(_MOST):
        if number >= _LEAST and time.monotonic() > until:
            return
        time.sleep(_PAUSE_SECONDS)
        far = there.trip()
        time.sleep(_PAUSE_SECONDS)
        yield far, here.trip()


def _while_sending(line: _Line, bulk: _Bulk) -> list[float]:
    """Round trips; the first, when no queue has formed yet, counts only where there is no other."""
    trips = [line.trip()]
    while not bulk.over.wait(max(_LOADED_PAUSE_SECONDS, _LOADED_PAUSE_TRIPS * trips[-1])):
        trips.append(line.trip())
    return trips[1:] or trips


def _status(error: grpc.RpcError) -> str:
    return error.code().name.lower().replace("_", " ") if isinstance(error, grpc.Call) else "no answer"
