"""The side of a link's measurement that answers: bytes back at once, or the rate at which a bulk arrives."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import threading
import time
from collections.abc import Iterator, Sequence

from potluck.proto.connection import Socket
from potluck.proto.echo import MOST_BYTES, Ask, Report, pack_message, read_ask
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.outbox import Outbox
from potluck.proto.shaper import Shape
from potluck.proto.tcp import read_message

_IDLE_SECONDS = 3.0
_MOST_SECONDS = 10.0
_GRACE_SECONDS = 3.0  # beyond what was asked for, for the few messages without which there is no rate
_LEAST = 4
_UNSTEADY = 0.4  # of the time: TCP's slow start, and what a rate limiter lets through at first
_AT_ONCE = 8
Mark = tuple[float, int]


class Echo:
    """Answers whoever measures the link to this node; a few at a time, each for seconds at most."""

    def __init__(self) -> None:
        self._room = threading.Semaphore(_AT_ONCE)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """One of the few at a time.

        Raises:
            FrameError: there are as many already.
        """
        if not self._room.acquire(blocking=False):
            raise FrameError("too many links to this node are measured at once; try again", Refusal.OVERSIZED)
        try:
            yield
        finally:
            self._room.release()

    def serve(self, sock: Socket, shape: Shape) -> None:
        """Answer until the opener hangs up; `shape` is that of the link back to it.

        Raises:
            FrameError: it sends anything else than asks.
            Notice, EOFError, OSError: it is gone, or does not read.
        """
        sock.settimeout(_IDLE_SECONDS)
        outbox, until = Outbox(shape), time.monotonic() + _MOST_SECONDS
        outbox.open(sock)
        try:
            while time.monotonic() < until and _answer(sock, outbox).kind == "trip":
                pass
        finally:
            outbox.end("is over")
            outbox.join(_IDLE_SECONDS)


def _answer(sock: Socket, outbox: Outbox) -> Ask:
    header, payload = read_message(sock, MOST_BYTES)
    ask = read_ask(header)
    if ask.kind == "trip":
        outbox.post(header, payload, _IDLE_SECONDS)
    else:
        outbox.post(pack_message(Report(steady_rate(_arrivals(sock, ask.seconds)))), b"", _IDLE_SECONDS)
    return ask


def _arrivals(sock: Socket, seconds: float) -> list[Mark]:
    """When each message was there, and its bytes; the first one just came."""
    marks: list[Mark] = [(time.monotonic(), 0)]
    begun = marks[0][0]
    while len(marks) < _LEAST or marks[-1][0] < begun + seconds:
        _, payload = read_message(sock, MOST_BYTES)
        marks.append((time.monotonic(), len(payload)))
        if marks[-1][0] > begun + seconds + _GRACE_SECONDS:
            break
    return marks


def steady_rate(marks: Sequence[Mark]) -> float:
    """Bytes per second of a bulk's later part. A mark is when a message was there, and its bytes.

    The median over pairs of messages that are half of that part apart (Theil and Sen's estimator, short): a pause of
    either machine makes some messages late, not most.
    """
    begun, ended = marks[0][0], marks[-1][0]
    late = sum(at < begun + _UNSTEADY * (ended - begun) for at, _ in marks)
    steady = marks[min(late, len(marks) - 2) :]
    arrived = list(itertools.accumulate(size for _, size in steady))
    half = len(steady) // 2
    return statistics.median(
        (arrived[at + half] - arrived[at]) / max(1e-9, steady[at + half][0] - steady[at][0])
        for at in range(len(steady) - half)
    )
