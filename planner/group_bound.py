"""What no plan with groups can cost less than: the quickest nodes together, and sums over the best links.

N nodes that share a part in proportions p_i take the longest of p_i w_i, which is at least 1 / (sum of 1 / w_i) of the
N quickest, and software of a layer that is not shared. Each of the two sums of a layer takes them at least what
`collectives` says of N nodes whose links are the best that so many can have. So a layer takes at least the minimum of

    parts(N) + 2 sum(N) + hop / layers that N nodes hold

over N, one node alone included. It is a bound and no more: the quickest may have the worst links, and little memory.
What all nodes can hold is in `group_programme`; the greater of both counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import nlargest
from itertools import accumulate
from math import inf

from potluck.models.costs import PartCost, Pass, part_cost
from potluck.models.sizes import layer_parts, weight_bytes
from potluck.models.spec import Part, PartKind
from potluck.planner.capacity import Able, least_between, reads
from potluck.planner.group_programme import Beside, least_token_seconds
from potluck.planner.least_sums import least_sums, links_of
from potluck.planner.offers import HEAD, Request
from potluck.planner.places import Place, distinct_layers
from potluck.planner.problem import Problem

SUMS_OF_A_LAYER = 2


def least_seconds_of_groups(problem: Problem) -> float:
    """What no plan can cost less than, with groups or without."""
    goal, parts = problem.request.goal, parts_of_a_layer(problem)
    price = _Price(problem, parts)
    able = _able(problem, price)
    alone = _least_alone(problem, parts, able, price)
    if goal.aim == "latency":
        return alone
    next_ = least_between(able, problem, whole=False)
    return next_ if goal.aim == "throughput" else alone + next_


@dataclass(frozen=True, slots=True)
class PartSeconds:
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

    def of(self, members: Sequence[int]) -> float:
        """Seconds on some nodes, each with as much of it as it is fast."""
        overhead = max(self.costs[number].overhead for number in members)
        speed = sum(1 / (self.seconds[number] - self.costs[number].overhead) for number in members)
        return self.share * (overhead + 1 / speed)


def parts_of_a_layer(problem: Problem) -> list[PartSeconds]:
    """Attention and FFN of every sort of layer."""
    layers = distinct_layers(problem.request.spec)
    return [_part(problem, part, count / problem.layers) for layer, count in layers for part in layer_parts([layer])]


def _part(problem: Problem, part: Part, share: float) -> PartSeconds:
    request, nodes = problem.request, {node.name: node for node in problem.fleet.nodes}
    devices = [nodes[place.name].device for place in problem.places]
    known = {device: part_cost(request.spec, part, (device, request.goal.dtype)) for device in set(devices)}
    costs = tuple(known[device] for device in devices)
    return PartSeconds(share, costs, tuple(cost.taken(Pass(1, 1, request.goal.context)) for cost in costs))


class _Price:
    """What parts are worth: the seconds that each takes the quickest node.

    Who splits parts in different proportions has no more of all nodes together.
    """

    def __init__(self, problem: Problem, parts: Sequence[PartSeconds]) -> None:
        places = problem.places
        quickest = min(range(len(places)), key=lambda number: places[number].layer_seconds)
        self._problem, self._parts = problem, parts
        self._seconds = [part.seconds[quickest] for part in parts]
        self.layer = sum(part.share * one for part, one in zip(parts, self._seconds, strict=True))
        # Two parts a layer.
        self.largest = max(map(sum, zip(self._seconds[::2], self._seconds[1::2], strict=True)))

    def seconds(self, number: int) -> float:
        """What a layer's worth takes a node at least: of the part that it is best at."""
        ratios = (part.seconds[number] / one for part, one in zip(self._parts, self._seconds, strict=True))
        return self.layer * min(ratios)

    @cached_property
    def memory(self) -> float:
        """What a layer's worth takes at least of the memory of a layer: of the part that is lightest."""
        problem, request = self._problem, self._problem.request
        kinds = {problem.fleet.node(place.name).device.kind for place in problem.places}
        return self.layer * min(min(self._weighed(replace(request, kind=kind))) for kind in kinds)

    def _weighed(self, request: Request) -> Iterator[float]:
        parts = [part for layer, _ in distinct_layers(request.spec) for part in layer_parts([layer])]
        for part, seconds in zip(parts, self._seconds, strict=True):
            kv = request.layer_kv if part.kind is PartKind.ATTENTION else 0
            size = weight_bytes(request.spec, [part], request.goal.dtype, request.kind) + kv
            yield size / request.layer_bytes / seconds


def _able(problem: Problem, price: _Price) -> list[Able]:
    """What every node can do where layers may be split."""
    rooms = [_room(place) / price.memory for place in problem.places]
    mosts = [max(room, float(place.most())) for room, place in zip(rooms, problem.places, strict=True)]
    way = _least_hop(problem) / min(problem.layers, max(mosts)) if max(mosts) > 0 else inf
    return [
        Able(price.seconds(number), way, room, most, reads(place))
        for number, (place, room, most) in enumerate(zip(problem.places, rooms, mosts, strict=True))
        if most > 0
    ]


def _room(place: Place) -> float:
    """Layers that a node can keep, of which parts may be elsewhere."""
    holder = place.holders[0]
    return max(0.0, holder.free / (holder.layer_weights + holder.layer_kv))


def _least_hop(problem: Problem) -> float:
    turn = min(map(problem.hops.turn, range(len(problem.places))))
    return min(turn, *problem.hops.cheapest) if len(problem.places) > 1 else turn


def _least_alone(problem: Problem, parts: Sequence[PartSeconds], able: Sequence[Able], price: _Price) -> float:
    """What no token can take less than: of every layer by itself, and of all layers and all memory."""
    most = min(problem.request.spec.heads, len(able))
    hop, rooms = _least_hop(problem), accumulate(nlargest(most, (one.most for one in able)))
    sums = zip([0.0, *least_sums(problem, most)], rooms, strict=True)
    added = [SUMS_OF_A_LAYER * sum_ + hop / min(room, problem.layers) for sum_, room in sums]
    layers = map(sum, zip(*(part.together(most) for part in parts), strict=True))
    rest = _least_ends(problem, most) - hop
    each = problem.layers * min(computed + one for computed, one in zip(layers, added, strict=True)) + rest
    beside = [one * price.layer / price.largest for one in added]
    return max(each, least_token_seconds(able, problem.layers, Beside(beside, rest, each)))


def _least_ends(problem: Problem, most: int) -> float:
    """The embedding and the head where they are quickest, the shortest ways from and to the engine."""
    gather = min(link.latency for link in links_of(problem)) + problem.request.goal.software.sum
    head, *split = _part(problem, HEAD, 1.0).together(most)
    embedding = min(place.embedding_seconds for place in problem.places)
    return embedding + min([head, *(one + gather for one in split)]) + problem.hops.least_turn
