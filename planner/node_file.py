"""A node as a fleet file describes it: its own fields, those of a common machine, or both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from potluck.models.sizes import DeviceKind
from potluck.planner.catalogue import Catalogue
from potluck.planner.fields import FieldError, fields, flag, items, one_of, text
from potluck.planner.fleet import Device, Node, NodeName
from potluck.planner.place import Place
from potluck.planner.quantities import memory, positive, quantity
from potluck.planner.units import BYTES_PER_SECOND, FLOPS

_KINDS = ("cpu", "cuda", "metal")
_SPEEDS = ("flops", "memory_bandwidth", "memory")
_OF_NODE = ("disk", "checkpoint")
_OF_ONE_DEVICE = (*_SPEEDS, "kind", "device")
_NODE = ("catalogue", *_OF_ONE_DEVICE, *_OF_NODE, "devices")
_LISTED = ("catalogue", *_SPEEDS, "kind", "name")
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
        return (_device(data, common, where, "device"),)
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
    return _device(data, _common(data, where, catalogue), where, "name")


def _device(data: Mapping[str, object], common: Mapping[str, object], where: Place, label: str) -> Device:
    """A device of these fields, and of a common machine's where they are silent; `label` is the field of its name."""
    given = {**common, **data}
    for key in _SPEEDS:
        if key not in given:
            raise FieldError(f"{where}: field {key!r} is missing")
    kind = one_of(given.get("kind", "cpu"), where.field(data, "kind"), _KINDS)
    name = data.get(label, common.get("device", ""))
    return Device(
        kind=cast(DeviceKind, kind),
        flops=positive(given["flops"], where.field(data, "flops"), FLOPS),
        memory_bandwidth=positive(given["memory_bandwidth"], where.field(data, "memory_bandwidth"), BYTES_PER_SECOND),
        memory=memory(given["memory"], where.field(data, "memory")),
        name=text(name, where.field(data, label)) if label in data else str(name),
    )
