"""Who may ask: the Host and Origin of a request, and its key. Plain ASGI, so that streams pass untouched."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from potluck.coordinator.api.errors import ApiError, error_response
from potluck.coordinator.api.options import LOOPBACK_HOSTS

ANY_HOST = "*"
# In `allowed_hosts`: every IP address. A rebound name is never an address, so this is safe where one cannot list them.
ANY_ADDRESS = "<address>"
_OPEN_PATHS = frozenset({"/", "/health"})


def default_hosts(bound: str) -> tuple[str, ...]:
    """The names under which a server bound to this host or address may be asked.

    A server bound to all addresses also answers to this machine's name and to any IP address.
    """
    if bound in ("", "0.0.0.0", "::"):
        name = socket.gethostname().lower()
        return (*LOOPBACK_HOSTS, name, f"{name}.local", ANY_ADDRESS)
    return tuple(dict.fromkeys((*LOOPBACK_HOSTS, bound.strip("[]").lower())))


def host_allowed(header: str, allowed: Sequence[str]) -> bool:
    """Whether a Host header names this server."""
    name = host_name(header)
    if name is None:
        return False
    return name in allowed or ANY_HOST in allowed or (ANY_ADDRESS in allowed and _is_address(name))


def host_name(header: str) -> str | None:
    """The name in a Host header, without port and brackets; None where it is malformed."""
    try:
        parts = urlsplit(f"//{header}")
        plain = not (parts.path or parts.query or parts.fragment or parts.username or parts.password)
        return (parts.hostname or "").rstrip(".") or None if plain and (parts.port is None or parts.port) else None
    except ValueError:
        return None


def origin_allowed(origin: str, host: str, allowed: Sequence[str]) -> bool:
    """Whether a web page of this origin may ask: one this server served itself, or one that was allowed."""
    return origin in allowed or ANY_HOST in allowed or urlsplit(origin).netloc.lower() == host.lower()


def key_allowed(header: str, keys: Sequence[str]) -> bool:
    """Whether an Authorization header carries one of the keys; takes the same time for every wrong key."""
    scheme, _, key = header.partition(" ")
    given = key.strip().encode()
    matches = [hmac.compare_digest(given, known.encode()) for known in keys]
    return scheme.lower() == "bearer" and any(matches)


class HostCheck:
    """Refuses requests for other names: a web page cannot reach the server by rebinding its own name to it.

    A page of a foreign origin is refused as well, since browsers send simple POSTs without asking first.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str], origins: Sequence[str]) -> None:
        self._app = app
        self._allowed = tuple(name.strip("[]").lower() for name in allowed)
        self._origins = tuple(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse one request."""
        error = self._error(Headers(scope=scope)) if scope["type"] == "http" else None
        await (error_response(error) if error else self._app)(scope, receive, send)

    def _error(self, headers: Headers) -> ApiError | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not host_allowed(hosts[0], self._allowed):
            shown = hosts[0][:100] if hosts else ""
            message = f"the host {shown!r} is not served here; start the server with --allowed-host NAME to allow it"
            return ApiError(message, status=403, code="host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and not origin_allowed(origin, hosts[0], self._origins):
            message = f"pages of {origin[:100]!r} may not ask; start the server with --cors-origin to allow them"
            return ApiError(message, status=403, code="origin_not_allowed")
        return None


class KeyCheck:
    """Refuses requests without a key; `/` and `/health` are open."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = tuple(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse one request."""
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS or self._accepts(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError("this server needs an API key: send Authorization: Bearer KEY", status=401)
        error.code = "invalid_api_key"
        error.headers["WWW-Authenticate"] = "Bearer"
        await error_response(error)(scope, receive, send)

    def _accepts(self, scope: Scope) -> bool:
        return key_allowed(Headers(scope=scope).get("authorization", ""), self._keys)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
