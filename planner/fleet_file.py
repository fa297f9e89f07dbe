"""The fleet as people write it, to and from plain data (what a YAML reader returns).

    name: trio
    engine: desktop                 # where requests arrive; default: the first node
    nodes:
      desktop: {flops: 60 GFLOPS, memory_bandwidth: 20 GB/s, memory: 8 GiB, disk: 2 GB/s}
      laptop: {flops: 30 GFLOPS, memory_bandwidth: 10 GB/s, memory: 4 GiB, checkpoint: false}
    links:
      default: {latency: 0.3 ms, bandwidth: 1 Gbit}
      desktop - laptop: {latency: 3 ms, bandwidth: 300 Mbit}    # both directions; `a -> b` is one

`checkpoint: false`: no copy of the model there. A node with several devices lists them under `devices`. Nothing is
guessed: an unknown field, a missing one or a wrong unit is an error. `docs/fleet-file.md` explains every field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, cast

from potluck.planner.fields import FieldError, fields, flag, items, one_of, shown, suggestion, table, text
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.link_names import link_ends, link_name
from potluck.planner.units import (
    BYTES,
    BYTES_PER_SECOND,
    FLOPS,
    SECONDS,
    Quantity,
    UnitError,
    parse,
    parse_bytes,
    written,
)

_KINDS = ("cpu", "cuda", "metal")
_SPEEDS = ("flops", "memory_bandwidth", "memory")
_DEVICE = (*_SPEEDS, "kind", "name")
_OF_NODE = ("disk", "checkpoint")
_NODE = (*_SPEEDS, "kind", "device", *_OF_NODE, "devices")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_EXAMPLE = "`default: {latency: 0.3 ms, bandwidth: 1 Gbit}`"


def fleet_from_data(data: object) -> Fleet:
    """The fleet that plain data describes.

    Raises:
        FieldError: anything unknown, missing or out of range; the message names node or link, and field.
    """
    top = fields(data, "the fleet file", ("name", "engine", "nodes", "links"), ("nodes",))
    described = table(top["nodes"], "nodes")
    if not described:
        raise FieldError("nodes: a fleet needs at least one node")
    nodes = tuple(_node(name, value) for name, value in described.items())
    names = [str(node.name) for node in nodes]
    default, links = _links(top.get("links"), names)
    return Fleet(
        nodes=nodes,
        engine=NodeName(one_of(top.get("engine", names[0]), "engine", names)),
        default_link=default,
        links=links,
        name=text(top.get("name", "fleet"), "name"),
    )


def fleet_to_data(fleet: Fleet) -> dict[str, object]:
    """Plain data that describes a fleet; `fleet_from_data` gives back an equal one."""
    links: dict[str, object] = {"default": _link_data(fleet.default_link)}
    for (source, target), link in fleet.links.items():
        both = fleet.links.get((target, source)) == link
        if not both or link_name(target, source, both) not in links:
            links[link_name(source, target, both)] = _link_data(link)
    return {
        "name": fleet.name,
        "engine": str(fleet.engine),
        "nodes": {str(node.name): _node_data(node) for node in fleet.nodes},
        "links": links,
    }


def _node(name: str, value: object) -> Node:
    if not _NAME.fullmatch(name) or name == "default":
        raise FieldError(f"node {shown(name)}: a name has letters, digits, '.', '_' and '-' only, at most 63")
    where = f"node {name!r}"
    data = fields(value, where, _NODE)
    return Node(
        name=NodeName(name),
        devices=_devices(data, where),
        disk_bandwidth=_quantity(data.get("disk", 0), f"{where}: disk", BYTES_PER_SECOND),
        checkpoint=flag(data.get("checkpoint", True), f"{where}: checkpoint"),
    )


def _devices(data: Mapping[str, object], where: str) -> tuple[Device, ...]:
    if "devices" not in data:
        own = {"name" if key == "device" else key: value for key, value in data.items() if key not in _OF_NODE}
        return (_device(own, where),)
    doubled = [key for key in (*_SPEEDS, "kind", "device") if key in data]
    if doubled:
        raise FieldError(f"{where}: field {doubled[0]!r} belongs into the entries of 'devices'")
    listed = items(data["devices"], f"{where}: devices")
    return tuple(_device(value, f"{where}: device {number}") for number, value in enumerate(listed, 1))


def _device(value: object, where: str) -> Device:
    data = fields(value, where, _DEVICE, _SPEEDS)
    kind = one_of(data.get("kind", "cpu"), f"{where}: kind", _KINDS)
    return Device(
        kind=cast(Literal["cpu", "cuda", "metal"], kind),
        flops=_positive(data["flops"], f"{where}: flops", FLOPS),
        memory_bandwidth=_positive(data["memory_bandwidth"], f"{where}: memory_bandwidth", BYTES_PER_SECOND),
        memory=_memory(data["memory"], f"{where}: memory"),
        name=text(data["name"], f"{where}: name") if "name" in data else "",
    )


def _links(value: object, names: list[str]) -> tuple[Link, dict[tuple[NodeName, NodeName], Link]]:
    described = dict(table(value, "links")) if value is not None else {}
    if "default" not in described and len(names) > 1:
        raise FieldError(f"links: 'default' is missing; add for example {_EXAMPLE}")
    default = _link(described.pop("default", {"latency": 0.0003, "bandwidth": 125e6}), "link 'default'")
    links: dict[tuple[NodeName, NodeName], Link] = {}
    for name, fields_of_link in described.items():
        for pair in _known_ends(name, names):
            if pair in links:
                raise FieldError(f"link {name!r}: the direction {pair[0]} -> {pair[1]} was given before")
            links[pair] = _link(fields_of_link, f"link {name!r}")
    return default, links


def _known_ends(name: str, names: list[str]) -> list[tuple[NodeName, NodeName]]:
    pairs = link_ends(name)
    for end in pairs[0]:
        if end not in names:
            raise FieldError(f"link {shown(name)}: there is no node {shown(end)}{suggestion(end, names)}")
    return pairs


def _link(value: object, where: str) -> Link:
    data = fields(value, where, ("latency", "bandwidth"), ("latency", "bandwidth"))
    latency = _quantity(data["latency"], f"{where}: latency", SECONDS)
    return Link(latency, _positive(data["bandwidth"], f"{where}: bandwidth", BYTES_PER_SECOND))


def _quantity(value: object, where: str, quantity: Quantity) -> float:
    try:
        return parse(value, quantity)
    except UnitError as error:
        raise FieldError(f"{where}: {error}") from error


def _positive(value: object, where: str, quantity: Quantity) -> float:
    number = _quantity(value, where, quantity)
    if number <= 0:
        raise FieldError(f"{where}: must be more than zero; write for example {quantity.example}")
    return number


def _memory(value: object, where: str) -> int:
    _positive(value, where, BYTES)
    try:
        return parse_bytes(value)
    except UnitError as error:
        raise FieldError(f"{where}: {error}") from error


def _node_data(node: Node) -> dict[str, object]:
    devices = [_device_data(device) for device in node.devices]
    data: dict[str, object] = {"devices": devices}
    if len(devices) == 1:
        data = {"device" if key == "name" else key: value for key, value in devices[0].items()}
    if node.disk_bandwidth:
        data["disk"] = written(node.disk_bandwidth, BYTES_PER_SECOND)
    if not node.checkpoint:
        data["checkpoint"] = False
    return data


def _device_data(device: Device) -> dict[str, object]:
    data: dict[str, object] = {} if device.kind == "cpu" else {"kind": device.kind}
    data["flops"] = written(device.flops, FLOPS)
    data["memory_bandwidth"] = written(device.memory_bandwidth, BYTES_PER_SECOND)
    data["memory"] = written(device.memory, BYTES)
    return data | ({"name": device.name} if device.name else {})


def _link_data(link: Link) -> dict[str, object]:
    return {"latency": written(link.latency, SECONDS), "bandwidth": written(link.bandwidth, BYTES_PER_SECOND)}
