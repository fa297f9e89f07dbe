"""The link between two members of a group: numbered messages over one socket, both ways, in the thread that computes.

A sum stands between two products, so nobody has anything else to do: the computing thread sends and receives itself.
Waking a reader thread would cost as much as the whole sum (bench/tensor_parallel.py). Every message is a header of 32
bytes (mark, number, size, checksum, arrival) and raw bytes of a size that the receiver knows beforehand.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from potluck.proto.link import LinkCounts, Tally
from potluck.proto.shaper import DelayLine, Shape, wait_until

_HEADER = struct.Struct("<4sQIIxxxxd")
_MARK = b"PLSU"
_PATIENCE_MS = 1000
Buffer = bytes | bytearray | memoryview


class MemberError(Exception):
    """A member of the group is gone, silent, or sends what no member would; `node` says which.

    `ended`: its link ended, which may be because it met the fault of a third member.
    """

    def __init__(self, node: str, reason: str, ended: bool = False) -> None:
        super().__init__(f"node {node!r} {reason}")
        self.node, self.ended = node, ended


class MemberLink:
    """A socket to one other member. Called from one thread, but for `close`."""

    def __init__(self, node: str, sock: socket.socket, shape: Shape, doubt: Callable[[], None]) -> None:
        """`doubt` is called whenever nothing came for a second, and raises MemberError if the other member is gone.

        An emulated link (`shape`) holds a message back at the receiver until it would have arrived; all emulated nodes
        are on one machine and read the same clock.
        """
        sock.setblocking(False)
        self.node, self.doubt = node, doubt
        self.closed = threading.Event()
        self._socket, self._line, self._shaped = sock, DelayLine(shape), not shape.is_off
        self._tally = Tally()
        self._sent = self._received = 0
        self._out: list[memoryview] = []
        self._head, self._got = memoryview(bytearray(_HEADER.size)), 0
        self._into = memoryview(b"")
        self._crc = 0
        self.due = 0.0

    @property
    def counts(self) -> LinkCounts:
        """What was sent so far."""
        return self._tally.counts

    @property
    def sending(self) -> bool:
        """Whether a message is not handed over yet."""
        return bool(self._out)

    @property
    def receiving(self) -> bool:
        """Whether a message is awaited."""
        return self._got < _HEADER.size + len(self._into)

    def fileno(self) -> int:
        """The socket's, for poll."""
        return self._socket.fileno()

    def start(self, payload: Buffer) -> None:
        """Begin to send a message; it must not change before `sending` is over."""
        view = memoryview(payload)
        self._sent += 1
        due = self._line.due(_HEADER.size + len(view), time.monotonic()) if self._shaped else 0.0
        header = _HEADER.pack(_MARK, self._sent, len(view), zlib.crc32(view), due)
        self._tally.sent(len(view), len(header))
        self._out = [memoryview(header), view]
        self.push()

    def push(self) -> None:
        """Send what the kernel takes."""
        try:
            sent = self._socket.sendmsg(self._out)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from None
        while self._out and sent >= len(self._out[0]):
            sent -= len(self._out.pop(0))
        if self._out:
            self._out[0] = self._out[0][sent:]

    def expect(self, into: memoryview) -> None:
        """The next message goes here, and fills it."""
        self._into, self._got = into, 0

    def pull(self) -> None:
        """Receive what is there.

        Raises:
            MemberError: the link ended, or what came is not the message that is due.
        """
        had, size = self._got, _HEADER.size
        rest = [self._head[had:], self._into] if had < size else [self._into[had - size :]]
        try:
            count = self._socket.recvmsg_into(rest)[0]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from None
        if not count:
            raise self._broken("it ended the link")
        self._got += count
        if had < size <= self._got:
            self._check_header()
        if self._got == size + len(self._into) and zlib.crc32(self._into) != self._crc:
            raise MemberError(self.node, "sent a part of a sum that does not match its checksum")

    def _check_header(self) -> None:
        mark, number, size, self._crc, self.due = _HEADER.unpack(self._head)
        self._received += 1
        if (mark, number, size) != (_MARK, self._received, len(self._into)):
            raise MemberError(self.node, "sent something else than the part of a sum that was due")

    def _broken(self, reason: str) -> MemberError:
        return MemberError(self.node, f"is lost in the middle of a sum ({reason})", ended=True)

    def waited(self, seconds: float) -> None:
        """So long did this member wait for messages to pass."""
        self._tally.transferred(seconds)

    def close(self) -> None:
        """End the link; whoever waits for it is told."""
        self.closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Outgoing(NamedTuple):
    """A message to send."""

    link: MemberLink
    payload: Buffer


class Incoming(NamedTuple):
    """A message to receive."""

    link: MemberLink
    into: memoryview


def exchange(outgoing: Sequence[Outgoing], incoming: Sequence[Incoming]) -> None:
    """Send and receive together, so that two members whose messages fill both sockets do not wait for each other.

    Raises:
        MemberError: one of them is gone, or sent something else.
    """
    begun = time.perf_counter()
    for link, into in incoming:
        link.expect(into)
    for link, payload in outgoing:
        link.start(payload)
    sends, receives = [out.link for out in outgoing], [into.link for into in incoming]
    while waiting := _waiting(sends, receives):
        _step(waiting)
    if receives and (due := max(link.due for link in receives)):
        wait_until(due)
    if receives:
        receives[0].waited(time.perf_counter() - begun)


def _waiting(sends: Sequence[MemberLink], receives: Sequence[MemberLink]) -> dict[MemberLink, int]:
    events = {link: select.POLLIN for link in receives if link.receiving}
    for link in sends:
        if link.sending:
            events[link] = events.get(link, 0) | select.POLLOUT
    return events


def _step(events: dict[MemberLink, int]) -> None:
    poller, links = select.poll(), {}
    for link, event in events.items():
        if (number := link.fileno()) < 0:
            raise MemberError(link.node, "is lost in the middle of a sum (the link was closed)", ended=True)
        poller.register(number, event)
        links[number] = link
    ready = poller.poll(_PATIENCE_MS)
    for link in () if ready else events:
        link.doubt()
    for number, event in ready:
        if event & (select.POLLIN | select.POLLHUP | select.POLLERR):
            links[number].pull() if links[number].receiving else links[number].push()
        if event & select.POLLOUT:
            links[number].push()
