"""The way back to a coordinator: results and faults, shaped like the link to its node."""

from __future__ import annotations

import contextlib
import queue
import time
from typing import Protocol

import grpc

from potluck.proto import cluster_pb2 as pb
from potluck.proto.errors import FrameError
from potluck.proto.frames import Frame, pack_frame
from potluck.proto.link import LinkCounts, LinkError, Tally
from potluck.proto.outbox import Outbox
from potluck.proto.shaper import DelayLine, Shape
from potluck.proto.tcp import notice

_SEND_SECONDS = 1.0  # a coordinator that takes no answers for so long is lost


class Answers(Protocol):
    """One open stream's way back."""

    @property
    def counts(self) -> LinkCounts:
        """What was sent so far."""

    def put(self, frame: Frame) -> None:
        """Send or queue an answer."""

    def end(self, error: FrameError | None = None) -> None:
        """No more answers: the stream is over, or broken by what the coordinator sent."""


class GrpcAnswers:
    """Queued for the handler of a Forward stream."""

    def __init__(self, shape: Shape) -> None:
        self._line, self._tally = DelayLine(shape), Tally()
        self._queue: queue.SimpleQueue[tuple[float, pb.Frame] | FrameError | None] = queue.SimpleQueue()

    @property
    def counts(self) -> LinkCounts:
        """See `Answers`."""
        return self._tally.counts

    def put(self, frame: Frame) -> None:
        """See `Answers`."""
        for message in pack_frame(frame):
            header, payload = len(message.header), len(message.payload)
            self._tally.sent(payload, header)
            self._queue.put((self._line.due(header + payload, time.monotonic()), message))

    def end(self, error: FrameError | None = None) -> None:
        """See `Answers`."""
        self._queue.put(error)

    def get(self) -> tuple[float, pb.Frame] | FrameError | None:
        """The next answer and when it is due."""
        return self._queue.get()


class TcpAnswers:
    """Sent through the socket that the coordinator opened."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    @property
    def counts(self) -> LinkCounts:
        """See `Answers`."""
        return self._outbox.tally.counts

    def put(self, frame: Frame) -> None:
        """See `Answers`. Whoever reads a stream that takes no more will find out; the others are not concerned."""
        with contextlib.suppress(LinkError):
            self._outbox.send(frame, _SEND_SECONDS)

    def end(self, error: FrameError | None = None) -> None:
        """See `Answers`."""
        if error is None:
            self._outbox.end("is over", notice(grpc.StatusCode.OK, "the stream is over"))
        else:
            self._outbox.end("is over", notice(error.status, error.reason))
