"""A link over a TCP socket of its own. No thread hands a frame over on its way out, unless the way is blocked."""

from __future__ import annotations

import contextlib
import socket
import threading

import grpc

from potluck.proto.connection import Socket
from potluck.proto.errors import FrameError
from potluck.proto.frames import Frame, unpack_part
from potluck.proto.link import Link, LinkCounts, LinkError, LinkTarget, OnBroken, OnFrame
from potluck.proto.outbox import Outbox
from potluck.proto.tcp import Notice, dial, greet, read_message


class TcpLink(Link):
    """A socket to a worker's data port; see `Link`. It connects in its reader thread; frames queue meanwhile."""

    def __init__(self, target: LinkTarget, on_frame: OnFrame, on_broken: OnBroken) -> None:
        """See `open_link`."""
        self.target = target
        self._on_frame, self._on_broken = on_frame, on_broken
        self._outbox = Outbox(target.shape)
        self._socket: Socket | None = None
        self._closed = threading.Event()
        self._breaking = threading.Lock()
        self._broken = False
        self._reader = threading.Thread(target=self._work, name=f"link-{target.node}", daemon=True)
        self._reader.start()

    @property
    def counts(self) -> LinkCounts:
        """What went over the link so far."""
        return self._outbox.tally.counts

    def send(self, frame: Frame, timeout: float) -> None:
        """See `Link`."""
        try:
            self._outbox.send(frame, timeout)
        except LinkError as error:
            raise LinkError(f"the link to node {self.target.node!r} {error}") from None

    def close(self, grace: float = 0.5) -> None:
        """See `Link`."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._outbox.end("is closed")
        self._outbox.join(grace)
        if self._socket is not None:
            _end(self._socket)
        if threading.current_thread() is not self._reader:
            self._reader.join(grace)

    def _work(self) -> None:
        try:
            with dial(self.target.address, self.target.data_port, self.target.tls) as sock:
                self._socket = sock
                greet(sock, self.target.head, self.target.token)
                sock.settimeout(None)
                self._outbox.open(sock)
                while not self._closed.is_set():
                    self._on_frame(unpack_part(*read_message(sock)))
        except Notice as error:
            self._break(error.status, error.reason)
        except FrameError as error:
            self._break(error.status, error.reason)
        except EOFError as error:
            self._break(grpc.StatusCode.UNAVAILABLE, str(error))
        except OSError as error:
            self._break(grpc.StatusCode.UNAVAILABLE, error.strerror or str(error))

    def _break(self, status: grpc.StatusCode, detail: str) -> None:
        with self._breaking:
            if self._broken or self._closed.is_set():
                return
            self._broken = True
        self._outbox.end(f"is broken ({status.name}: {detail})")
        if self._socket is not None:
            _end(self._socket)
        self._on_broken(self.target.node, status, detail)


def _end(sock: Socket) -> None:
    """Wake whoever waits for the socket."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
