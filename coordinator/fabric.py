"""What starts workers on nodes and ends them: Ray for a fleet, plain child processes for one machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from potluck.coordinator.processes import WorkerError, WorkerLaunch, WorkerProcess, spawn_worker


class FabricError(Exception):
    """The fleet's machines cannot be had; one line with the remedy."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A started worker: its node, host:port and process number on that node."""

    node: str
    address: str
    pid: int


class Fabric(Protocol):
    """Starts one worker per node and ends them all."""

    def start(self, token: str) -> Sequence[Worker]:
        """Start every worker.

        Raises:
            FabricError: the machines cannot be reached, or a worker did not start.
        """

    def exits(self) -> Mapping[str, int]:
        """Exit codes of the workers that have ended; quick."""

    def stop(self) -> None:
        """End every worker, and what was started for them. Nothing is left behind; safe to call twice."""


class LocalFabric:
    """Workers as children of this process: tests, benches, one machine without Ray."""

    def __init__(self, launches: Sequence[WorkerLaunch]) -> None:
        self._launches = launches
        self._processes: dict[str, WorkerProcess] = {}
        self.workers: dict[str, Worker] = {}

    def start(self, token: str) -> list[Worker]:
        """Start all workers at once; see `Fabric`."""
        with ThreadPoolExecutor(len(self._launches)) as pool:
            futures = {launch.node: pool.submit(spawn_worker, launch, token) for launch in self._launches}
        failures = [str(error) for future in futures.values() if (error := future.exception()) is not None]
        self._processes = {node: future.result() for node, future in futures.items() if not future.exception()}
        if failures:
            self.stop()
            raise FabricError("; ".join(failures))
        self.workers = {node: Worker(node, one.address, one.pid) for node, one in self._processes.items()}
        return list(self.workers.values())

    def exits(self) -> dict[str, int]:
        """Exit codes of the workers that have ended."""
        codes = {node: process.exit_code() for node, process in self._processes.items()}
        return {node: code for node, code in codes.items() if code is not None}

    def stop(self) -> None:
        """End every worker."""
        stop_all(list(self._processes.values()))
        self._processes = {}


def stop_all(processes: Sequence[WorkerProcess]) -> None:
    """End several workers together, so that their graces overlap."""
    for process in processes:
        process.close_stdin()
    for process in processes:
        process.stop()


__all__ = ["Fabric", "FabricError", "LocalFabric", "Worker", "WorkerError", "WorkerLaunch", "stop_all"]
