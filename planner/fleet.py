"""The fleet: nodes, their devices and the measured links between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

from potluck.models.costs import FormatSpeed
from potluck.models.sizes import DeviceKind

NodeName = NewType("NodeName", str)


@dataclass(frozen=True, slots=True)
class Device:
    """A CPU or GPU of a node.

    Attributes:
        flops: sustained floating-point operations per second in matrix products of the compute type.
        memory_bandwidth: bytes per second when weights are streamed through it once.
        memory: bytes the fleet may use for weights and KV; `memory_total` what there is, 0 where unknown.
        formats: by weight format (`Q4_0`, ...), how fast matrices that keep it are multiplied; of a format that is not
            there, and of plain numbers, `flops` and `memory_bandwidth` hold.
        layer_overhead: seconds that software adds to every layer of a step beside its operations and bytes.
        copy_bandwidth: bytes per second from the host's memory to a GPU's, 0 where unknown.
    """

    kind: DeviceKind
    flops: float
    memory_bandwidth: float
    memory: int
    name: str = ""
    formats: Mapping[str, FormatSpeed] = field(default_factory=dict, hash=False)
    layer_overhead: float = 0.0
    memory_total: int = 0
    copy_bandwidth: float = 0.0


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the fleet. What is not known of it is 0.

    Attributes:
        disk_bandwidth: bytes per second of reading a file from its beginning to its end.
        checkpoint: whether it may read the model from its own disk; where it may not, its worker fetches the tensors of
            its share from a node that has them.
        disk_random: bytes per second of reading 64 KiB at a time, anywhere.
        cores: processors that it may use; a share of one where its time is limited.
        swap, swap_free: bytes that its system may move out of memory, and that are left of them.
    """

    name: NodeName
    devices: tuple[Device, ...]
    disk_bandwidth: float = 0.0
    checkpoint: bool = True
    disk_random: float = 0.0
    cores: float = 0.0
    swap: int = 0
    swap_free: int = 0

    def __post_init__(self) -> None:
        """Refuse a node that could not run anything.

        Raises:
            ValueError: no device, or a device with no speed or memory.
        """
        if not self.devices:
            raise ValueError(f"node {self.name!r} has no device")
        for device in self.devices:
            if not (device.flops > 0 and device.memory_bandwidth > 0 and device.memory > 0):
                raise ValueError(f"node {self.name!r}: speed, memory bandwidth and memory must be positive")

    @property
    def device(self) -> Device:
        """The device the first solver uses: the fastest at streaming weights."""
        return max(self.devices, key=lambda device: device.memory_bandwidth)


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two nodes: one-way latency in seconds, bandwidth in bytes per second.

    `loaded` is the same link while all of the fleet send as much as they can; None where nobody measured it.
    """

    latency: float
    bandwidth: float
    loaded: Link | None = None

    def __post_init__(self) -> None:
        """Refuse a link that nothing could cross.

        Raises:
            ValueError: a negative latency, or no bandwidth.
        """
        if not (self.latency >= 0 and self.bandwidth > 0):
            raise ValueError(f"a link of {self.latency} s and {self.bandwidth} bytes/s: nothing could cross it")


@dataclass(frozen=True, slots=True)
class Fleet:
    """All nodes and links. `engine` is the node where requests arrive; `default_link` holds where none is named."""

    nodes: tuple[Node, ...]
    engine: NodeName
    default_link: Link
    links: Mapping[tuple[NodeName, NodeName], Link] = field(default_factory=dict)
    name: str = "fleet"

    def __post_init__(self) -> None:
        """Refuse a fleet that names a node twice or not at all.

        Raises:
            ValueError: no nodes, duplicate names, an unknown engine node or a link to an unknown node.
        """
        names = [node.name for node in self.nodes]
        if not names:
            raise ValueError(f"fleet {self.name!r} has no nodes")
        if len(set(names)) != len(names):
            raise ValueError(f"fleet {self.name!r} names a node twice: {', '.join(sorted(names))}")
        unknown = ({self.engine} | {end for pair in self.links for end in pair}) - set(names)
        if unknown:
            raise ValueError(f"fleet {self.name!r} has no node {', '.join(sorted(unknown))}")

    @property
    def kinds(self) -> dict[NodeName, DeviceKind]:
        """What every node computes on."""
        return {node.name: node.device.kind for node in self.nodes}

    def node(self, name: NodeName) -> Node:
        """The node of that name.

        Raises:
            KeyError: the fleet has no such node.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def link(self, source: NodeName, target: NodeName) -> Link:
        """The link from one node to another; a node reaches itself at no cost."""
        if source == target:
            return Link(0.0, float("inf"))
        return self.links.get((source, target), self.default_link)
