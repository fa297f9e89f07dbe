"""What leaves through one socket: at once where the way is free, else through a bounded queue and a thread."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from potluck.proto.connection import Socket
from potluck.proto.frames import Frame, pack_parts
from potluck.proto.link import CAPACITY, LinkError, Tally
from potluck.proto.shaper import DelayLine, Shape, sleep_precisely, wait_until
from potluck.proto.tcp import PREFIX

_PIECE = 64 << 10  # bytes of a frame that an emulated link passes on at a time
_LOOK_SECONDS = 0.1  # how often a sender held up by a full queue looks whether the socket still stands
Buffer = bytes | bytearray | memoryview


class _Queued(NamedTuple):
    due: float
    buffers: Sequence[Buffer]


class Outbox:
    """Sends frames in order. An unshaped one hands a frame to the kernel in the caller's own thread: on a processor
    that has slept, waking another thread costs more than the whole rest of a small hop."""

    def __init__(self, shape: Shape) -> None:
        """Frames queue until `open`. A socket that takes no more is shut down, so that its reader says so: senders may
        hold locks that whoever is told would want."""
        self.tally = Tally()
        self._line, self._shaped = DelayLine(shape), not shape.is_off
        self._byte_seconds = 1.0 / shape.bandwidth if shape.bandwidth else 0.0
        self._socket: Socket | None = None
        self._queue: queue.SimpleQueue[_Queued | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(CAPACITY)
        self._sending = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._over = ""
        self._thread: threading.Thread | None = None

    def open(self, sock: Socket) -> None:
        """Send through this socket from now on."""
        self._socket = sock
        thread = threading.Thread(target=self._work, args=(sock,), name="outbox", daemon=True)
        thread.start()
        # Only now: whoever closes the link meanwhile may join it.
        self._thread = thread

    def send(self, frame: Frame, timeout: float) -> None:
        """Send or queue a frame; waits while the queue is full.

        Raises:
            LinkError: the outbox is over, or the queue stayed full for `timeout` seconds.
        """
        with self._sending:
            for header, payload in pack_parts(frame):
                self._post(header, payload, timeout)

    def post(self, header: Buffer, payload: Buffer, timeout: float) -> None:
        """Send or queue a message that is no frame; errors as of `send`."""
        with self._sending:
            self._post(header, payload, timeout)

    def end(self, reason: str, last: bytes = b"") -> None:
        """Take no more frames; the thread ends when what is queued, and then `last`, has been sent."""
        if not self._over:
            self._over = reason
            if last:
                self._queue.put(_Queued(0.0, [last]))
            self._queue.put(None)

    def join(self, grace: float) -> None:
        """Wait until everything has been sent, for `grace` seconds at most."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(grace)

    def _post(self, header: Buffer, payload: Buffer, timeout: float) -> None:
        if self._over:
            raise LinkError(self._over)
        rest: Sequence[Buffer] = [PREFIX.pack(len(header), len(payload)), header, payload]
        if self._socket is not None and not self._shaped and self._waiting == 0:
            rest = self._send_now(self._socket, rest)
        self.tally.sent(len(payload), len(header), self._enqueue(rest, timeout) if rest else 0.0)

    def _enqueue(self, buffers: Sequence[Buffer], timeout: float) -> float:
        """Queue what is left of a part; how long there was no room."""
        begun = time.monotonic()
        due = self._line.due(sum(map(len, buffers)), begun)
        while not self._room.acquire(timeout=_LOOK_SECONDS):
            if self._over:
                raise LinkError(self._over)
            if (waited := time.monotonic() - begun) >= timeout:
                raise LinkError(f"took no frame for {waited:.1f} s")
        with self._counting:
            self._waiting += 1
        self._queue.put(_Queued(due, buffers))
        return time.monotonic() - begun

    def _send_now(self, sock: Socket, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """What the kernel would not take without waiting."""
        try:
            sent = sock.sendmsg(buffers, [], socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._break(sock, error)
            raise LinkError(self._over) from None
        return _after(buffers, sent)

    def _work(self, sock: Socket) -> None:
        if self._shaped:
            sleep_precisely()
        while (item := self._queue.get()) is not None:
            begun = time.monotonic()
            try:
                self._pass(sock, item)
            except OSError as error:
                self._break(sock, error)
                return
            self.tally.transferred(time.monotonic() - begun)
            with self._counting:
                self._waiting -= 1
            self._room.release()

    def _pass(self, sock: Socket, item: _Queued) -> None:
        """Bytes leave when an emulated link would have brought them, so that the receiver reads while they come."""
        pieces = [piece for buffer in item.buffers for piece in _cut(buffer)] if self._byte_seconds else item.buffers
        left = sum(map(len, pieces))
        for piece in pieces:
            left -= len(piece)
            if item.due:
                wait_until(item.due - left * self._byte_seconds)
            sock.sendall(piece)

    def _break(self, sock: Socket, error: OSError) -> None:
        if not self._over:
            self._over = f"is broken ({error.strerror or error})"
            self._queue.put(None)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _cut(buffer: Buffer) -> list[memoryview]:
    view = memoryview(buffer)
    return [view[begin : begin + _PIECE] for begin in range(0, len(view), _PIECE)]


def _after(buffers: Sequence[Buffer], sent: int) -> Sequence[Buffer]:
    """The buffers without their first `sent` bytes."""
    rest: list[Buffer] = []
    for buffer in buffers:
        if sent < len(buffer):
            rest.append(buffer[sent:])
        sent = max(0, sent - len(buffer))
    return rest
