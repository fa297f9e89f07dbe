"""Sending and receiving a message's head and body on a socket that does not block: in C++, or in Python where an
installation has no compiler. The same functions, two to three times slower."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Protocol

import numpy as np

from potluck.proto.connection import Buffer, Socket
from potluck.proto.tls_socket import TlsSocket

try:
    from potluck.proto import _link as _loaded  # type: ignore[attr-defined]
except ImportError:
    _loaded = None

__all__ = ["CALLS", "PYTHON", "Buffer", "PythonCalls", "SocketCalls", "calls_on"]


class SocketCalls(Protocol):
    """What `MemberLink` needs of the kernel."""

    def checksum(self, data: Buffer) -> int:
        """The sum of its 64-bit words, the last one filled up with zeros, modulo 2 ** 64."""

    def send(self, fd: int, head: Buffer, body: Buffer, done: int, timeout_ms: int) -> int:
        """How many bytes of head and body the kernel has after this, of which it had `done`; raises OSError."""

    def receive(self, fd: int, head: Buffer, body: Buffer, done: int, wait: tuple[int, int]) -> int:
        """How many bytes of head and body have come; -1 where the other end has ended the stream. Raises OSError.

        `wait`: milliseconds for which it waits whenever nothing comes; microseconds that it looks before it sleeps.
        """


class PythonCalls:
    """In plain Python."""

    def checksum(self, data: Buffer) -> int:
        """See `SocketCalls`."""
        words = np.frombuffer(data, np.uint64, len(data) // 8)
        last = int.from_bytes(memoryview(data)[8 * len(words) :], "little")
        return (int(words.sum(dtype=np.uint64)) + last) % (1 << 64)

    def send(self, fd: int, head: Buffer, body: Buffer, done: int, timeout_ms: int) -> int:
        """See `SocketCalls`."""
        with _borrowed(fd) as sock:
            return _moved(sock.sendmsg, (head, body), done, partial(_waits, fd, select.POLLOUT, timeout_ms))

    def receive(self, fd: int, head: Buffer, body: Buffer, done: int, wait: tuple[int, int]) -> int:
        """See `SocketCalls`; never spins."""
        with _borrowed(fd) as sock:
            read = sock.recvmsg_into
            return _moved(
                lambda pieces: read(pieces)[0], (head, body), done, partial(_waits, fd, select.POLLIN, wait[0])
            )


class TlsCalls(PythonCalls):
    """Over TLS, which has no part of it in a descriptor: the connection's own calls. One per connection."""

    def __init__(self, sock: TlsSocket) -> None:
        self._socket = sock

    def send(self, fd: int, head: Buffer, body: Buffer, done: int, timeout_ms: int) -> int:
        """See `SocketCalls`."""
        send = self._socket.send_now
        return _moved(
            lambda pieces: send(pieces[0]), (head, body), done, partial(_waits, fd, select.POLLOUT, timeout_ms)
        )

    def receive(self, fd: int, head: Buffer, body: Buffer, done: int, wait: tuple[int, int]) -> int:
        """See `SocketCalls`; never spins."""
        read = self._socket.receive_now
        return _moved(lambda pieces: read(pieces[0]), (head, body), done, partial(_waits, fd, select.POLLIN, wait[0]))


class _borrowed:
    """A socket object over a descriptor that stays open."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.detach()


def _moved(
    call: Callable[[list[memoryview]], int], message: tuple[Buffer, Buffer], done: int, comes_free: Callable[[], bool]
) -> int:
    """How many bytes of head and body have been moved by the calls; -1 where the other end has ended the stream."""
    while pieces := _rest(*message, done):
        try:
            count = call(pieces)
        except (BlockingIOError, InterruptedError):
            if not comes_free():
                break
            continue
        if not count:
            return -1
        done += count
    return done


def _rest(head: Buffer, body: Buffer, done: int) -> list[memoryview]:
    pieces = [memoryview(head)[done:], memoryview(body)[max(0, done - len(head)) :]]
    return [piece for piece in pieces if len(piece)]


def _waits(fd: int, event: int, timeout_ms: int) -> bool:
    """Whether something happened within the time."""
    if not timeout_ms:
        return False
    poller = select.poll()
    poller.register(fd, event)
    return bool(poller.poll(timeout_ms))


PYTHON: SocketCalls = PythonCalls()
_VERSION = 1  # as in csrc/link.cpp; one more whenever its functions or the integers of csrc/direct_sum.hpp change
_module: ModuleType | None = _loaded if getattr(_loaded, "VERSION", 0) == _VERSION else None
CALLS: SocketCalls = PYTHON if _module is None else _module


SUM_ADDRESS: int = 0 if _module is None else _module.sum_address()
"""Where the extension's `direct_sum` is; 0 where there is none."""


def calls_on(sock: Socket) -> SocketCalls:
    """The calls for messages over a connection."""
    return TlsCalls(sock) if isinstance(sock, TlsSocket) else CALLS
