"""When nodes and links shall be measured again, and what that found. Pure: whoever asks brings the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from potluck.coordinator.accuracy import Comparison
from potluck.models.costs import FormatSpeed
from potluck.planner.fleet import Device, Fleet, Link, Node

LIMIT = 0.3
# A plan is worth loading anew if it is predicted to take so much less.
GAIN = 0.1
# Explained by new figures, the next deviation is another one; unexplained, it is likely to be the same for a while.
_REST_EXPLAINED, _REST_UNEXPLAINED = 600.0, 3600.0
_MIB = 1 << 20
_LINK_SECONDS = 1e-3


class Drift:
    """Whether requests have deviated from their predictions for long enough to doubt the fleet's figures.

    The median of at least `requests` of them has to be more than 30 % off. After measuring, what deviation is left is
    known and asked about no more, unless it changes by as much again; and nothing is measured for ten minutes, or an
    hour where measuring explained nothing.
    """

    def __init__(self, requests: int) -> None:
        """`requests` of 0 never asks."""
        self._requests = requests
        self._known: dict[str, float] = {}
        self._not_before = 0.0

    def cause(self, comparison: Comparison, now: float) -> str | None:
        """The name of the figure that deviates the most, if it is time to measure."""
        far = {name: abs(off) for name, off in self._deviations(comparison).items() if self._is_news(name, off)}
        if not far or not self._requests or now < self._not_before:
            return None
        return max(far, key=lambda name: far[name])

    def measured(self, left: Comparison, explained: bool, now: float) -> None:
        """Measuring is over and left these deviations."""
        self._known = {name: off for name, off in self._deviations(left).items() if abs(off) > LIMIT}
        self._not_before = now + (_REST_EXPLAINED if explained else _REST_UNEXPLAINED)

    def forget(self) -> None:
        """A new plan: what was known of the one before says nothing about it."""
        self._known = {}

    def _is_news(self, name: str, off: float) -> bool:
        if abs(off) <= LIMIT / 2:
            self._known.pop(name, None)
        return abs(off) > LIMIT and abs(off - self._known.get(name, 0.0)) > LIMIT

    def _deviations(self, comparison: Comparison) -> dict[str, float]:
        figures = comparison.figures.items()
        return {name: figure.deviation for name, figure in figures if figure.requests >= self._requests}


def explains(comparison: Comparison) -> bool:
    """Whether predictions from new figures come close enough to what was measured."""
    return furthest(comparison) <= LIMIT


def furthest(comparison: Comparison) -> float:
    """The largest deviation, whichever way."""
    return max((abs(figure.deviation) for figure in comparison.figures.values()), default=0.0)


@dataclass(frozen=True, slots=True)
class Departure:
    """A figure of a node or link that is not what it was taken to be: flops, memory_bandwidth or disk_bandwidth of
    `node a`, latency or bandwidth of `link a -> b`; operations, bytes, seconds."""

    subject: str
    quantity: str
    taken: float
    found: float


def departures(taken: Fleet, found: Fleet) -> tuple[Departure, ...]:
    """What is more than 30 % off; of links only what costs a millisecond, for a message or a MiB."""
    known = {node.name: node for node in found.nodes}
    nodes = (one for node in taken.nodes if node.name in known for one in _of_node(node, known[node.name]))
    ends = [ends for ends in found.links if {*ends} <= {node.name for node in taken.nodes}]
    links = (one for ends in ends for one in _of_link(" -> ".join(ends), taken.link(*ends), found.links[ends]))
    return (*nodes, *links)


def refreshed(fleet: Fleet, found: Fleet) -> Fleet:
    """The fleet with speeds and links as they were found. Its memory stays: what is free now lacks what it serves."""
    known = {node.name: node for node in found.nodes}
    nodes = tuple(_faster(node, known[node.name]) if node.name in known else node for node in fleet.nodes)
    links = {ends: link for ends, link in found.links.items() if {*ends} <= {node.name for node in nodes}}
    return replace(fleet, nodes=nodes, links={**fleet.links, **links})


def stretched(fleet: Fleet, scale: float) -> Fleet:
    """The fleet as it looks when one of its seconds takes `scale`. Software is not stretched, so it is not in here."""
    if scale == 1.0:
        return fleet

    def slower(link: Link) -> Link:
        return Link(link.latency * scale, link.bandwidth / scale)

    nodes = tuple(_mapped(node, lambda device: _device(device, scale), scale) for node in fleet.nodes)
    links = {ends: slower(link) for ends, link in fleet.links.items()}
    return replace(fleet, nodes=nodes, default_link=slower(fleet.default_link), links=links)


def _mapped(node: Node, change: Callable[[Device], Device], scale: float) -> Node:
    devices = tuple(change(device) for device in node.devices)
    return replace(node, devices=devices, disk_bandwidth=node.disk_bandwidth / scale)


def _device(device: Device, scale: float) -> Device:
    formats = {name: FormatSpeed(one.flops / scale, one.bandwidth / scale) for name, one in device.formats.items()}
    speeds = device.flops / scale, device.memory_bandwidth / scale
    return replace(device, flops=speeds[0], memory_bandwidth=speeds[1], formats=formats)


def _faster(node: Node, found: Node) -> Node:
    """A node's fastest device is the one that its worker measures."""
    now = found.device
    speeds = replace(
        node.device,
        flops=now.flops,
        memory_bandwidth=now.memory_bandwidth,
        formats={**node.device.formats, **now.formats},
        layer_overhead=now.layer_overhead,
    )
    devices = tuple(speeds if device == node.device else device for device in node.devices)
    return replace(node, devices=devices, disk_bandwidth=found.disk_bandwidth or node.disk_bandwidth)


def _of_node(taken: Node, found: Node) -> Iterator[Departure]:
    pairs = {
        "flops": (taken.device.flops, found.device.flops),
        "memory_bandwidth": (taken.device.memory_bandwidth, found.device.memory_bandwidth),
        "disk_bandwidth": (taken.disk_bandwidth, found.disk_bandwidth),
    }
    yield from _far(f"node {taken.name}", pairs)


def _of_link(ends: str, taken: Link, found: Link) -> Iterator[Departure]:
    pairs = {}
    if abs(found.latency - taken.latency) > _LINK_SECONDS:
        pairs["latency"] = (taken.latency, found.latency)
    if abs(_MIB / found.bandwidth - _MIB / taken.bandwidth) > _LINK_SECONDS:
        pairs["bandwidth"] = (taken.bandwidth, found.bandwidth)
    yield from _far(f"link {ends}", pairs)


def _far(subject: str, pairs: Mapping[str, tuple[float, float]]) -> Iterator[Departure]:
    for quantity, (taken, found) in pairs.items():
        # An unknown disk is 0; a link of no latency departs with any.
        known = found > 0 and (taken > 0 or quantity == "latency")
        if known and not 1 / (1 + LIMIT) <= (found / taken if taken else 2.0) <= 1 + LIMIT:
            yield Departure(subject, quantity, taken, found)
