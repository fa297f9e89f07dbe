"""The catalogue, for people and as plain data."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from potluck.deploy.columns import add_figures, add_names, add_words, titled
from potluck.deploy.tables import bytes_text, link_text, rate_text, speed_text
from potluck.planner.catalogue import LinkKind, Machine


def machines_table(machines: Sequence[Machine]) -> Table:
    """Machines with what programs reach on them."""
    caption = "what programs reach of the published peaks, and memory without what the system needs"
    table = titled("machines", caption)
    add_names(table, "name", [machine.name for machine in machines])
    add_figures(table, "speed", "reads memory", "memory", "disk")
    for machine in machines:
        device, disk = machine.node.device, machine.node.disk_bandwidth
        speeds = (speed_text(device.flops), rate_text(device.memory_bandwidth), bytes_text(device.memory))
        table.add_row(machine.name, *speeds, rate_text(disk) if disk else "unknown")
    return table


def kinds_table(kinds: Sequence[LinkKind]) -> Table:
    """Kinds of links."""
    table = titled("links")
    add_names(table, "name", [kind.name for kind in kinds])
    add_words(table, "one way, bandwidth", "what")
    for kind in kinds:
        table.add_row(kind.name, link_text(kind.link), kind.about)
    return table


def sources_table(machines: Sequence[Machine], kinds: Sequence[LinkKind]) -> Table:
    """Where the figures come from."""
    sources = {one.name: one.source for one in machines} | {one.name: one.source for one in kinds}
    table = titled("sources")
    add_names(table, "name", sources)
    add_words(table, "source")
    for name, source in sources.items():
        table.add_row(name, source)
    return table


def catalogue_report(machines: Sequence[Machine], kinds: Sequence[LinkKind]) -> dict[str, object]:
    """The same as plain data: operations and bytes per second, bytes, seconds."""
    return {
        "machines": {machine.name: _machine_report(machine) for machine in machines},
        "links": {
            kind.name: {
                "latency": kind.link.latency,
                "bandwidth": kind.link.bandwidth,
                "about": kind.about,
                "source": kind.source,
            }
            for kind in kinds
        },
    }


def _machine_report(machine: Machine) -> dict[str, object]:
    device = machine.node.device
    return {
        "device": device.name,
        "kind": device.kind,
        "flops": device.flops,
        "memory_bandwidth": device.memory_bandwidth,
        "memory": device.memory,
        "disk": machine.node.disk_bandwidth,
        "source": machine.source,
    }
