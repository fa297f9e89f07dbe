"""The Ray actor of a node: it starts the worker as its child and ends it. Light: no torch, no gRPC.

The worker goes on serving while Ray's control store is away; it ends when the actor's process does.
"""

from __future__ import annotations

from dataclasses import replace

from potluck.coordinator.processes import WorkerError, WorkerLaunch, WorkerProcess, spawn_worker


class Supervisor:
    """Supervises one worker."""

    def __init__(self, launch: WorkerLaunch) -> None:
        self._launch = launch
        self._process: WorkerProcess | None = None

    def start(self, token: str, host: str) -> tuple[str, int] | str:
        """Start the worker, listening at `host`; its address and process number, or why it did not start."""
        try:
            launch = replace(self._launch, listen=f"{host}:0")
            self._process = spawn_worker(launch, token)
        except (WorkerError, OSError) as error:
            return str(error)
        return self._process.address, self._process.pid

    def exit_code(self) -> int | None:
        """None while the worker runs."""
        return self._process.exit_code() if self._process else None

    def stop(self) -> int | None:
        """End the worker."""
        return self._process.stop() if self._process else None
