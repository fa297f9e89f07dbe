"""A node as a fleet file describes it, its own fields, those of a common machine, or both; and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

from potluck.planner.catalogue import Catalogue
from potluck.planner.device_file import OF_DEVICE, device_from, device_to_data
from potluck.planner.fields import FieldError, fields, flag, items
from potluck.planner.fleet import Device, Node, NodeName
from potluck.planner.place import Place
from potluck.planner.quantities import amount, number, quantity
from potluck.planner.units import BYTES, BYTES_PER_SECOND, written

_OF_NODE = ("disk", "disk_random", "cores", "swap", "swap_free", "checkpoint")
_OF_ONE_DEVICE = (*OF_DEVICE, "device")
_NODE = ("catalogue", *_OF_ONE_DEVICE, *_OF_NODE, "devices")
_LISTED = ("catalogue", *OF_DEVICE, "name")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


def node_name(name: str, where: Place | str) -> NodeName:
    """A name that a node may have.

    Raises:
        FieldError: it has other letters, is too long, or means something else in a fleet file.
    """
    if not _NAME.fullmatch(name) or name == "default":
        raise FieldError(f"{where}: a name has letters, digits, '.', '_' and '-' only, at most 63")
    return NodeName(name)


def node_from(name: str, value: object, where: Place, catalogue: Catalogue) -> Node:
    """The node that plain data describes.

    Raises:
        FieldError: anything unknown, missing or out of range.
    """
    named = node_name(name, where)
    data = fields(value, where, _NODE)
    common = _common(data, where, catalogue)
    disk = data.get("disk", common.get("disk", 0))
    return Node(
        name=named,
        devices=_devices(data, common, where, catalogue),
        disk_bandwidth=quantity(disk, where.field(data, "disk"), BYTES_PER_SECOND),
        checkpoint=flag(data.get("checkpoint", True), where.field(data, "checkpoint")),
        disk_random=quantity(data.get("disk_random", 0), where.field(data, "disk_random"), BYTES_PER_SECOND),
        cores=number(data.get("cores", 0), where.field(data, "cores")),
        swap=amount(data.get("swap", 0), where.field(data, "swap")),
        swap_free=amount(data.get("swap_free", 0), where.field(data, "swap_free")),
    )


def _common(data: Mapping[str, object], where: Place, catalogue: Catalogue) -> Mapping[str, object]:
    """The fields of the machine of the catalogue that is named; none where none is."""
    if "catalogue" not in data:
        return {}
    return catalogue.machine(data["catalogue"], where.field(data, "catalogue")).fields


def _devices(
    data: Mapping[str, object], common: Mapping[str, object], where: Place, catalogue: Catalogue
) -> tuple[Device, ...]:
    if "devices" not in data:
        return (device_from(data, common, where, "device"),)
    for key in ("catalogue", *_OF_ONE_DEVICE):
        if key in data:
            raise FieldError(f"{where.at(data, key)}: field {key!r} belongs into the entries of 'devices'")
    listed = items(data["devices"], where.field(data, "devices"))
    return tuple(
        _listed(value, where.field(data, "devices").entry(value, f"{where.name}: device {number}"), catalogue)
        for number, value in enumerate(listed, 1)
    )


def _listed(value: object, where: Place, catalogue: Catalogue) -> Device:
    data = fields(value, where, _LISTED)
    return device_from(data, _common(data, where, catalogue), where, "name")


def node_to_data(node: Node) -> dict[str, object]:
    """Plain data that describes a node; `node_from` gives back an equal one."""
    devices = [device_to_data(device) for device in node.devices]
    data: dict[str, object] = {"devices": devices}
    if len(devices) == 1:
        data = {"device" if key == "name" else key: value for key, value in devices[0].items()}
    for key, value in (("disk", node.disk_bandwidth), ("disk_random", node.disk_random)):
        if value:
            data[key] = written(value, BYTES_PER_SECOND)
    if node.cores:
        data["cores"] = node.cores
    for key, size in (("swap", node.swap), ("swap_free", node.swap_free)):
        if size:
            data[key] = written(size, BYTES)
    return data if node.checkpoint else data | {"checkpoint": False}
