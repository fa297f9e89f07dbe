"""Common machines and links under short names, so that fleets can be described without measuring.

What the catalogue's file states is published peaks; a node gets the shares of them that programs reach:

    shares:
      cuda: {flops: 0.6, memory_bandwidth: 0.8, memory: 0.9}
    machines:
      rtx3060-12gb: {device: ..., kind: cuda, flops: 25.5 TFLOPS, memory_bandwidth: 360 GB/s, memory: 12 GiB,
                     disk: 3 GB/s, source: ...}
    links:
      wifi: {latency: 3 ms, bandwidth: 400 Mbit, about: ..., source: ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from potluck.models.sizes import DeviceKind
from potluck.planner.fields import FieldError, fields, one_of, shown, suggestion, table, text
from potluck.planner.fleet import Device, Link, Node, NodeName
from potluck.planner.place import Place
from potluck.planner.quantities import positive, quantity
from potluck.planner.units import BYTES, BYTES_PER_SECOND, FLOPS, SECONDS

_SPEEDS = {"flops": FLOPS, "memory_bandwidth": BYTES_PER_SECOND, "memory": BYTES}
_MACHINE = ("device", "kind", *_SPEEDS, "disk", "source")
_KINDS = ("cpu", "cuda", "metal")
_ETHERNET = "ethernet-"


@dataclass(frozen=True, slots=True)
class Machine:
    """A common machine: a node of that name, with what programs reach and what the system leaves; and the source."""

    node: Node
    source: str

    @property
    def name(self) -> str:
        """Its name in the catalogue."""
        return self.node.name

    @property
    def fields(self) -> dict[str, object]:
        """What a fleet file would say of it, in base units."""
        device = self.node.device
        speeds = {"flops": device.flops, "memory_bandwidth": device.memory_bandwidth, "memory": device.memory}
        return {"kind": device.kind, "device": device.name, "disk": self.node.disk_bandwidth, **speeds}


@dataclass(frozen=True, slots=True)
class LinkKind:
    """A common kind of link, what it is, and where its numbers come from."""

    name: str
    link: Link
    about: str
    source: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Machines and links by name, in the file's order."""

    machines: Mapping[str, Machine] = field(default_factory=dict)
    links: Mapping[str, LinkKind] = field(default_factory=dict)

    def machine(self, name: object, where: Place | str) -> Machine:
        """The machine of that name.

        Raises:
            FieldError: there is none; the message names the nearest ones.
        """
        if isinstance(name, str) and name in self.machines:
            return self.machines[name]
        raise FieldError(f"{where}: the catalogue has no machine {shown(name)}{_nearest(name, self.machines)}")

    def link(self, name: object, where: Place | str) -> Link:
        """The link of that kind; Ethernet's may be named with or without `ethernet-`.

        Raises:
            FieldError: there is none.
        """
        word = name if isinstance(name, str) else ""
        for known in (word, word.removeprefix(_ETHERNET), _ETHERNET + word):
            if known in self.links:
                return self.links[known].link
        raise FieldError(f"{where}: there is no kind of link {shown(name)}{suggestion(word, self.links)}")


EMPTY = Catalogue()


def catalogue_from_data(data: object) -> Catalogue:
    """The catalogue that plain data describes.

    Raises:
        FieldError: anything unknown, missing or out of range; one line with the place.
    """
    top = fields(data, "the catalogue", ("shares", "machines", "links"), ("shares", "machines", "links"))
    shares = {kind: _shares(value, kind) for kind, value in table(top["shares"], "shares").items()}
    machines, links = table(top["machines"], "machines"), table(top["links"], "links")
    return Catalogue(
        {name: _machine(name, value, shares) for name, value in machines.items()},
        {name: _link(name, value) for name, value in links.items()},
    )


def _shares(value: object, kind: str) -> dict[str, float]:
    data = fields(value, f"shares: {kind}", _SPEEDS, _SPEEDS)
    shares = {name: share for name, share in data.items() if isinstance(share, float) and 0 < share <= 1}
    if len(shares) < len(_SPEEDS):
        raise FieldError(f"shares: {kind}: each must be a number above 0 and at most 1")
    return shares


def _machine(name: str, value: object, shares: Mapping[str, Mapping[str, float]]) -> Machine:
    place = Place(f"machine {name!r}")
    data = fields(value, place, _MACHINE, (*_SPEEDS, "device", "source"))
    kind = one_of(data.get("kind", "cpu"), place.field(data, "kind"), _KINDS)
    if kind not in shares:
        raise FieldError(f"{place}: there are no shares for {kind!r}; add them under 'shares'")
    peaks = {speed: positive(data[speed], place.field(data, speed), unit) for speed, unit in _SPEEDS.items()}
    device = Device(
        kind=cast(DeviceKind, kind),
        flops=peaks["flops"] * shares[kind]["flops"],
        memory_bandwidth=peaks["memory_bandwidth"] * shares[kind]["memory_bandwidth"],
        memory=int(peaks["memory"] * shares[kind]["memory"]),
        name=text(data["device"], place.field(data, "device")),
    )
    disk = quantity(data.get("disk", 0), place.field(data, "disk"), BYTES_PER_SECOND)
    return Machine(Node(NodeName(name), (device,), disk), text(data["source"], place.field(data, "source")))


def _link(name: str, value: object) -> LinkKind:
    place, known = Place(f"link {name!r}"), ("latency", "bandwidth", "about", "source")
    data = fields(value, place, known, known)
    latency = quantity(data["latency"], place.field(data, "latency"), SECONDS)
    bandwidth = positive(data["bandwidth"], place.field(data, "bandwidth"), BYTES_PER_SECOND)
    return LinkKind(name, Link(latency, bandwidth), text(data["about"], place), text(data["source"], place))


def _nearest(name: object, machines: Mapping[str, Machine]) -> str:
    """`; did you mean ...?`: all whose name begins so or contains it, else the likest; too many to list them all."""
    word = name.lower() if isinstance(name, str) else ""
    within = [known for known in machines if word and word in known][:6]
    if within:
        return f"; there is {', '.join(within)}"
    likest = suggestion(word, machines)
    return likest if likest.startswith("; did you mean") else "; `cluster catalogue` lists them"
