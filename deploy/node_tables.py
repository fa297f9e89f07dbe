"""What is known of every node, measured or described, as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from potluck.deploy.tables import bytes_text, rate_text, seconds_text, speed_text
from potluck.planner.fleet import Device, Fleet, Node

_UNKNOWN = "[dim]unknown[/dim]"


def node_tables(fleet: Fleet, note: str = "") -> list[Table]:
    """What nodes are and have, and where it was measured how fast they are with every weight format; `note` stands
    below the first."""
    tables = [_nodes_table(fleet, note)]
    formats = list(dict.fromkeys(name for node in fleet.nodes for name in node.device.formats))
    if formats or any(node.device.layer_overhead for node in fleet.nodes):
        tables.append(_speeds_table(fleet, formats))
    return tables


def _nodes_table(fleet: Fleet, note: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=f"fleet: {fleet.name}", title_justify="left", title_style="bold")
    for heading in ("node", "device", "speed", "memory", "disk", "model's file"):
        table.add_column(heading, overflow="fold")
    for node in fleet.nodes:
        table.add_row(
            node.name + (" *" if node.name == fleet.engine else ""),
            _device(node),
            f"{speed_text(node.device.flops)}\n{rate_text(node.device.memory_bandwidth)}",
            _memory(node),
            _disk(node),
            "yes" if node.checkpoint else "no, fetches",
        )
    table.caption, table.caption_justify = f"* requests arrive here{note}", "left"
    return table


def _speeds_table(fleet: Fleet, formats: Sequence[str]) -> Table:
    """A column a node, so that narrow terminals have room for two."""
    table = Table(box=box.SIMPLE_HEAD, title="weight formats", title_justify="left", title_style="bold")
    for heading in ("", *(node.name for node in fleet.nodes)):
        table.add_column(heading, overflow="fold")
    devices = [node.device for node in fleet.nodes]
    for name in formats:
        table.add_row(name, *(_format(device, name) for device in devices))
    layers = (seconds_text(device.layer_overhead) if device.layer_overhead else _UNKNOWN for device in devices)
    table.add_row("software, a layer", *layers)
    table.caption = "bytes of weights per second with one row (decoding), operations per second with many (prompts)"
    table.caption_justify = "left"
    return table


def _device(node: Node) -> str:
    name = node.device.name or node.device.kind
    return f"{name}\nof {node.cores:g} cores" if node.cores and node.device.kind == "cpu" else name


def _memory(node: Node) -> str:
    device = node.device
    total = f"\nof {bytes_text(device.memory_total)}" if device.memory_total else ""
    swap = f"\nswap {bytes_text(node.swap_free)} of {bytes_text(node.swap)}" if node.swap else ""
    copies = f"\ncopies at {rate_text(device.copy_bandwidth)}" if device.copy_bandwidth else ""
    return f"{bytes_text(device.memory)}{total}{swap}{copies}"


def _disk(node: Node) -> str:
    if not node.disk_bandwidth:
        return _UNKNOWN
    anywhere = f"\nat random {rate_text(node.disk_random)}" if node.disk_random else ""
    return rate_text(node.disk_bandwidth) + anywhere


def _format(device: Device, name: str) -> str:
    speed = device.formats.get(name)
    return f"{rate_text(speed.bandwidth)}, {speed_text(speed.flops)}" if speed else _UNKNOWN
