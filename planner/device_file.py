"""A device as a fleet file describes it, with the speeds of weight formats, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from potluck.models.costs import ATTENTION, NARROW, FormatSpeed
from potluck.models.encodings import PACKED
from potluck.models.sizes import DeviceKind
from potluck.planner.fields import FieldError, fields, one_of, table, text
from potluck.planner.fleet import Device
from potluck.planner.place import Place
from potluck.planner.quantities import memory, positive, quantity
from potluck.planner.units import BYTES, BYTES_PER_SECOND, FLOPS, SECONDS, written

SPEEDS = ("flops", "memory_bandwidth", "memory")
OF_DEVICE = (*SPEEDS, "kind", "formats", "layer_overhead", "memory_total", "copy_bandwidth")
_KINDS = ("cpu", "cuda", "metal")
_OF_FORMAT = ("flops", "bandwidth")


def device_from(data: Mapping[str, object], common: Mapping[str, object], where: Place, label: str) -> Device:
    """A device of these fields, and of a common machine's where they are silent; `label` is the field of its name.

    Raises:
        FieldError: anything missing or out of range.
    """
    given = {**common, **data}
    for key in SPEEDS:
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
        formats=_formats(data, where),
        layer_overhead=quantity(data.get("layer_overhead", 0), where.field(data, "layer_overhead"), SECONDS),
        memory_total=memory(data["memory_total"], where.field(data, "memory_total")) if "memory_total" in data else 0,
        copy_bandwidth=quantity(data.get("copy_bandwidth", 0), where.field(data, "copy_bandwidth"), BYTES_PER_SECOND),
    )


def device_to_data(device: Device) -> dict[str, object]:
    """Plain data that describes a device; its name is under `name`."""
    data: dict[str, object] = {} if device.kind == "cpu" else {"kind": device.kind}
    data["flops"] = written(device.flops, FLOPS)
    data["memory_bandwidth"] = written(device.memory_bandwidth, BYTES_PER_SECOND)
    data["memory"] = written(device.memory, BYTES)
    if device.formats:
        data["formats"] = {name: _format_to_data(speed) for name, speed in device.formats.items()}
    if device.layer_overhead:
        data["layer_overhead"] = written(device.layer_overhead, SECONDS)
    if device.memory_total:
        data["memory_total"] = written(device.memory_total, BYTES)
    if device.copy_bandwidth:
        data["copy_bandwidth"] = written(device.copy_bandwidth, BYTES_PER_SECOND)
    return data | ({"name": device.name} if device.name else {})


def _formats(data: Mapping[str, object], where: Place) -> dict[str, FormatSpeed]:
    if "formats" not in data:
        return {}
    place = where.field(data, "formats")
    listed = table(data["formats"], place)
    return {one_of(name, place, (*PACKED, ATTENTION, NARROW)): _format(listed, name, place) for name in listed}


def _format(listed: Mapping[str, object], name: str, where: Place) -> FormatSpeed:
    place = where.field(listed, name)
    data = fields(listed[name], place, _OF_FORMAT, _OF_FORMAT)
    flops = positive(data["flops"], place.field(data, "flops"), FLOPS)
    return FormatSpeed(flops, positive(data["bandwidth"], place.field(data, "bandwidth"), BYTES_PER_SECOND))


def _format_to_data(speed: FormatSpeed) -> dict[str, object]:
    return {"flops": written(speed.flops, FLOPS), "bandwidth": written(speed.bandwidth, BYTES_PER_SECOND)}
