"""Counts of HTTP requests by endpoint, method and status. Plain ASGI, so that streams pass untouched."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# As nginx reports it: the client left before its answer.
_CLIENT_GONE = 499
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpCounts:
    """Counts what passes through."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter(
            "potluck_http_requests",
            "HTTP requests answered, by endpoint, method and status",
            ["endpoint", "method", "status"],
            registry=registry,
        )
        self._in_progress = Gauge(
            "potluck_http_requests_in_progress", "HTTP requests being answered", registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on and count one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = _CLIENT_GONE

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._in_progress.track_inprogress():
            try:
                await self._app(scope, receive, watched)
            finally:
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._requests.labels(_endpoint(scope), method, str(status)).inc()


def _endpoint(scope: Scope) -> str:
    """The pattern of the route, so that paths that clients make up do not become labels."""
    return getattr(scope.get("route"), "path", "other")
