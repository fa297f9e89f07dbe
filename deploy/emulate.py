"""From a described fleet to what each emulated worker must do to behave like its node. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from potluck.planner.fleet import Fleet, NodeName


@dataclass(frozen=True, slots=True)
class Machine:
    """What one core of this machine does: floating-point operations per second, and how many cores there are."""

    core_flops: float
    cores: int


@dataclass(frozen=True, slots=True)
class Emulation:
    """How an emulated node differs from this machine.

    Attributes:
        slow_down: factor on the CPU time of every operation, at least 1.
        memory: bytes the worker may use.
        links: (latency in seconds, bytes per second) to every other node, in stretched time.
        disk: bytes per second in stretched time at which streamed weights are read; 0 for as fast as it goes.
    """

    slow_down: float
    memory: int
    links: Mapping[str, tuple[float, float]]
    disk: float = 0.0

    def to_json(self) -> str:
        """The value of the worker's `--emulate` flag."""
        links = {node: list(link) for node, link in self.links.items()}
        return json.dumps({"slow_down": self.slow_down, "links": links, "disk": self.disk})


def time_scale(fleet: Fleet, machine: Machine) -> float:
    """How many seconds here stand for one second of the described fleet; at least 1.

    A node may not need more than one core (a worker computes in one thread), and all nodes together may not need
    more cores than there are: with several steps in flight every node is busy at once.
    """
    cores_needed = [node.device.flops / machine.core_flops for node in fleet.nodes]
    return max(1.0, *cores_needed, sum(cores_needed) / machine.cores)


def emulate(fleet: Fleet, machine: Machine) -> dict[NodeName, Emulation]:
    """What each worker must do so that ratios between nodes and links are those of the description."""
    scale = time_scale(fleet, machine)
    return {
        node.name: Emulation(
            slow_down=max(1.0, scale * machine.core_flops / node.device.flops),
            memory=node.device.memory,
            links=_links_from(fleet, node.name, scale),
            disk=node.disk_bandwidth / scale,
        )
        for node in fleet.nodes
    }


def _links_from(fleet: Fleet, source: NodeName, scale: float) -> dict[str, tuple[float, float]]:
    links = {node.name: fleet.link(source, node.name) for node in fleet.nodes if node.name != source}
    return {name: (link.latency * scale, link.bandwidth / scale) for name, link in links.items()}
