"""`cluster serve`: a model behind the HTTP API until the terminal says stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from fastapi import FastAPI

from potluck.coordinator.api.app import create_app
from potluck.coordinator.api.options import ApiOptions
from potluck.coordinator.api.server import bind, serve_app
from potluck.coordinator.deployment import Deployment, Observer
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.metrics import Metrics
from potluck.deploy.accuracy_text import predicted_text
from potluck.deploy.console import ERR
from potluck.deploy.next_step import Asked, first_request
from potluck.deploy.prepare import Prepared
from potluck.deploy.progress import JsonProgress, StatusLine, TerminalProgress
from potluck.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Address:
    """Where the HTTP API listens, who may ask, and how many seconds running answers get at the end."""

    host: str
    port: int
    options: ApiOptions
    grace: float = 30.0


def serve(prepared: Prepared, address: Address, as_json: bool) -> int:
    """Serve until SIGTERM or Ctrl-C; a second one cuts the drain short. Returns the exit code."""
    sock = bind(address.host, address.port)
    progress: TerminalProgress | JsonProgress = JsonProgress() if as_json else TerminalProgress()
    begun = time.monotonic()
    metrics = Metrics()
    engine = ServingEngine(prepared.name, prepared.serving.context, metrics)
    deployment = Deployment(prepared.fabric, engine, prepared.files, prepared.serving)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(_load_tokenizer, prepared)
        try:
            with _interruptible():
                deployment.start(progress)
            tokenizer = loading.result()
            _announce(prepared, sock, progress, (time.monotonic() - begun, deployment))
            if not as_json:
                asked = Asked(prepared.name, tokenizer.has_chat_template, bool(address.options.api_keys))
                ERR.print(f"try: {first_request(_url(sock), asked)}", highlight=False, soft_wrap=True, markup=False)
            app = create_app(engine, tokenizer, address.options, metrics, deployment.report)
            asyncio.run(_serve_until_told(app, sock, deployment, (address.grace, as_json)))
        finally:
            if isinstance(progress, TerminalProgress):
                progress.close()
            deployment.stop()
            sock.close()
            _close_tokenizer(loading)
    return 0


async def _serve_until_told(app: FastAPI, sock: socket.socket, deployment: Deployment, how: tuple[float, bool]) -> None:
    grace, as_json = how
    stop, cut = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stop.is_set():
            cut.set()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told)
    serving = asyncio.create_task(serve_app(app, sock, stop, grace))
    status = StatusLine(deployment.engine.status)
    if not as_json:
        status.__enter__()
    await asyncio.wait({asyncio.create_task(stop.wait()), serving}, return_when=asyncio.FIRST_COMPLETED)
    status.__exit__()
    if not as_json:
        ERR.print("stopping: running answers may finish; once more to cut them short", style="dim")
    draining = asyncio.create_task(asyncio.to_thread(deployment.drain, grace))
    await asyncio.wait({draining, asyncio.create_task(cut.wait())}, return_when=asyncio.FIRST_COMPLETED)
    deployment.drain(0.0)
    await serving


def _load_tokenizer(prepared: Prepared) -> Tokenizer:
    tokenizer = prepared.tokenizer()
    if tokenizer.has_chat_template:
        # Starts the process that renders templates, so that the first chat does not wait for it.
        tokenizer.encode_chat([{"role": "user", "content": "hi"}])
    return tokenizer


def _close_tokenizer(loading: Future[Tokenizer]) -> None:
    if loading.exception() is None:
        loading.result().close()


def _announce(prepared: Prepared, sock: socket.socket, progress: Observer, came_up: tuple[float, Deployment]) -> None:
    seconds, deployment = came_up
    predicted, prompt = deployment.predicted, prepared.serving.goal.prompt
    url = _url(sock)
    if isinstance(progress, JsonProgress):
        progress.say("predicted", prompt=prompt, **predicted)
        progress.say("listening", url=url, model=prepared.name, time_scale=prepared.scale)
        return
    if isinstance(progress, TerminalProgress):
        took = ", ".join(f"{what} {spent:.1f} s" for what, spent in progress.phases)
        ERR.print(f"ready in {seconds:.1f} s ({took})", style="dim", highlight=False)
    if prepared.scale > 1.0:
        ERR.print(
            f"stretched time: one second of this fleet takes {prepared.scale:.1f} s here (time_scale)",
            style="yellow",
            highlight=False,
        )
    ERR.print(predicted_text(predicted, prompt), style="dim", highlight=False)
    ERR.print(f"[bold green]{prepared.name}[/bold green] at [bold]{url}/v1[/bold]   Ctrl-C stops it", highlight=False)


def _url(sock: socket.socket) -> str:
    """Where whoever is on this machine reaches the API."""
    host, port = sock.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


class _interruptible:
    """While the fleet starts, SIGTERM ends this process as Ctrl-C does: through the clean-up."""

    def __enter__(self) -> None:
        def interrupt(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        self._before = signal.signal(signal.SIGTERM, interrupt)

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
