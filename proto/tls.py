"""TLS under frames and sums: both ends show a certificate of the fleet's own authority.

Whoever has none is no part of the fleet; the cluster's token (`tcp`) is asked for inside. Names in certificates are not
compared: nodes of a home come by changing addresses, and the authority signs nobody else.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from potluck.proto.tls_socket import TlsError, TlsSocket, reason_of, refusal


@dataclass(frozen=True, slots=True)
class Tls:
    """What a node shows to others, and whom it believes: contexts for connections it opens and those it accepts."""

    opening: ssl.SSLContext
    accepting: ssl.SSLContext


def read_tls(certificate: Path, key: Path, authority: Path) -> Tls:
    """The contexts of a node, from PEM files.

    Args:
        certificate, key: the node's own, signed by the authority.
        authority: the certificate that every node's must be signed by.

    Raises:
        TlsError: a file cannot be read, or key and certificate do not belong together; one line with the file.
    """
    return Tls(
        *(
            _context(protocol, (certificate, key), authority)
            for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)
        )
    )


def _context(protocol: int, own: tuple[Path, Path], authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        # Nobody resumes a session; tickets would come where a member awaits nothing but parts of sums.
        context.num_tickets = 0
    _load(f"{own[0]} with {own[1]}", lambda: context.load_cert_chain(*own))
    _load(f"{authority}", lambda: context.load_verify_locations(authority))
    return context


def _load(what: str, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as error:
        raise TlsError(f"{what}: no PEM certificate and key that belong together ({reason_of(error)})") from None
    except OSError as error:
        raise TlsError(f"{what}: {error.strerror}") from None


def secured(sock: socket.socket, tls: Tls, opens: bool, seconds: float) -> TlsSocket:
    """A connection over TLS; the plain one belongs to it from then on.

    Raises:
        TlsError: the other end shows no certificate of the authority, or speaks no TLS. An opener is told so by the
            first thing that it receives, as the end that accepts decides last.
        OSError: it broke, or `seconds` passed.
    """
    sock.settimeout(seconds)
    context = tls.opening if opens else tls.accepting
    try:
        return TlsSocket(context.wrap_socket(sock, server_side=not opens), seconds)
    except ssl.SSLError as error:
        raise TlsError(refusal(error, "it speaks no TLS")) from None
