"""What is known of every node, measured or described, as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from potluck.deploy.columns import add_figures, add_names, add_words, titled
from potluck.deploy.tables import bytes_text, rate_text, seconds_text, speed_text
from potluck.planner.fleet import Device, Fleet, Node

_UNKNOWN = "[dim]unknown[/dim]"
_FORMAT_COLUMN, _SPEED_COLUMN, _PADDING = 20, 12, 2  # characters


def node_tables(fleet: Fleet, width: int, note: str = "") -> list[Table]:
    """What nodes are and have, and where it was measured how fast they are with every weight format; `note` stands
    below the first. No table needs more columns of a terminal than `width`, if names allow."""
    tables = [_nodes_table(fleet, note)]
    formats = list(dict.fromkeys(name for node in fleet.nodes for name in node.device.formats))
    if formats or any(node.device.layer_overhead for node in fleet.nodes):
        tables += [_speeds_table(nodes, formats) for nodes in _abreast(fleet.nodes, width)]
    return tables


def _nodes_table(fleet: Fleet, note: str) -> Table:
    names = {node.name: node.name + (" *" if node.name == fleet.engine else "") for node in fleet.nodes}
    table = titled(f"fleet: {fleet.name}", f"* requests arrive here{note}")
    add_names(table, "node", names.values())
    add_words(table, "device", "speed", "memory", "disk", "model's file")
    for node in fleet.nodes:
        table.add_row(
            names[node.name],
            _device(node),
            f"{speed_text(node.device.flops)}\n{rate_text(node.device.memory_bandwidth)}",
            _memory(node),
            _disk(node),
            "yes" if node.checkpoint else "no, fetches",
        )
    return table


def _abreast(nodes: Sequence[Node], width: int) -> Iterator[Sequence[Node]]:
    """Nodes whose columns lie side by side in a table."""
    first, room = 0, width - _FORMAT_COLUMN
    for number, node in enumerate(nodes):
        taken = max(len(node.name), _SPEED_COLUMN) + _PADDING
        if number > first and room < taken:
            yield nodes[first:number]
            first, room = number, width - _FORMAT_COLUMN
        room -= taken
    yield nodes[first:]


def _speeds_table(nodes: Sequence[Node], formats: Sequence[str]) -> Table:
    """A column a node: formats are many, and the same on all."""
    table = titled(
        "weight formats: GB/s, GFLOPS",
        "bytes of weights per second with one row (decoding), operations per second with many (prompts)",
    )
    add_words(table, "")
    devices = [node.device for node in nodes]
    add_figures(table, *(node.name for node in nodes))
    for name in formats:
        table.add_row(name, *(_format(device, name) for device in devices))
    layers = (seconds_text(device.layer_overhead) if device.layer_overhead else _UNKNOWN for device in devices)
    table.add_row("software, a layer", *layers)
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
    anywhere = f"\nrandom {rate_text(node.disk_random)}" if node.disk_random else ""
    return rate_text(node.disk_bandwidth) + anywhere


def _format(device: Device, name: str) -> str:
    speed = device.formats.get(name)
    return f"{_billions(speed.bandwidth, 1)}, {_billions(speed.flops, 0)}" if speed else _UNKNOWN


def _billions(count: float, digits: int) -> str:
    """To so many digits behind the point, so that figures stand below each other; small ones keep what they have."""
    return f"{count / 1e9:.{digits}f}" if count >= 1e10 else f"{count / 1e9:.3g}"
