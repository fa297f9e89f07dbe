"""A link over a Forward stream: a bounded queue, gRPC's sender thread, one reader."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import grpc

from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import open_channel, worker_stub
from potluck.proto.errors import FrameError
from potluck.proto.frames import Frame, pack_frame, unpack_frame
from potluck.proto.link import CAPACITY, Link, LinkCounts, LinkError, LinkTarget, OnBroken, OnFrame, Tally
from potluck.proto.shaper import DelayLine, sleep_precisely, wait_until

_LOOK_SECONDS = 0.1  # how often a sender held up by a full queue looks whether the link still stands


class _Queued(NamedTuple):
    due: float
    message: pb.Frame


class GrpcLink(Link):
    """An open Forward stream; see `Link`."""

    def __init__(self, target: LinkTarget, on_frame: OnFrame, on_broken: OnBroken) -> None:
        """Open the stream at once; a peer that cannot be reached is reported through `on_broken`.

        Args:
            on_frame: gets what the worker answers (results and faults; nothing on a link between workers).
            on_broken: gets the peer's name, the gRPC status and one line, once, and never after `close`.
        """
        self.target = target
        self._on_frame, self._on_broken = on_frame, on_broken
        self._queue: queue.SimpleQueue[_Queued | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(CAPACITY)
        self._line = DelayLine(target.shape)
        self._sending = threading.Lock()
        self._tally = Tally()
        self._closed = threading.Event()
        self._failure = ""
        self._channel = open_channel(target.address, target.token)
        self._call = worker_stub(self._channel).Forward(self._outgoing(), metadata=target.head.metadata())
        self._reader = threading.Thread(target=self._read, name=f"link-{target.node}", daemon=True)
        self._reader.start()

    @property
    def counts(self) -> LinkCounts:
        return self._tally.counts

    def send(self, frame: Frame, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with self._sending:
            for message in pack_frame(frame):
                self._put(message, deadline)

    def _put(self, message: pb.Frame, deadline: float) -> None:
        header, payload = len(message.header), len(message.payload)
        begun = time.monotonic()
        item = _Queued(self._line.due(header + payload, begun), message)
        while not self._offer(item):
            if time.monotonic() >= deadline:
                raise LinkError(f"node {self.target.node!r} took no frame for {time.monotonic() - begun:.1f} s")
        self._tally.sent(payload, header, time.monotonic() - begun)

    def _offer(self, item: _Queued) -> bool:
        self._refuse_if_over()
        if not self._room.acquire(timeout=_LOOK_SECONDS):
            return False
        self._queue.put(item)
        return True

    def _refuse_if_over(self) -> None:
        if self._failure or self._closed.is_set():
            raise LinkError(f"the link to node {self.target.node!r} is {self._failure or 'closed'}")

    def close(self, grace: float = 0.5) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._queue.put(None)
        if threading.current_thread() is not self._reader:
            self._reader.join(grace)
        self._call.cancel()
        self._channel.close()

    def _outgoing(self) -> Iterator[pb.Frame]:
        """What gRPC's sender thread iterates over; it asks for the next message when this one has gone out."""
        if not self.target.shape.is_off:
            sleep_precisely()
        while (item := self._queue.get()) is not None:
            self._room.release()
            begun = time.monotonic()
            wait_until(item.due)
            yield item.message
            self._tally.transferred(time.monotonic() - begun)

    def _read(self) -> None:
        try:
            for message in self._call:
                self._on_frame(unpack_frame(message))
            self._break(grpc.StatusCode.UNAVAILABLE, "the peer ended the stream")
        except grpc.RpcError:
            self._break(self._call.code(), self._call.details() or "no detail")
        except FrameError as error:
            self._call.cancel()
            self._break(error.status, error.reason)

    def _break(self, status: grpc.StatusCode, detail: str) -> None:
        if self._closed.is_set():
            return
        self._failure = f"broken ({status.name}: {detail})"
        # gRPC's sender ends with the next item it takes, or with this one.
        self._queue.put(None)
        self._on_broken(self.target.node, status, detail)
