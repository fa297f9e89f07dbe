"""The outgoing side of a Forward stream: a bounded queue, one sender, one reader, and counts."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc

from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import open_channel, worker_stub
from potluck.proto.errors import FrameError
from potluck.proto.frames import Frame, pack_frame, unpack_frame
from potluck.proto.shaper import DelayLine, Shape, wait_until
from potluck.proto.stream import StreamHead, StreamRole

# Parts of up to 1 MiB. The coordinator keeps fewer steps in flight, so that a full queue means a slow link.
CAPACITY = 64
_LOOK_SECONDS = 0.1  # how often a sender held up by a full queue looks whether the link still stands


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """Where a link leads, and as whom: `source` and `node` are the two nodes' names."""

    source: str
    node: str
    address: str
    token: str
    epoch: int
    role: StreamRole = "worker"
    shape: Shape = field(default_factory=Shape)


@dataclass(frozen=True, slots=True)
class LinkCounts:
    """What went over a link: frames (parts count), bytes, seconds on the wire, seconds senders were held up."""

    frames: int = 0
    payload_bytes: int = 0
    header_bytes: int = 0
    transfer_seconds: float = 0.0
    blocked_seconds: float = 0.0

    def __add__(self, other: LinkCounts) -> LinkCounts:
        """Both together."""
        return LinkCounts(
            self.frames + other.frames,
            self.payload_bytes + other.payload_bytes,
            self.header_bytes + other.header_bytes,
            self.transfer_seconds + other.transfer_seconds,
            self.blocked_seconds + other.blocked_seconds,
        )


class LinkError(Exception):
    """A frame could not be handed over: the link is broken, closed or full."""


OnFrame = Callable[[Frame], None]
OnBroken = Callable[[str, grpc.StatusCode, str], None]


class _Queued(NamedTuple):
    due: float
    message: pb.Frame


class Link:
    """An open stream to a worker. `send` may be called from any thread; callbacks come from the reader thread."""

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
        self._counting = threading.Lock()
        self._counts = LinkCounts()
        self._closed = threading.Event()
        self._failure = ""
        self._channel = open_channel(target.address, target.token)
        head = StreamHead(target.source, target.role, target.epoch)
        self._call = worker_stub(self._channel).Forward(self._outgoing(), metadata=head.metadata())
        self._reader = threading.Thread(target=self._read, name=f"link-{target.node}", daemon=True)
        self._reader.start()

    @property
    def counts(self) -> LinkCounts:
        """What went over the link so far."""
        with self._counting:
            return self._counts

    def send(self, frame: Frame, timeout: float) -> None:
        """Queue a frame; waits while the queue is full.

        Raises:
            LinkError: the link is broken or closed, or the queue stayed full for `timeout` seconds.
        """
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
        self._count(LinkCounts(1, payload, header, blocked_seconds=time.monotonic() - begun))

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
        """Send what is queued, for `grace` seconds at most, and end the stream. Safe to call twice, from any thread."""
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
        while (item := self._queue.get()) is not None:
            self._room.release()
            begun = time.monotonic()
            wait_until(item.due)
            yield item.message
            self._count(LinkCounts(transfer_seconds=time.monotonic() - begun))

    def _count(self, more: LinkCounts) -> None:
        with self._counting:
            self._counts = self._counts + more

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
