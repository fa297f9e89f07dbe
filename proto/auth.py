"""The cluster's token: sent in the metadata of every call, refused where it is missing or wrong."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grpc

_KEY = "authorization"
Metadata = Sequence[tuple[str, str | bytes]]


def bearer(token: str) -> tuple[str, str]:
    """The metadata entry that carries the token."""
    return _KEY, f"Bearer {token}"


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Metadata | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class TokenSender(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    """Client side: adds the token to the metadata of every call."""

    def __init__(self, token: str) -> None:
        self._entry = bearer(token)

    def intercept_unary_unary(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """Add the token to a plain call."""
        return continuation(self._with_token(client_call_details), request)

    def intercept_unary_stream(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """Add the token to a call answered by a stream."""
        return continuation(self._with_token(client_call_details), request)

    def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Add the token to a pair of streams."""
        return continuation(self._with_token(client_call_details), request_iterator)

    def _with_token(self, call: Any) -> _Details:
        metadata = (*(call.metadata or ()), self._entry)
        return _Details(call.method, call.timeout, metadata, call.credentials, call.wait_for_ready, call.compression)


class TokenCheck(grpc.ServerInterceptor):
    """Server side: a call without the token ends with UNAUTHENTICATED before its handler sees it."""

    def __init__(self, token: str) -> None:
        """Guard a server.

        Raises:
            ValueError: an empty token would let everyone in.
        """
        if not token:
            raise ValueError("the cluster's token is empty; it is the first line of the worker's stdin")
        self._expected = f"Bearer {token}".encode()

    def intercept_service(self, continuation: Callable[..., Any], handler_call_details: Any) -> Any:
        """Pass a call with the right token on; answer any other with UNAUTHENTICATED."""
        metadata: Metadata = handler_call_details.invocation_metadata or ()
        if self._holds_token(metadata):
            return continuation(handler_call_details)
        # A stream handler answers whatever the call's kind, and at once: a unary one would first wait for a request.
        return grpc.stream_stream_rpc_method_handler(_refuse)

    def _holds_token(self, metadata: Metadata) -> bool:
        given = b""
        for key, value in metadata:
            if key == _KEY:
                given = value.encode() if isinstance(value, str) else value
        return hmac.compare_digest(given, self._expected)


def _refuse(requests: Iterator[object], context: grpc.ServicerContext) -> Iterator[object]:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the call carries no token of this cluster")
    yield from ()
