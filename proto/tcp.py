"""Frames over a plain TCP socket: how the two ends find out who they are, and where a message ends.

The worker sends a nonce. The opener answers with its stream's head and an HMAC over both, keyed with the cluster's
token; the worker accepts with an HMAC of its own over that one, so that neither end talks to a stranger. Then every
message is the lengths of header and payload (two little-endian uint32), the header and the payload. A message without
a header is a notice: a gRPC status and one line, after which the sender ends the stream.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import struct

import grpc

from potluck.proto.codec import MAX_PACKED, Reader, pack
from potluck.proto.connection import Socket
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.frames import PART_BYTES
from potluck.proto.stream import StreamHead, read_head
from potluck.proto.tls import Tls, secured

HANDSHAKE_SECONDS = 5.0
PREFIX = struct.Struct("<II")
_NONCE_BYTES = 16
_MAX_HEAD = 4096
_heads = Reader(list[tuple[str, str]], "the stream's head")
_notices = Reader(tuple[int, str], "notice")
_STATUSES = {status.value[0]: status for status in grpc.StatusCode}
# A peer that vanished without a word: found by keepalive when nothing is under way, else by the second limit, which
# leaves room for a receiver that is busy with a long step and does not read. Names differ between systems.
_PATIENCE = (
    ("TCP_KEEPIDLE", 10),
    ("TCP_KEEPALIVE", 10),
    ("TCP_KEEPINTVL", 2),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 60_000),
)


class Notice(Exception):
    """The other end ended the stream and said why."""

    def __init__(self, status: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def tune(sock: socket.socket) -> None:
    """No waiting for fuller packets, and an end to waiting for a peer that vanished."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PATIENCE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def dial(address: str, data_port: int, tls: Tls | None = None) -> Socket:
    """A connection to the data port of the worker at `address` (host:port of its calls); `greet` comes next.

    Over TLS where `tls` says what to show. Calls on it wait for HANDSHAKE_SECONDS.

    Raises:
        OSError: it cannot be reached, or is none of this fleet (TlsError).
    """
    host = address.rpartition(":")[0].strip("[]")
    sock = socket.create_connection((host, data_port), timeout=HANDSHAKE_SECONDS)
    tune(sock)
    return secured(sock, tls, True, HANDSHAKE_SECONDS) if tls else sock


def receive(sock: Socket, size: int) -> bytearray:
    """Exactly `size` bytes.

    Raises:
        EOFError: the stream ended before that.
        OSError: it broke, or the socket's time-out passed.
    """
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = sock.recv_into(view[got:])
        if not count:
            raise EOFError("the peer ended the stream")
        got += count
    return data


def read_message(sock: Socket, most: int = MAX_PACKED + PART_BYTES) -> tuple[bytearray, bytearray]:
    """Header and payload of the next message.

    Raises:
        FrameError: it is longer than `most` bytes.
        Notice: the other end says why it ends the stream.
        EOFError, OSError: see `receive`.
    """
    header, payload = PREFIX.unpack(receive(sock, PREFIX.size))
    if header + payload > most:
        raise FrameError(f"a message of {header + payload} bytes exceeds {most}", Refusal.OVERSIZED)
    body = receive(sock, header + payload) if payload < 1 << 12 else None
    if body is not None:
        head, rest = body[:header], body[header:]
    else:
        head, rest = receive(sock, header), receive(sock, payload)
    if not head:
        raise _read_notice(rest)
    return head, rest


def message(header: bytes, payload: bytes) -> bytes:
    """A message as bytes."""
    return PREFIX.pack(len(header), len(payload)) + header + payload


def notice(status: grpc.StatusCode, reason: str) -> bytes:
    """The message that ends a stream."""
    return message(b"", pack((status.value[0], reason[:1000])))


def greet(sock: Socket, head: StreamHead, token: str) -> None:
    """Open a stream: prove that we know the token, and see that the worker does.

    Raises:
        Notice: the worker refuses the stream.
        FrameError: it is no worker of this cluster.
        EOFError, OSError: see `receive`.
    """
    nonce = bytes(receive(sock, _NONCE_BYTES))
    packed = pack(head.metadata())
    proof = _proof(token, nonce + packed)
    sock.sendall(message(packed, proof))
    answer = receive(sock, PREFIX.size)
    header, payload = PREFIX.unpack(answer)
    if header or payload > _MAX_HEAD:
        raise FrameError("the answer to the stream's head is malformed")
    accepted = bytes(receive(sock, payload))
    if not hmac.compare_digest(accepted, _proof(token, proof)):
        raise _read_notice(accepted)


def admit(sock: Socket, token: str) -> tuple[StreamHead, bytes]:
    """The head of a stream that was just opened, and the message that accepts it.

    Raises:
        FrameError: the opener does not know the token, or its head is malformed.
        EOFError, OSError: see `receive`.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sock.sendall(nonce)
    header, proof = read_message(sock, _MAX_HEAD)
    if not hmac.compare_digest(bytes(proof), _proof(token, nonce + bytes(header))):
        raise FrameError("the stream's opener does not know this cluster's token", Refusal.TOKEN)
    return read_head(_heads.read(header)), message(b"", _proof(token, bytes(proof)))


def _proof(token: str, data: bytes) -> bytes:
    return hmac.new(token.encode(), data, hashlib.sha256).digest()


def _read_notice(payload: bytes | bytearray) -> Notice:
    code, reason = _notices.read(payload)
    return Notice(_STATUSES.get(code, grpc.StatusCode.UNKNOWN), reason)
