"""From a described fleet to what each emulated worker must do to behave like its node. Pure.

An emulated worker takes as long for every part of a model as the described node would: never less, and more only where
this machine is slower. So time is stretched until it is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from potluck.models.costs import FormatSpeed, Pass, Speeds, part_cost
from potluck.models.sizes import DeviceKind
from potluck.models.spec import ModelSpec, Part, PartKind
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName

_HEADROOM = 1.1  # clocks and caches that are shared with others, links and the engine


@dataclass(frozen=True, slots=True)
class Machine:
    """What one core of this machine does while the others do the same (`models.costs.Speeds`), and how many there are.

    Attributes:
        flops, memory_bandwidth: in the compute type that is asked for.
        formats: by weight format.
    """

    flops: float
    memory_bandwidth: float
    cores: int
    formats: Mapping[str, FormatSpeed] = field(default_factory=dict, hash=False)
    kind: DeviceKind = "cpu"


@dataclass(frozen=True, slots=True)
class Emulation:
    """How an emulated node differs from this machine; all in stretched time.

    Attributes:
        device: what it computes on, and the bytes that the worker may use.
        links: to every other node.
        disk: bytes per second at which streamed weights are read; 0 for as fast as it goes.
    """

    device: Device
    links: Mapping[str, Link]
    disk: float = 0.0

    @property
    def memory(self) -> int:
        """Bytes the worker may use."""
        return self.device.memory

    def to_json(self) -> str:
        """The value of the worker's `--emulate` flag."""
        device = self.device
        formats = {name: {"flops": one.flops, "bandwidth": one.bandwidth} for name, one in device.formats.items()}
        speeds = {"flops": device.flops, "memory_bandwidth": device.memory_bandwidth, "formats": formats}
        links = {node: [link.latency, link.bandwidth] for node, link in self.links.items()}
        return json.dumps({"device": {**speeds, "kind": device.kind}, "links": links, "disk": self.disk})


def stretched(fleet: Fleet, scale: float) -> Fleet:
    """The fleet as it runs here, where one of its seconds takes `scale`: what predictions for the emulation go by."""
    links = {ends: _stretched_link(link, scale) for ends, link in fleet.links.items()}
    nodes = tuple(_stretched_node(node, scale) for node in fleet.nodes)
    return replace(fleet, nodes=nodes, default_link=_stretched_link(fleet.default_link, scale), links=links)


def emulate(fleet: Fleet, scale: float) -> dict[NodeName, Emulation]:
    """What each worker must do so that the fleet behaves as described, `scale` times slower."""
    here = stretched(fleet, scale)
    return {node.name: Emulation(node.device, _links_from(here, node.name), node.disk_bandwidth) for node in here.nodes}


def time_scale(fleet: Fleet, machine: Machine, model: tuple[ModelSpec, str], rows: int) -> float:
    """How many seconds here stand for one second of the described fleet; at least 1.

    No part of the model (in a compute type) may take a core of this machine longer than the node that it stands for, be
    it of one row or of a step of `rows`; a worker computes in one thread. All nodes together may not need more cores
    than there are: members of a group, and nodes with several steps in flight, compute at once.
    """
    spec, dtype = model
    parts = _unlike(spec)
    needed = [_cores_needed(parts, rows, (spec, dtype), (machine, node.device)) for node in fleet.nodes]
    return max(1.0, _HEADROOM * max(needed), _HEADROOM * sum(needed) / machine.cores)


def _cores_needed(
    parts: Iterable[Part], rows: int, model: tuple[ModelSpec, str], devices: tuple[Machine, Device]
) -> float:
    """How often a core here takes as long as a device, at the part where that is most."""
    steps = [Pass(1, 1, 1), Pass(rows, 1, rows)]
    return max(
        _seconds(part, work, model, devices[0]) / _seconds(part, work, model, devices[1])
        for part in parts
        for work in steps
    )


def _seconds(part: Part, work: Pass, model: tuple[ModelSpec, str], device: Speeds) -> float:
    return max(part_cost(model[0], part, (device, model[1])).seconds(work))


def _unlike(spec: ModelSpec) -> Sequence[Part]:
    """Parts that are computed, one of each kind of layer."""
    unlike = {layer: number for number, layer in enumerate(spec.layers)}
    return [Part(kind, number) for number in unlike.values() for kind in (PartKind.ATTENTION, PartKind.FFN)]


def _stretched_link(link: Link, scale: float) -> Link:
    return Link(link.latency * scale, link.bandwidth / scale)


def _stretched_node(node: Node, scale: float) -> Node:
    devices = tuple(_stretched_device(device, scale) for device in node.devices)
    return replace(node, devices=devices, disk_bandwidth=node.disk_bandwidth / scale)


def _stretched_device(device: Device, scale: float) -> Device:
    formats = {name: FormatSpeed(one.flops / scale, one.bandwidth / scale) for name, one in device.formats.items()}
    speeds = device.flops / scale, device.memory_bandwidth / scale
    return replace(device, flops=speeds[0], memory_bandwidth=speeds[1], formats=formats)


def _links_from(fleet: Fleet, source: NodeName) -> dict[str, Link]:
    return {node.name: fleet.link(source, node.name) for node in fleet.nodes if node.name != source}
