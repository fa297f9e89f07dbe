"""What frames and sums travel over: a plain socket, or TLS over one (`tls_socket`)."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

Buffer = bytes | bytearray | memoryview
Ancillary = tuple[int, int, Buffer]


class Socket(Protocol):
    """What frames and sums need of a connection: a plain socket has it, and `TlsSocket`."""

    def recv_into(self, buffer: bytearray | memoryview, /) -> int:
        """Receive what is there, waiting for the first byte; 0 at the end."""

    def recv(self, size: int, /) -> bytes:
        """As `recv_into`."""

    def sendall(self, data: Buffer, /) -> None:
        """Send everything."""

    def sendmsg(
        self, buffers: Sequence[Buffer], ancillary: Sequence[tuple[int, int, Buffer]] = ..., flags: int = ..., /
    ) -> int:
        """Send what goes without waiting, with MSG_DONTWAIT."""

    def settimeout(self, seconds: float | None, /) -> None:
        """How long calls may wait."""

    def setblocking(self, flag: bool, /) -> None:
        """Whether calls wait at all."""

    def shutdown(self, how: int, /) -> None:
        """End one direction or both, and wake whoever waits."""

    def close(self) -> None:
        """End it."""

    def fileno(self) -> int:
        """The descriptor; -1 after `close`."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
