"""Ray as the fleet's fabric: one supervising actor per node, placed by Ray. No tensor travels through it."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from potluck.coordinator.fabric import FabricError, Worker
from potluck.coordinator.processes import WorkerLaunch
from potluck.coordinator.supervisor import Supervisor

_CONNECT_SECONDS = 20.0
_REACH_SECONDS = 5.0
_START_SECONDS = 90.0
_OBJECT_STORE_BYTES = 80 << 20  # the least Ray takes; nothing of ours goes through it
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RayNode:
    """An alive node of a Ray cluster. `here` is the machine this process runs on."""

    identity: str
    address: str
    name: str
    here: bool


class RayFabric:
    """Workers supervised by Ray actors.

    With `emulated` launches all workers share this machine's raylet, each placed by a custom resource of its node;
    without, every alive Ray node gets one worker started as `template` says.
    """

    def __init__(
        self, address: str | None, emulated: Sequence[WorkerLaunch] = (), template: WorkerLaunch | None = None
    ) -> None:
        self._address = address
        self._emulated = emulated
        self._template = template
        self._stopped = threading.Event()
        self._actors: dict[str, Any] = {}
        self.nodes: list[RayNode] = []
        self.phases: dict[str, float] = {}

    def start(self, token: str) -> list[Worker]:
        """Connect to Ray or start it, place the actors, start the workers; see `Fabric`."""
        begun = time.monotonic()
        self._connect()
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
        import ray

        codes: dict[str, int] = {}
        for node, actor in list(self._actors.items()):
            try:
                code = ray.get(actor.exit_code.remote(), timeout=2.0)
            except ray.exceptions.RayError:
                code = -1
            if code is not None:
                codes[node] = code
        return codes

    def stop(self) -> None:
        """End the workers, the actors, and Ray if it was started here."""
        import ray

        if ray.is_initialized():
            stopping = [actor.stop.remote() for actor in self._actors.values()]
            ray.wait(stopping, num_returns=len(stopping), timeout=15.0) if stopping else None
            for actor in self._actors.values():
                ray.kill(actor)
            ray.shutdown()
        self._actors = {}
        self._stopped.set()

    def _connect(self) -> None:
        try:
            import ray
        except ImportError as error:
            raise FabricError(f"Ray cannot be loaded ({error}); install Potluck again, or use --local") from None
        # Its notices about signal handlers and token files are not for people who only want a model.
        logging.getLogger("ray").setLevel(logging.ERROR)
        options: dict[str, Any] = {"namespace": "potluck", "log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is None:
            options |= self._local_options()
            what = "start on this machine; see `ray start --head` for the reason, or use --local"
        else:
            options["address"] = self._address
            _check_reachable(self._address)
            what = f"be reached at {self._address}; is `ray start --head` running there?"
        seconds = _CONNECT_SECONDS if self._address else _START_SECONDS
        _within(lambda: ray.init(**options), seconds, what, self._stopped)

    def _local_options(self) -> dict[str, Any]:
        # "local": without it Ray would join a cluster that RAY_ADDRESS or an earlier run points to.
        return {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": 1,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "resources": {_resource(launch.node): 1.0 for launch in self._emulated},
            "_node_ip_address": "127.0.0.1",
            "configure_logging": False,
        }

    def _start_workers(self, token: str) -> list[Worker]:
        import ray

        self.nodes = [] if self._emulated else _alive_nodes()
        actor = ray.remote(num_cpus=0, max_restarts=0)(Supervisor)
        for launch, placement in self._placements():
            self._actors[launch.node] = actor.options(**placement).remote(launch)
        hosts = {node.name: node.address for node in self.nodes}
        starting = {
            node: supervisor.start.remote(token, hosts.get(node, "127.0.0.1"))
            for node, supervisor in self._actors.items()
        }
        return [_started(node, reference) for node, reference in starting.items()]

    def _placements(self) -> list[tuple[WorkerLaunch, dict[str, Any]]]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self._emulated:
            return [(launch, {"resources": {_resource(launch.node): 1.0}}) for launch in self._emulated]
        if self._template is None:
            raise FabricError("nothing says how to start workers on a real cluster")
        return [
            (
                replace(self._template, node=node.name),
                {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.identity, soft=False)},
            )
            for node in self.nodes
        ]


def _check_reachable(address: str) -> None:
    """Try the port first: Ray itself would try for a minute and then end this whole process."""
    host, _, port = address.rpartition(":")
    if address in {"auto", "local"}:
        return
    if "://" in address or not host or not port.isdigit():
        raise FabricError(f"{address!r} is no address of a Ray cluster; give host:port (of `ray start --head`) or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FabricError(
            f"Ray cannot be reached at {address}: {reason}; is `ray start --head` running there?"
        ) from None


def _resource(node: str) -> str:
    return f"potluck-node-{node}"


def _alive_nodes() -> list[RayNode]:
    """Alive nodes, this machine's first, with names that differ."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    found: list[RayNode] = []
    names: dict[str, int] = {}
    for node in sorted(ray.nodes(), key=lambda node: (node["NodeID"] != here, node["NodeManagerAddress"])):
        if node["Alive"]:
            host = node["NodeManagerHostname"] or node["NodeManagerAddress"]
            names[host] = names.get(host, 0) + 1
            name = host if names[host] == 1 else f"{host}-{names[host]}"
            found.append(RayNode(node["NodeID"], node["NodeManagerAddress"], name, node["NodeID"] == here))
    if not found:
        raise FabricError("the Ray cluster has no node that is alive; start one with `ray start`")
    return found


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


def _within(call: Callable[[], T], seconds: float, what: str, stopped: threading.Event) -> T:
    """Run a call of Ray's in a thread, since some of them wait for ever.

    The thread stays until `stopped`: Ray's processes ask the kernel to end them with the thread that started them.
    """
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except (OSError, RuntimeError, ValueError, TimeoutError, AssertionError) as error:
            outcome.append((None, error))
        done.set()
        stopped.wait()

    done = threading.Event()
    threading.Thread(target=run, name="ray", daemon=True).start()
    done.wait(seconds)
    if not outcome:
        raise FabricError(f"Ray cannot {what} (no answer within {seconds:.0f} s)")
    value, error = outcome[0]
    if error is not None:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FabricError(f"Ray cannot {what} ({reason})")
    return value  # type: ignore[no-any-return]
