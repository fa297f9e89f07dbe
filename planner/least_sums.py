"""What a sum cannot take less than among so many nodes, whichever they are: by the best links that so many have."""

from __future__ import annotations

from collections.abc import Iterator

from potluck.planner.all_reduce import Wire
from potluck.planner.fleet import Link, NodeName
from potluck.planner.problem import Problem
from potluck.planner.sums import message_bytes


def links_of(problem: Problem) -> list[Link]:
    """Every link of a fleet that is known, and the usual one."""
    return [problem.fleet.default_link, *problem.fleet.links.values()]


def least_sums(problem: Problem, most: int) -> Iterator[float]:
    """Seconds that a sum takes 2 members at least, 3, and so on up to so many."""
    out, into = _latencies(problem, most)
    bandwidth = max(link.bandwidth for link in links_of(problem))
    request = problem.request
    wire = Wire.FLOAT32 if request.goal.dtype == "float32" else Wire.BFLOAT16
    sent = message_bytes(request.spec.hidden, wire) / bandwidth
    nearest = sorted(one[0] for one in out)
    for members in range(2, most + 1):
        others = members - 1
        direct = sorted(one[others - 1] for one in out)[others] + others * sent
        star = min(map(lambda to, back: to[others - 1] + back[others - 1], out, into)) + 2 * others * sent
        ring = 2 * others * (nearest[others] + sent / members)
        yield min(direct, star, ring) + request.goal.software.sum


def _latencies(problem: Problem, most: int) -> list[list[list[float]]]:
    """Of every node the least latencies to others, in rising order; and those from others."""
    fleet, names = problem.fleet, [place.name for place in problem.places]
    known: list[dict[NodeName, list[float]]] = [{name: [] for name in names} for _ in range(2)]
    for ends, link in fleet.links.items():
        if ends[0] != ends[1] and all(end in known[0] for end in ends):
            for side, end in zip(known, ends, strict=True):
                side[end].append(link.latency)
    usual = [fleet.default_link.latency] * most
    return [[sorted([*one, *usual[: len(names) - 1 - len(one)]])[:most] for one in side.values()] for side in known]
