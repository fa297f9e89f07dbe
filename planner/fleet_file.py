"""The fleet as people write it, to and from plain data (what a YAML reader returns).

    name: trio
    engine: desktop                 # where requests arrive; default: the first node
    nodes:
      desktop: {flops: 60 GFLOPS, memory_bandwidth: 20 GB/s, memory: 8 GiB, disk: 2 GB/s}
      laptop: {flops: 30 GFLOPS, memory_bandwidth: 10 GB/s, memory: 4 GiB, checkpoint: false}
      gaming: {catalogue: rtx3060-12gb, disk: 500 MB/s}         # a common machine; its own fields come first
    links:
      default: {latency: 0.3 ms, bandwidth: 1 Gbit}
      desktop - laptop: {latency: 3 ms, bandwidth: 300 Mbit}    # both directions; `a -> b` is one
      laptop - gaming: wifi                                     # a common kind of link

`checkpoint: false`: no copy of the model there. A node with several devices lists them under `devices`. Nothing is
guessed: an unknown field, a missing one or a wrong unit is an error. `docs/fleet-file.md` explains every field.
"""

from __future__ import annotations

from collections.abc import Mapping

from potluck.planner.catalogue import EMPTY, Catalogue
from potluck.planner.fields import FieldError, fields, one_of, shown, suggestion, table, text
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.link_names import link_ends, link_name
from potluck.planner.node_file import node_from
from potluck.planner.place import Place
from potluck.planner.quantities import positive, quantity
from potluck.planner.units import BYTES, BYTES_PER_SECOND, FLOPS, SECONDS, written

_LOADED = ("loaded_latency", "loaded_bandwidth")
_EXAMPLE = "`default: {latency: 0.3 ms, bandwidth: 1 Gbit}`"


def fleet_from_data(data: object, catalogue: Catalogue = EMPTY) -> Fleet:
    """The fleet that plain data describes; `catalogue` has the machines and links that it may name.

    Raises:
        FieldError: anything unknown, missing or out of range; the message names node or link, field, and the line of
            the file where one was read.
    """
    top = fields(data, "the fleet file", ("name", "engine", "nodes", "links"), ("nodes",))
    place = Place("the fleet file")
    described = table(top["nodes"], place.under(top, "nodes", "nodes"))
    if not described:
        raise FieldError(f"{place.under(top, 'nodes', 'nodes')}: a fleet needs at least one node")
    nodes = tuple(
        node_from(name, value, place.under(described, name, f"node {shown(name)}"), catalogue)
        for name, value in described.items()
    )
    names = [str(node.name) for node in nodes]
    default, links = _links(top, names, catalogue)
    return Fleet(
        nodes=nodes,
        engine=NodeName(one_of(top.get("engine", names[0]), place.under(top, "engine", "engine"), names)),
        default_link=default,
        links=links,
        name=text(top.get("name", "fleet"), place.under(top, "name", "name")),
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


def _links(
    top: Mapping[str, object], names: list[str], catalogue: Catalogue
) -> tuple[Link, dict[tuple[NodeName, NodeName], Link]]:
    place = Place("the fleet file").under(top, "links", "links")
    described = table(top["links"], place) if top.get("links") is not None else {}
    if "default" not in described and len(names) > 1:
        raise FieldError(f"{place}: 'default' is missing; add for example {_EXAMPLE}")
    default = Link(0.0003, 125e6)
    links: dict[tuple[NodeName, NodeName], Link] = {}
    for name, value in described.items():
        here = place.under(described, name, f"link {shown(name)}")
        if name == "default":
            default = _link(value, here, catalogue)
            continue
        for pair in _known_ends(name, here, names):
            if pair in links:
                raise FieldError(f"{here}: the direction {pair[0]} -> {pair[1]} was given before")
            links[pair] = _link(value, here, catalogue)
    return default, links


def _known_ends(name: str, where: Place, names: list[str]) -> list[tuple[NodeName, NodeName]]:
    pairs = link_ends(name, where)
    for end in pairs[0]:
        if end not in names:
            raise FieldError(f"{where}: there is no node {shown(end)}{suggestion(end, names)}")
    return pairs


def _link(value: object, where: Place, catalogue: Catalogue) -> Link:
    """A link of a kind, or described, or both: its own fields come first."""
    if isinstance(value, str):
        return catalogue.link(value, where)
    of_kind = isinstance(value, Mapping) and "kind" in value
    needed = () if of_kind else ("latency", "bandwidth")
    data = fields(value, where, ("kind", "latency", "bandwidth", *_LOADED), needed)
    base = catalogue.link(data["kind"], where.field(data, "kind")) if of_kind else Link(0.0, 1.0)
    latency = quantity(data.get("latency", base.latency), where.field(data, "latency"), SECONDS)
    bandwidth = positive(data.get("bandwidth", base.bandwidth), where.field(data, "bandwidth"), BYTES_PER_SECOND)
    return Link(latency, bandwidth, _loaded(data, where))


def _loaded(data: Mapping[str, object], where: Place) -> Link | None:
    if not any(name in data for name in _LOADED):
        return None
    for name in _LOADED:
        if name not in data:
            raise FieldError(f"{where}: {name} is missing; {_LOADED[0]} and {_LOADED[1]} go together")
    latency = quantity(data[_LOADED[0]], where.field(data, _LOADED[0]), SECONDS)
    return Link(latency, positive(data[_LOADED[1]], where.field(data, _LOADED[1]), BYTES_PER_SECOND))


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
    data: dict[str, object] = {
        "latency": written(link.latency, SECONDS),
        "bandwidth": written(link.bandwidth, BYTES_PER_SECOND),
    }
    if link.loaded:
        values = written(link.loaded.latency, SECONDS), written(link.loaded.bandwidth, BYTES_PER_SECOND)
        data |= zip(_LOADED, values, strict=True)
    return data
