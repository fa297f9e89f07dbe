"""The worker's port for frames over plain TCP: who may open a stream, and reading it."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from potluck.proto.assembly import Assembly
from potluck.proto.connection import Socket
from potluck.proto.errors import FrameError
from potluck.proto.frames import Frame, unpack_part
from potluck.proto.link import LinkError
from potluck.proto.outbox import Outbox
from potluck.proto.shaper import Shape
from potluck.proto.stream import StreamHead
from potluck.proto.tcp import HANDSHAKE_SECONDS, Notice, admit, notice, read_message, tune
from potluck.proto.tls import Tls, secured
from potluck.proto.tls_socket import TlsError
from potluck.worker.echo import Echo

if TYPE_CHECKING:
    from potluck.worker.epochs import Epoch
    from potluck.worker.executor import Executor
    from potluck.worker.node import Node

_BACKLOG = 64
_MOST_STREAMS = 256
_LINGER_SECONDS = 1.0
_LOG = logging.getLogger("potluck.worker")


class DataPort:
    """Listens beside the gRPC server, at a port of its own."""

    def __init__(
        self,
        name: str,
        token: str,
        link_shape: Callable[[str], Shape],
        node: Callable[[], Node],
        tls: Tls | None = None,
    ) -> None:
        """`link_shape` gives the emulated link to a node; `node` waits for the torch half, and raises FrameError.

        With `tls` streams are taken only of who shows a certificate of the fleet's authority.
        """
        self._name, self._token, self._tls = name, token, tls
        self._link_shape, self._node = link_shape, node
        self._streams, self._echo = threading.Semaphore(_MOST_STREAMS), Echo()
        self._listener: socket.socket | None = None

    def listen(self, host: str) -> int:
        """Accept streams from now on; the port.

        Raises:
            OSError: the address cannot be had.
        """
        self._listener = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG
        )
        threading.Thread(target=self._accept, args=(self._listener,), name="data-port", daemon=True).start()
        port: int = self._listener.getsockname()[1]
        return port

    def close(self) -> None:
        """Accept no more streams."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            if not self._streams.acquire(blocking=False):
                sock.close()
                continue
            threading.Thread(target=self._serve, args=(sock,), name="stream", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with self._entered(sock) as entered:
                self._open(entered)
        except TlsError as error:
            _LOG.warning("a stream was refused: whoever opened it is not of this fleet: %s", error)
        except (EOFError, OSError):
            _LOG.info("a stream was cut off by its sender")
        finally:
            self._streams.release()

    def _entered(self, sock: socket.socket) -> Socket:
        try:
            tune(sock)
            return secured(sock, self._tls, False, HANDSHAKE_SECONDS) if self._tls else sock
        except OSError:
            sock.close()
            raise

    def _open(self, sock: Socket) -> None:
        sock.settimeout(HANDSHAKE_SECONDS)
        try:
            head, accepted = admit(sock, self._token)
            if head.role == "probe":
                self._echo_to(sock, head.node, accepted)
                return
            node = self._node()
            epoch = node.epochs.get(head.epoch)
            if head.role == "member":
                epoch.members.check(head)
        except FrameError as error:
            _LOG.warning("a stream was refused: %s", error.reason)
            sock.sendall(notice(error.status, error.reason))
            _linger(sock)
            return
        if head.role == "member":
            _lend(sock, head.node, epoch, accepted)
            return
        sock.sendall(accepted)
        sock.settimeout(None)
        self._run(sock, head, epoch, node.executor)

    def _echo_to(self, sock: Socket, node: str, accepted: bytes) -> None:
        with self._echo.place():
            sock.sendall(accepted)
            with contextlib.suppress(EOFError, OSError, Notice, LinkError):
                self._echo.serve(sock, self._link_shape(node) if node != self._name else Shape())
                # Until the opener hangs up: closing over what it still sends would take the last answer back.
                _linger(sock)

    def _run(self, sock: Socket, head: StreamHead, epoch: Epoch, executor: Executor) -> None:
        from potluck.worker.answers import TcpAnswers

        shaped = head.role == "coordinator" and head.node != self._name
        outbox = Outbox(self._link_shape(head.node) if shaped else Shape())
        answers, inlet = TcpAnswers(outbox), Inlet(sock, epoch, executor)
        outbox.open(sock)
        if head.role == "coordinator":
            epoch.attach(head.node, answers)
        try:
            answers.end(inlet.read())
        finally:
            epoch.detach(answers)
            answers.end()
            outbox.join(_LINGER_SECONDS)
            _linger(sock)


def _lend(sock: Socket, node: str, epoch: Epoch, accepted: bytes) -> None:
    """Leave the socket to the sums of the epoch's groups until they are over."""
    sock.sendall(accepted)
    try:
        link = epoch.members.take(node, sock)
    except FrameError as error:
        _LOG.warning("a stream was refused: %s", error.reason)
        return
    link.closed.wait()


class Inlet:
    """Reads a stream's frames and computes each in the same thread: no hand-over between threads, which on a processor
    that has slept takes longer than the rest of a small hop. A frame that comes meanwhile stays in the kernel."""

    def __init__(self, sock: Socket, epoch: Epoch, executor: Executor) -> None:
        self._sock, self._epoch, self._executor = sock, epoch, executor
        self._assembly = Assembly(epoch.admit)

    def read(self) -> FrameError | None:
        """Read until the stream ends; what was wrong with it, if it ended by that."""
        try:
            while True:
                self._executor.put(self._epoch, self._next())
                self._executor.run_next()
        except FrameError as error:
            _LOG.warning("a stream was refused: %s", error.reason)
            return error
        except (EOFError, OSError, Notice):
            return None

    def _next(self) -> Frame:
        while (whole := self._assembly.add(unpack_part(*read_message(self._sock)))) is None:
            pass
        return whole


def _linger(sock: Socket) -> None:
    """Read on for a moment: closing over unread bytes would take back the notice that was just sent."""
    deadline = time.monotonic() + _LINGER_SECONDS
    sock.shutdown(socket.SHUT_WR)
    sock.settimeout(_LINGER_SECONDS)
    while time.monotonic() < deadline and sock.recv(1 << 16):
        pass
