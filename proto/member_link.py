"""The link between two members of a group: numbered messages over one socket, both ways, in the thread that computes.

A sum stands between two products, so nobody has anything else to do: the computing thread sends and receives itself.
Waking a reader thread would cost as much as the whole sum (bench/all_reduce.py). Every message is a header of 32 bytes
(mark, number, size, checksum, arrival) and raw bytes of a size that the receiver knows beforehand.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable
from enum import IntEnum

from potluck.proto.connection import Socket
from potluck.proto.link import LinkCounts, Tally
from potluck.proto.shaper import Clock, DelayLine, Shape, WallClock
from potluck.proto.socket_calls import CALLS, SUM_ADDRESS, Buffer, calls_on

_HEADER = struct.Struct("<4sQIQd")
_SIZE = _HEADER.size
_MARK = b"PLSU"
PATIENCE_MS = 1000
# Seconds without a byte in the middle of a header, and of what follows: whoever computes the next piece of a sum
# meanwhile (worker/overlap.py) may have left the rest of a large message for later.
_HEADER_SECONDS, _BODY_SECONDS = 2, 15
# Waking a processor that sleeps takes 20 to 50 us on the machines at hand, as long as members are apart who compute
# equal parts: whoever waited no longer than this the last time does not go to sleep before.
_SPIN_US = 150
_WALL = WallClock()


class Trouble(IntEnum):
    """What the extension met in the middle of a sum (`csrc/direct_sum.cpp`)."""

    SILENT = 0
    ENDED = 1
    FAILED = 2
    FOREIGN = 3
    DAMAGED = 4


class MemberError(Exception):
    """A member of the group is gone, silent, or sends what no member would; `node` says which.

    `ended`: its link ended, which may be because it met the fault of a third member.
    """

    def __init__(self, node: str, reason: str, ended: bool = False) -> None:
        super().__init__(f"node {node!r} {reason}")
        self.node, self.ended = node, ended


class MemberLink:
    """A socket to one other member. Called from one thread, but for `close`."""

    def __init__(self, node: str, sock: Socket, shape: Shape, doubt: Callable[[], None], clock: Clock = _WALL) -> None:
        """`doubt` is called whenever nothing came for a second, and raises MemberError if the other member is gone.

        An emulated link (`shape`) holds a message back at the receiver until it would have arrived; all emulated nodes
        are on one machine and read the same clock. `clock` is that of the node that computes what is sent.
        """
        sock.setblocking(False)
        self.node, self.doubt, self.clock = node, doubt, clock
        self.closed = threading.Event()
        self._calls = calls_on(sock)
        self._socket, self._line, self._shaped = sock, DelayLine(shape), not shape.is_off
        self._tally = Tally()
        self._sent_head, self._sent_body, self._sent, self._out = bytearray(_SIZE), memoryview(b""), 0, _SIZE
        self._head, self._body, self._received, self._in = bytearray(_SIZE), memoryview(b""), 0, _SIZE
        self._spin = self._stalled = 0
        self._lent, self._lent_number = -1, 0

    @property
    def counts(self) -> LinkCounts:
        """What was sent so far."""
        return self._tally.counts

    @property
    def sending(self) -> bool:
        """Whether a message is not handed over yet."""
        return self._out < _SIZE + len(self._sent_body)

    @property
    def receiving(self) -> bool:
        """Whether a message is awaited."""
        return self._in < _SIZE + len(self._body)

    @property
    def due(self) -> float:
        """When the last message has arrived over the emulated link, as time.monotonic; 0 over a real one."""
        due: float = _HEADER.unpack(self._head)[4]
        return due

    def fileno(self) -> int:
        """The socket's, for poll.

        Raises:
            MemberError: the link was closed.
        """
        if (number := self._socket.fileno()) < 0:
            raise self._broken("the link was closed")
        return number

    def start(self, payload: Buffer) -> None:
        """Begin to send a message; it must not change before `sending` is over."""
        body = memoryview(payload)
        self._sent += 1
        due = self._line.due(_SIZE + len(body), self.clock.now()) if self._shaped else 0.0
        _HEADER.pack_into(self._sent_head, 0, _MARK, self._sent, len(body), CALLS.checksum(body), due)
        self._tally.sent(len(body), _SIZE)
        self._sent_body, self._out = body, 0
        self.push()

    def push(self) -> None:
        """Send what the kernel takes."""
        try:
            self._out = self._calls.send(self.fileno(), self._sent_head, self._sent_body, self._out, 0)
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from None

    def expect(self, into: memoryview) -> None:
        """The next message goes here, and fills it."""
        self._body, self._in, self._stalled = into, 0, 0

    def pull(self, patience_ms: int = 0) -> bool:
        """Receive what is there, and wait for more as long as something comes; whether anything came.

        Raises:
            MemberError: the link ended, or what came is not the message that is due.
        """
        had, begun = self._in, time.perf_counter()
        try:
            self._in = self._calls.receive(self.fileno(), self._head, self._body, had, (patience_ms, self._spin))
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from None
        if self._in < 0:
            raise self._broken("it ended the link")
        if patience_ms:
            self._spin = _SPIN_US if time.perf_counter() - begun < 2e-6 * _SPIN_US else 0
        if had < _SIZE <= self._in:
            self._check_header()
        if self._in == _SIZE + len(self._body) and CALLS.checksum(self._body) != _HEADER.unpack(self._head)[3]:
            raise self._damaged()
        return self._in > had

    def suspect(self) -> None:
        """Nothing came for a second. Who has not begun to send may be slow; who has will go on soon.

        Raises:
            MemberError: the member is gone, or has stopped in the middle of a message.
        """
        self.doubt()
        self._stalled += self._in > 0
        if self._stalled >= (_HEADER_SECONDS if self._in < _SIZE else _BODY_SECONDS):
            raise MemberError(self.node, "stopped in the middle of a part of a sum")

    def _check_header(self) -> None:
        mark, number, size, _, _ = _HEADER.unpack(self._head)
        self._received += 1
        if (mark, number, size) != (_MARK, self._received, len(self._body)):
            raise self._foreign()

    @property
    def can_be_lent(self) -> bool:
        """Whether the extension may form sums over it: a bare socket, and nothing that holds messages back."""
        return SUM_ADDRESS != 0 and self._calls is CALLS and not self._shaped

    def lend(self) -> tuple[int, int, int]:
        """For the extension: a descriptor, how many messages were sent, how many received.

        Whoever closes the link meanwhile ends what goes over the descriptor; its number is not another's before the
        link is gone.

        Raises:
            MemberError: the link was closed.
        """
        if self._lent < 0:
            self._lent = os.dup(self.fileno())
            # Not at exit: a thread may still compute with it then.
            weakref.finalize(self, os.close, self._lent).atexit = False
        return self._lent, self._sent, self._received

    def take_back(self, sent: int, received: int, nbytes: int) -> None:
        """The extension sent and received so many messages, counted from the beginning, of so many bytes each."""
        self._tally.sent(nbytes, _SIZE, frames=sent - self._sent)
        self._sent, self._received = sent, received

    def met(self, what: Trouble, error: int, had: int, number: int) -> None:
        """What the extension met while message `number` had come so far; returns where it is to wait on.

        Raises:
            MemberError: it is not.
        """
        match what:
            case Trouble.SILENT:
                if number != self._lent_number:
                    self._stalled = 0
                self._lent_number, self._in = number, had
                self.suspect()
            case Trouble.ENDED:
                raise self._broken("it ended the link")
            case Trouble.FAILED:
                raise self._broken(os.strerror(error))
            case Trouble.FOREIGN:
                raise self._foreign()
            case Trouble.DAMAGED:
                raise self._damaged()

    def _foreign(self) -> MemberError:
        return MemberError(self.node, "sent something else than the part of a sum that was due")

    def _damaged(self) -> MemberError:
        return MemberError(self.node, "sent a part of a sum that does not match its checksum")

    def _broken(self, reason: str) -> MemberError:
        return MemberError(self.node, f"is lost in the middle of a sum ({reason})", ended=True)

    def waited(self, seconds: float) -> None:
        """So long did this member wait for messages to pass."""
        self._tally.transferred(seconds)

    def close(self) -> None:
        """End the link; whoever waits for it is told."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.closed.set()
