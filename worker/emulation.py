"""What `--emulate` says: the node of a described fleet that this process shall behave like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from potluck.models.costs import FormatSpeed
from potluck.models.sizes import DeviceKind
from potluck.proto.shaper import Shape


@dataclass(frozen=True, slots=True)
class DescribedDevice:
    """What the described node computes on (`models.costs.Speeds`), in the seconds of this machine's clock.

    Attributes:
        flops: floating-point operations per second in the compute type.
        memory_bandwidth: bytes per second.
        formats: by weight format, where it is another speed.
    """

    flops: float
    memory_bandwidth: float
    formats: Mapping[str, FormatSpeed] = field(default_factory=dict)
    kind: DeviceKind = "cpu"

    def __post_init__(self) -> None:
        """Refuse a device that would never be done.

        Raises:
            ValueError: a speed is not a positive number.
        """
        of_formats = [number for speed in self.formats.values() for number in (speed.flops, speed.bandwidth)]
        for speed in (self.flops, self.memory_bandwidth, *of_formats):
            if not 0.0 < speed < math.inf:
                raise ValueError(f"a device's speeds must be more than 0, not {speed}")

    def seconds(self, flops: float, nbytes: float, encoding: str = "") -> float:
        """How long an operation takes: so many floating-point operations, so many bytes read from memory; with weights
        of this format, where it is one."""
        speed = self.formats.get(encoding, FormatSpeed(self.flops, self.memory_bandwidth))
        return max(flops / speed.flops, nbytes / speed.bandwidth)


@dataclass(frozen=True, slots=True)
class Emulation:
    """How the emulated node differs from this machine.

    Attributes:
        device: what it computes on; None for as fast as this machine goes.
        links: shapes of the links to other nodes; "" holds for nodes not named.
        disk: bytes per second at which streamed weights are read, 0 for as fast as it goes.
    """

    device: DescribedDevice | None = None
    links: Mapping[str, Shape] = field(default_factory=dict)
    disk: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a disk that reads backwards.

        Raises:
            ValueError: it is not bytes per second.
        """
        if not 0.0 <= self.disk < math.inf:
            raise ValueError(f"disk must be bytes per second, not {self.disk}")

    def link(self, node: str) -> Shape:
        """The shape of the link to a node."""
        return self.links.get(node) or self.links.get("") or Shape()


class _Text(msgspec.Struct, forbid_unknown_fields=True):
    device: DescribedDevice | None = None
    links: dict[str, tuple[float, float]] = {}
    disk: float = 0.0


def read_emulation(text: str) -> Emulation:
    """The value of `--emulate`, JSON:

    {"device": {"flops": 6e10, "memory_bandwidth": 2e10, "formats": {"Q4_0": {"flops": 9e10, "bandwidth": 2e10}}},
     "links": {"other": [latency_s, bytes_per_s], ...}, "disk": 1e9}

    Raises:
        ValueError: it is not of that form.
    """
    try:
        data = msgspec.json.decode(text, type=_Text)
        return Emulation(data.device, {node: Shape(*link) for node, link in data.links.items()}, data.disk)
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"--emulate is not of the form described in --help: {error}") from None
