"""Ray as the fleet's fabric: one supervising actor per node, placed by Ray. No tensor travels through it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from potluck.coordinator.fabric import FabricError, Worker
from potluck.coordinator.processes import WorkerLaunch
from potluck.coordinator.ray_cluster import RayConnection, RayNode, alive_nodes
from potluck.coordinator.supervisor import Supervisor

_START_SECONDS = 90.0
_EXITS_SECONDS = 1.0
_STOP_SECONDS = 15.0


class RayFabric:
    """Workers supervised by Ray actors.

    With `emulated` launches all workers share this machine's raylet, each placed by a custom resource of its node;
    without, every alive Ray node gets one worker started as `template` says. `nodes` are the Ray nodes of a real
    cluster; `phases` tells how many seconds the parts of starting took.
    """

    def __init__(
        self, address: str | None, emulated: Sequence[WorkerLaunch] = (), template: WorkerLaunch | None = None
    ) -> None:
        self._address = address
        self._emulated = emulated
        self._template = template
        self._connection = RayConnection()
        self._actors: dict[str, Any] = {}
        self.nodes: list[RayNode] = []
        self.workers: dict[str, Worker] = {}
        self.phases: dict[str, float] = {}

    def start(self, token: str) -> list[Worker]:
        """Connect to Ray or start it, place the actors, start the workers; see `Fabric`."""
        begun = time.monotonic()
        self._connection.open(self._address, {_resource(launch.node): 1.0 for launch in self._emulated})
        self.phases["ray"] = time.monotonic() - begun
        try:
            return self._start_workers(token)
        except FabricError:
            self.stop()
            raise
        finally:
            self.phases["workers"] = time.monotonic() - begun - self.phases["ray"]

    def exits(self) -> dict[str, int]:
        """Exit codes of the workers that have ended; -1 where their node is gone with them."""
        if not self._actors:
            return {}
        import ray

        asked = {node: actor.exit_code.remote() for node, actor in self._actors.items()}
        answered, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_EXITS_SECONDS)
        codes = {node: _exit_code(reference) for node, reference in asked.items() if reference in answered}
        return {node: code for node, code in codes.items() if code is not None}

    def stop(self) -> None:
        """End the workers, the actors, and Ray if it was started here."""
        actors, self._actors = list(self._actors.values()), {}
        if actors:
            import ray

            with contextlib.suppress(ray.exceptions.RayError):
                stopping = [actor.stop.remote() for actor in actors]
                ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_SECONDS)
                for actor in actors:
                    ray.kill(actor)
        self._connection.close()

    def _start_workers(self, token: str) -> list[Worker]:
        import ray

        self.nodes = [] if self._emulated else alive_nodes()
        actor = ray.remote(num_cpus=0, max_restarts=0)(Supervisor)
        for launch, placement in self._placements():
            self._actors[launch.node] = actor.options(**placement).remote(launch)
        hosts = {node.name: node.address for node in self.nodes}
        starting = {
            node: supervisor.start.remote(token, hosts.get(node, "127.0.0.1"))
            for node, supervisor in self._actors.items()
        }
        self.workers = {node: _started(node, reference) for node, reference in starting.items()}
        return list(self.workers.values())

    def _placements(self) -> list[tuple[WorkerLaunch, dict[str, Any]]]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self._emulated:
            return [(launch, {"resources": {_resource(launch.node): 1.0}}) for launch in self._emulated]
        if self._template is None:
            raise FabricError("nothing says how to start workers on a real cluster")
        return [
            (
                _named(self._template, node.name),
                {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.identity, soft=False)},
            )
            for node in self.nodes
        ]


def _resource(node: str) -> str:
    return f"potluck-node-{node}"


def _named(template: WorkerLaunch, node: str) -> WorkerLaunch:
    """The launch of one node; its log carries its name, since several nodes may share a disk."""
    log = str(Path(template.log).with_name(f"{node}.log")) if template.log else None
    return replace(template, node=node, log=log)


def _exit_code(reference: Any) -> int | None:
    """A silent control store says nothing about a worker; a dead actor took its worker along."""
    import ray

    try:
        code: int | None = ray.get(reference)
    except ray.exceptions.RayActorError:
        return -1
    except ray.exceptions.RayError:
        return None
    return code


def _started(node: str, reference: Any) -> Worker:
    import ray

    try:
        answer = ray.get(reference, timeout=_START_SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise FabricError(f"Ray could not place the worker of node {node!r} within {_START_SECONDS:.0f} s") from None
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise FabricError(f"Ray could not start the worker of node {node!r}: {lines[-1]}") from None
    if isinstance(answer, str):
        raise FabricError(answer)
    return Worker(node, answer[0], answer[1])
