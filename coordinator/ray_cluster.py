"""Joining a Ray cluster or starting one here, and who is in it. Every wait has an end."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from potluck.coordinator.fabric import FabricError

_CONNECT_SECONDS = 20.0
_REACH_SECONDS = 5.0
_START_SECONDS = 90.0
_OBJECT_STORE_BYTES = 80 << 20  # the least Ray takes; nothing of ours goes through it


@dataclass(frozen=True, slots=True)
class RayNode:
    """An alive node of a Ray cluster. `here` is the machine this process runs on."""

    identity: str
    address: str
    name: str
    here: bool


class RayConnection:
    """This process's membership in a Ray cluster.

    Ray is joined in a thread, since some of its calls wait for ever. The thread stays until `close`: Ray's processes
    ask the kernel to end them with the thread that started them.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._joined = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, address: str | None, resources: dict[str, float]) -> None:
        """Join the cluster at this address; without one start Ray here, with these custom resources.

        Raises:
            FabricError: Ray is not installed, does not start or cannot be reached.
        """
        try:
            import ray
        except ImportError as error:
            raise FabricError(f"Ray cannot be loaded ({error}); install Potluck again, or use --local") from None
        # Its notices about signal handlers and token files are not for people who only want a model.
        logging.getLogger("ray").setLevel(logging.ERROR)
        options: dict[str, Any] = {"namespace": "potluck", "log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            options |= _local_options(resources)
            what, seconds = (
                "start on this machine; see `ray start --head` for the reason, or use --local",
                _START_SECONDS,
            )
        else:
            _check_reachable(address)
            options["address"] = address
            what, seconds = f"be reached at {address}; is `ray start --head` running there?", _CONNECT_SECONDS
        self._join(lambda: ray.init(**options), seconds, what)

    def close(self) -> None:
        """Leave the cluster; end Ray if it was started here. Safe to call twice, and after an interrupted `open`."""
        if self._thread is not None:
            self._joined.wait(_CONNECT_SECONDS)
            import ray

            if ray.is_initialized():
                ray.shutdown()
            self._thread = None
        self._over.set()

    def _join(self, call: Callable[[], object], seconds: float, what: str) -> None:
        import ray

        failure: list[str] = []

        def run() -> None:
            try:
                call()
            except (OSError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as error:
                failure.append((str(error).strip().splitlines() or [type(error).__name__])[0])
            self._joined.set()
            self._over.wait()

        self._thread = threading.Thread(target=run, name="ray", daemon=True)
        self._thread.start()
        if not self._joined.wait(seconds):
            self._thread = None
            raise FabricError(f"Ray cannot {what} (no answer within {seconds:.0f} s)")
        if failure:
            raise FabricError(f"Ray cannot {what} ({failure[0]})")


def _local_options(resources: dict[str, float]) -> dict[str, Any]:
    # "local": without it Ray would join a cluster that RAY_ADDRESS or an earlier run points to.
    return {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": 1,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "resources": resources,
        "_node_ip_address": "127.0.0.1",
        "configure_logging": False,
    }


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


def alive_nodes() -> list[RayNode]:
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
