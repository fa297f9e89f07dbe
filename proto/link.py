"""A link: the way of frames from this process to a worker, and of a worker's answers back. What is common to its kinds.

`grpc_link` carries them on a Forward stream; `tcp_link` on a socket of their own, several times faster (bench/hop.py).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from potluck.proto.frames import Frame
from potluck.proto.shaper import Shape
from potluck.proto.stream import StreamHead, StreamRole
from potluck.proto.tls import Tls

# Parts of up to 1 MiB. The coordinator keeps fewer steps in flight, so that a full queue means a slow link.
CAPACITY = 64


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """Where a link leads, and as whom: `source` and `node` are the two nodes' names.

    `data_port` is where the worker takes frames over plain TCP, on the host of `address`; 0: only over gRPC.
    `agreement` as in StreamHead. `tls`: what to show there, and whom to believe; None without TLS.
    """

    source: str
    node: str
    address: str
    token: str
    epoch: int
    role: StreamRole = "worker"
    shape: Shape = field(default_factory=Shape)
    data_port: int = 0
    agreement: str = ""
    tls: Tls | None = None

    @property
    def head(self) -> StreamHead:
        """What the worker is told when the stream opens."""
        return StreamHead(self.source, self.role, self.epoch, self.agreement)


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


class Tally:
    """Counts that several threads add to. Plain numbers: adding up records took a tenth of a small hop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames = self._payload = self._header = 0
        self._transfer = self._blocked = 0.0

    @property
    def counts(self) -> LinkCounts:
        """The sum so far."""
        with self._lock:
            return LinkCounts(self._frames, self._payload, self._header, self._transfer, self._blocked)

    def sent(self, payload: int, header: int, blocked: float = 0.0, frames: int = 1) -> None:
        """Frames of so many bytes each were handed over; their sender was held up for so many seconds."""
        with self._lock:
            self._frames += frames
            self._payload += frames * payload
            self._header += frames * header
            self._blocked += blocked

    def transferred(self, seconds: float) -> None:
        """A frame was on the wire, or held back for an emulated one."""
        with self._lock:
            self._transfer += seconds


class LinkError(Exception):
    """A frame could not be handed over: the link is broken, closed or full."""


OnFrame = Callable[[Frame], None]
OnBroken = Callable[[str, grpc.StatusCode, str], None]


class Link(ABC):
    """An open way to a worker. `send` may be called from any thread; callbacks come from the reader thread."""

    target: LinkTarget

    @property
    @abstractmethod
    def counts(self) -> LinkCounts:
        """What went over the link so far."""

    @abstractmethod
    def send(self, frame: Frame, timeout: float) -> None:
        """Send a frame or queue it; waits while the queue is full.

        Raises:
            LinkError: the link is broken or closed, or the queue stayed full for `timeout` seconds.
        """

    @abstractmethod
    def close(self, grace: float = 0.5) -> None:
        """Send what is queued, for `grace` seconds at most, and end. Safe to call twice, from any thread."""
