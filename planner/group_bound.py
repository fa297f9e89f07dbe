"""What no plan with groups can cost less than: the quickest nodes together, and sums over the best links.

N nodes that share a part in proportions p_i take the longest of p_i w_i, which is at least 1 / (sum of 1 / w_i) of the
N quickest, and software of a layer that is not shared. Each of the two sums of a layer takes them at least what
`collectives` says of N nodes whose links are the best that so many can have. So a layer takes at least the minimum of

    parts(N) + 2 sum(N) + hop / layers that N nodes hold

over N, one node alone included. It is a bound and no more: the quickest may have the worst links, and little memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import accumulate
from math import inf

from potluck.models.costs import PartCost, Pass, part_cost
from potluck.models.sizes import layer_parts
from potluck.models.spec import Part
from potluck.planner.all_reduce import Wire
from potluck.planner.capacity import Able, least_between, reads
from potluck.planner.fleet import Link, NodeName
from potluck.planner.offers import HEAD
from potluck.planner.places import Place, distinct_layers
from potluck.planner.problem import Problem
from potluck.planner.sums import message_bytes

_SUMS = 2  # of a layer


def least_seconds_of_groups(problem: Problem) -> float:
    """What no plan can cost less than, with groups or without."""
    goal, parts = problem.request.goal, list(_parts(problem))
    able = _able(problem, parts)
    alone = _least_alone(problem, parts, able)
    if goal.aim == "latency":
        return alone
    next_ = least_between(able, problem, whole=False)
    return next_ if goal.aim == "throughput" else alone + next_


@dataclass(frozen=True, slots=True)
class _Part:
    """A part on every node: how many of it a layer has on average, what it costs there, and the seconds of a token."""

    share: float
    costs: tuple[PartCost, ...]
    seconds: tuple[float, ...]

    def together(self, most: int) -> list[float]:
        """Seconds on the quickest node, on the two quickest, and so on up to so many."""
        overhead = min(cost.overhead for cost in self.costs)
        split = (seconds - cost.overhead for seconds, cost in zip(self.seconds, self.costs, strict=True))
        speeds = nlargest(most, (1 / one for one in split))
        return [self.share * (overhead + 1 / speed) for speed in accumulate(speeds)]


def _parts(problem: Problem) -> Iterator[_Part]:
    for layer, count in distinct_layers(problem.request.spec):
        for part in layer_parts([layer]):
            yield _part(problem, part, count / problem.layers)


def _part(problem: Problem, part: Part, share: float) -> _Part:
    request, nodes = problem.request, {node.name: node for node in problem.fleet.nodes}
    devices = [nodes[place.name].device for place in problem.places]
    known = {device: part_cost(request.spec, part, (device, request.goal.dtype)) for device in set(devices)}
    costs = tuple(known[device] for device in devices)
    return _Part(share, costs, tuple(cost.taken(Pass(1, 1, request.goal.context)) for cost in costs))


def _able(problem: Problem, parts: Sequence[_Part]) -> list[Able]:
    """What every node can do where layers may be split.

    Its speed is that of the part that it is best at, beside the quickest node: who splits parts in different
    proportions has no more of all nodes together (a price on each part, the same everywhere).
    """
    quickest = min(range(len(problem.places)), key=lambda number: problem.places[number].layer_seconds)
    layer = sum(part.share * part.seconds[quickest] for part in parts)
    rooms = [_room(place) for place in problem.places]
    way = _least_hop(problem) / min(problem.layers, max(rooms)) if max(rooms) > 0 else inf
    return [
        Able(
            layer * min(part.seconds[number] / part.seconds[quickest] for part in parts), way, room, room, reads(place)
        )
        for number, (place, room) in enumerate(zip(problem.places, rooms, strict=True))
        if room > 0
    ]


def _room(place: Place) -> float:
    """Layers that a node can run, of which parts may be elsewhere."""
    holder = place.holders[0]
    return max(0.0, holder.free / (holder.layer_weights + holder.layer_kv), float(place.most()))


def _least_hop(problem: Problem) -> float:
    turn = min(map(problem.hops.turn, range(len(problem.places))))
    return min(turn, *problem.hops.cheapest) if len(problem.places) > 1 else turn


def _least_alone(problem: Problem, parts: Sequence[_Part], able: Sequence[Able]) -> float:
    """What no token can take less than."""
    most = min(problem.request.spec.heads, len(problem.places))
    sums = [0.0, *_sums(problem, most)]
    hop, rooms = _least_hop(problem), accumulate(nlargest(most, (one.most for one in able)))
    layers = map(sum, zip(*(part.together(most) for part in parts), strict=True))
    layer = min(
        parts_ + _SUMS * sum_ + hop / min(room, problem.layers)
        for parts_, sum_, room in zip(layers, sums, rooms, strict=False)
    )
    return problem.layers * layer - hop + _least_ends(problem, most)


def _least_ends(problem: Problem, most: int) -> float:
    """The embedding and the head where they are quickest, the shortest ways from and to the engine."""
    gather = min(link.latency for link in _links(problem)) + problem.request.goal.software.sum
    head, *split = _part(problem, HEAD, 1.0).together(most)
    embedding = min(place.embedding_seconds for place in problem.places)
    return embedding + min([head, *(one + gather for one in split)]) + problem.hops.least_turn


def _links(problem: Problem) -> list[Link]:
    return [problem.fleet.default_link, *problem.fleet.links.values()]


def _sums(problem: Problem, most: int) -> Iterator[float]:
    """Seconds that a sum takes 2 members at least, 3, and so on up to so many."""
    out, into = _latencies(problem, most)
    bandwidth = max(link.bandwidth for link in _links(problem))
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
