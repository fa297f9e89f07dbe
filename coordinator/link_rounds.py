"""Which links are measured when, and what the measurements come to. Pure.

Round trips are small, so that pairs of nodes that share none are measured at the same time. Bandwidth is measured of
one link after the other first, because nobody knows yet whether links share something (the air, a slow switch), and
then of as many as there are pairs that share no node, in both directions, which is what the fleet has under load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from potluck.planner.fleet import Link, NodeName

Pair = tuple[NodeName, NodeName]
_ALONE_SECONDS, _TOGETHER_SECONDS = 8.0, 3.0  # for all bulks of their kind
_SHORTEST, _LONGEST = 0.05, 0.3


@dataclass(frozen=True, slots=True)
class Trip:
    """A round trip in seconds, and the bytes that went both ways with it."""

    seconds: float
    nbytes: int


@dataclass(frozen=True, slots=True)
class Direction:
    """What was measured from one node to another: bandwidths in bytes per second, 0 where not measured."""

    trip: Trip
    bandwidth: float
    loaded_trip: Trip
    loaded_bandwidth: float


def rounds(nodes: Sequence[NodeName]) -> list[list[Pair]]:
    """Every two nodes once, in as few rounds as there are, no node twice in a round: a round-robin tournament.

    One node stays, the others move on by a seat each round; with an odd number one sits out.
    """
    seats: list[NodeName | None] = [*nodes, *([None] if len(nodes) % 2 else [])]
    found = []
    for _ in range(len(seats) - 1):
        facing = zip(seats[: len(seats) // 2], reversed(seats[len(seats) // 2 :]), strict=True)
        found.append([(a, b) for a, b in facing if a is not None and b is not None])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return [pairs for pairs in found if pairs]


def both_ways(pairs: Sequence[Pair]) -> list[Pair]:
    """The directions of some pairs."""
    return [direction for a, b in pairs for direction in ((a, b), (b, a))]


def alone_seconds(nodes: int) -> float:
    """How long a link's bulk is watched while nothing else is sent, so that large fleets do not take for ever."""
    return _within(_ALONE_SECONDS, nodes * (nodes - 1))


def together_seconds(nodes: int) -> float:
    """How long bulks are watched that are sent at the same time."""
    return _within(_TOGETHER_SECONDS, nodes)


def links(measured: Mapping[Pair, Direction]) -> dict[Pair, Link]:
    """The links, from what was measured of every direction."""
    return {pair: _link(there, measured[pair[1], pair[0]]) for pair, there in measured.items()}


def _link(there: Direction, back: Direction) -> Link:
    """A round trip has two directions, which no clock tells apart: both are taken to be equally far."""
    latency = (_latency(there.trip, there, back) + _latency(back.trip, there, back)) / 2
    loaded = Link(_latency(there.loaded_trip, there, back), there.loaded_bandwidth) if there.loaded_bandwidth else None
    return Link(latency, there.bandwidth, loaded)


def _latency(trip: Trip, there: Direction, back: Direction) -> float:
    """Half the trip, less what its bytes take: with them it gives back what a frame of such a size was measured to."""
    return max(0.0, trip.seconds - trip.nbytes / there.bandwidth - trip.nbytes / back.bandwidth) / 2


def _within(total: float, parts: int) -> float:
    return min(_LONGEST, max(_SHORTEST, total / max(1, parts)))
