"""A TLS connection as frames and sums want it, and what is said where there is no common ground."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self, TypeVar

from potluck.proto.connection import Buffer

T = TypeVar("T")


class TlsError(OSError):
    """No common ground for TLS; one line that says what the other end lacks."""


class TlsSocket:
    """A TLS connection that one thread may read while another writes, as they may a plain socket.

    OpenSSL takes one call at a time. So no call waits within: whoever has to, does so with the lock free.
    """

    def __init__(self, sock: ssl.SSLSocket, seconds: float | None = None) -> None:
        sock.setblocking(False)
        self._socket, self._seconds, self._lock = sock, seconds, threading.Lock()

    def receive_now(self, buffer: bytearray | memoryview) -> int:
        """Receive what is there; 0 at the end.

        Raises:
            BlockingIOError: nothing is.
            TlsError, OSError: the connection broke, or the other end refuses this one's certificate.
        """
        return self._now(partial(self._socket.recv_into, buffer))

    def send_now(self, data: Buffer) -> int:
        """Send what goes without waiting; errors as `receive_now`. What did not go must be offered again, unchanged."""
        return self._now(partial(self._socket.send, data))

    def recv_into(self, buffer: bytearray | memoryview, /) -> int:
        """See `Socket`."""
        return self._waiting(select.POLLIN, partial(self.receive_now, buffer))

    def recv(self, size: int, /) -> bytes:
        """See `Socket`."""
        data = bytearray(size)
        return bytes(data[: self.recv_into(data)])

    def sendall(self, data: Buffer, /) -> None:
        """See `Socket`."""
        view = memoryview(data)
        while view:
            view = view[self._waiting(select.POLLOUT, partial(self.send_now, view)) :]

    def sendmsg(
        self, buffers: Sequence[Buffer], ancillary: Sequence[tuple[int, int, Buffer]] = (), flags: int = 0, /
    ) -> int:
        """See `Socket`; never waits, whatever the flags."""
        sent = 0
        try:
            for buffer in buffers:
                view = memoryview(buffer)
                while view:
                    count = self.send_now(view)
                    view, sent = view[count:], sent + count
        except BlockingIOError:
            if not sent:
                raise
        return sent

    def settimeout(self, seconds: float | None, /) -> None:
        """See `Socket`."""
        self._seconds = seconds

    def setblocking(self, flag: bool, /) -> None:
        """See `Socket`."""
        self._seconds = None if flag else 0.0

    def shutdown(self, how: int, /) -> None:
        """See `Socket`."""
        # Not SSLSocket's own: it would hand out, as if they were plain, the bytes that are there still.
        socket.socket.shutdown(self._socket, how)

    def close(self) -> None:
        """See `Socket`."""
        with self._lock:
            self._socket.close()

    def fileno(self) -> int:
        """See `Socket`."""
        return self._socket.fileno()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    def _now(self, call: Callable[[], T]) -> T:
        try:
            with self._lock:
                return call()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        except ssl.SSLError as error:
            raise TlsError(refusal(error, "the connection broke")) from None

    def _waiting(self, event: int, call: Callable[[], T]) -> T:
        while True:
            try:
                return call()
            except BlockingIOError:
                poller = select.poll()
                poller.register(self._socket, event)
                if not poller.poll(None if self._seconds is None else 1000 * self._seconds):
                    raise TimeoutError("timed out") from None


_REFUSALS = (
    ("certificate required", "it refuses this node, which shows no certificate"),
    ("unknown ca", "it refuses this node, whose certificate is of another authority"),
    ("alert", "it refuses this node's certificate"),
    ("peer did not return", "it shows no certificate"),
    ("certificate verify failed", "its certificate is not of this fleet's authority, or not valid now"),
)


def refusal(error: ssl.SSLError, otherwise: str) -> str:
    """What the other end lacks, by what OpenSSL says of it; `otherwise` where certificates are not the reason."""
    reason = reason_of(error)
    told = next((told for word, told in _REFUSALS if word in reason), otherwise)
    return f"{told} ({reason})"


def reason_of(error: ssl.SSLError) -> str:
    """What OpenSSL says, in words."""
    return (error.reason or str(error)).lower().replace("_", " ")
