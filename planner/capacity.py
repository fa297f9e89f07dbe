"""What no plan of single nodes can cost less than: what all of them can hold and compute together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, inf

from potluck.planner.places import Place
from potluck.planner.problem import Problem

# Halvings of an interval; the lower end is what is said.
_HALVINGS = 50


@dataclass(frozen=True, slots=True)
class Able:
    """What a place can do.

    Attributes:
        seconds: of a layer.
        way: seconds that it takes at least to get there, divided by the layers that it can run.
        room: layers that it can keep; parts of one where the layer is split among several nodes.
        most: layers that it can run, some of them read from disk.
        reads: layers per second that its disk reads.
    """

    seconds: float
    way: float
    room: float
    most: float
    reads: float = 0.0

    def layers(self, cycle: float) -> float:
        """Layers that it has at most, if a token comes by every so many seconds."""
        return min(self.most, self.room + self.reads * cycle)


def least_seconds(problem: Problem) -> float:
    """What no plan whose stages have one node each can cost less than, whatever its routes."""
    able = _able(problem)
    alone, goal = _least_alone(problem, able), problem.request.goal
    if goal.aim == "latency":
        return alone
    next_ = least_between(able, problem, whole=True)
    return next_ if goal.aim == "throughput" else alone + next_


def least_between(able: Sequence[Able], problem: Problem, whole: bool) -> float:
    """Seconds per token that no set of routes can stay below, all requests together.

    With C the shortest cycle of a single route (`_shortest_cycle`), r_i visits to a place and x_i layers computed there
    in a second, s_i seconds each: none computes more than all the time, or on more than the layers that it has, once a
    cycle; a visit brings no more than those; and of the tokens on their way, one per place at most, each is at a
    place or on a hop of h_i seconds:

        x_i s_i <= 1,  x_i <= m_i / C,  x_i <= m_i r_i,  sum of x_i s_i + r_i h_i <= number of places

    Tokens per second are at most the sum of x_i over the number of layers; the greatest is found greedily. Requests
    that share a step take less than one after the other.
    """
    cycle = _shortest_cycle(able, problem.layers, whole)
    left, layers = float(len(problem.places)), 0.0
    for one in sorted(able, key=lambda one: one.seconds + one.way):
        taken = min(1 / one.seconds, one.layers(cycle) / cycle, left / (one.seconds + one.way))
        layers, left = layers + taken, left - taken * (one.seconds + one.way)
    return problem.layers / layers / problem.request.goal.batch if layers else inf


def _able(problem: Problem) -> list[Able]:
    return [
        Able(
            place.layer_seconds,
            _visit(problem, number) / min(place.most(), problem.layers),
            max(0, place.room()),
            place.most(),
            reads(place),
        )
        for number, place in enumerate(problem.places)
        if place.most() > 0
    ]


def reads(place: Place) -> float:
    """Layers per second that its disk reads."""
    return place.disk / place.holders[0].layer_weights


def _visit(problem: Problem, number: int) -> float:
    """The least way to a place, past the engine where that is shorter."""
    hops = problem.hops
    return min(hops.cheapest[number], hops.turn(number)) if len(problem.places) > 1 else hops.turn(number)


def _shortest_cycle(able: Sequence[Able], layers: int, whole: bool) -> float:
    """Seconds in which all places together can run all layers once, each those that it has; whole layers or parts."""

    def held(cycle: float) -> float:
        counts = (min(one.layers(cycle), cycle / one.seconds) for one in able)
        return sum(map(floor, counts)) if whole else sum(counts)

    return _least(lambda cycle: held(cycle) >= layers * (1 - 1e-9))


def _least_alone(problem: Problem, able: Sequence[Able]) -> float:
    """What no token can take less than: layers where they are quickest as long as those have room, every end where it
    is quickest, the shortest ways from and to the engine."""
    places = problem.places
    ends = [
        min(place.embedding_seconds for place in places),
        min(place.head_seconds for place in places),
        problem.hops.least_turn,
    ]
    # One place may be where the token is already.
    spared = max((one.way * one.most for one in able), default=0.0)

    def fits(seconds: float) -> bool:
        return sum(ends) + max(0.0, _computed(able, problem.layers, seconds) - spared) <= seconds

    return _least(fits)


def _computed(able: Sequence[Able], layers: int, cycle: float) -> float:
    """Seconds of all layers, with the ways to them, in a token that takes so long; infinite where they have no room."""
    left, seconds = float(layers), 0.0
    for one in sorted(able, key=lambda one: one.seconds + one.way):
        taken = min(one.layers(cycle), left)
        left, seconds = left - taken, seconds + taken * (one.seconds + one.way)
    return seconds if left <= 0 else inf


def _least(is_enough: Callable[[float], bool]) -> float:
    """The least number of seconds that is enough, or a little less; infinite where no number is."""
    low, high = 0.0, 1e-6
    while not is_enough(high):
        low, high = high, 2 * high
        if high > 1e12:
            return inf
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return low
