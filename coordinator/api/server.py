"""The web server around the application: its socket, its limits and its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Generator

import uvicorn
from fastapi import FastAPI

from potluck.coordinator.api.http_protocol import DeadlineProtocol

_KEEP_ALIVE_S = 30
_MAX_HEAD_BYTES = 64 << 10
_CUT_S = 2.0


class CannotBind(Exception):
    """The server cannot listen there; one line with the remedy."""


class PortInUse(CannotBind):
    """Another program listens there already."""


def bind(host: str, port: int) -> socket.socket:
    """Take the address to serve at, before anything slow is done. Port 0 takes a free one.

    Raises:
        PortInUse: another program has it.
        CannotBind: no such address here, or the port needs rights.
    """
    if not 0 <= port <= 65535:
        raise CannotBind(f"there is no port {port}; choose one from 0 to 65535")
    try:
        found = socket.getaddrinfo(host.strip("[]") or "0.0.0.0", port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise CannotBind(f"cannot serve at {host}:{port}: {error}; give an address of this machine") from None
    # A name with two addresses is served at the older kind, which every client tries.
    family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            # Skips the wait for the last run's old connections; on Windows it would share the port instead.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise _refusal(error, host, port) from None
    return listening


def server_config(app: FastAPI, host: str, port: int) -> uvicorn.Config:
    """Uvicorn's settings: bounded heads and waits, no log flood, no trust in proxy headers."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=DeadlineProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
    )


async def serve_app(app: FastAPI, sock: socket.socket, stop: asyncio.Event, grace_s: float = 30.0) -> None:
    """Serve until `stop` is set; then accept no more, let running answers end for `grace_s` seconds, cut the rest.

    Installs no signal handlers.
    """
    host, port = sock.getsockname()[:2]
    config = server_config(app, host, port)
    config.timeout_graceful_shutdown = max(1, round(grace_s))
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        server.should_exit = True
        await serving
        await server.cut()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to the command that runs this."""
        yield

    async def cut(self) -> None:
        """Wait for cancelled answers to end: they free their KV."""
        if self.server_state.tasks:
            await asyncio.wait(set(self.server_state.tasks), timeout=_CUT_S)


def _refusal(error: OSError, host: str, port: int) -> CannotBind:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(f"port {port} of {host} is in use by another program; stop it or choose another --port")
    if error.errno == errno.EACCES:
        return CannotBind(f"port {port} needs administrator rights; choose a --port above 1023")
    return CannotBind(f"cannot serve at {host}:{port}: {error.strerror}; give an address of this machine")
