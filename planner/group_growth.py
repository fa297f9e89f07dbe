"""Which nodes would be quick together: groups grown one by one from the quickest pairs, by what a layer would take.

That is reckoned as if every part could be shared just as the nodes are fast: near enough to compare groups, and a
hundred times sooner than what shares of whole heads and columns take (`Places.group`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import combinations

from potluck.planner.agreement import wire_of
from potluck.planner.collectives import SECONDS, mesh_of
from potluck.planner.group_bound import SUMS_OF_A_LAYER, PartSeconds, parts_of_a_layer
from potluck.planner.places import Place
from potluck.planner.problem import Problem
from potluck.planner.sums import message_bytes

# Sums wait for everybody, so that groups are of a few neighbours, found among the quickest; begun with so many pairs.
_MOST_SEEDS, _MOST_MEMBERS, _MOST_STARTS = 16, 8, 3
# Between shares by speed and full memories, so many are tried.
_STEPS = 8
# Seconds of a layer where no place is left for it.
_NOWHERE = 1e9

Members = tuple[int, ...]
"""Places by their numbers."""


class Growth:
    """Groups of some places of a problem."""

    def __init__(self, problem: Problem, able: Sequence[int]) -> None:
        """`able`: the places that may be in a group."""
        self._problem, self._known = problem, dict[Members, float]()
        self._by_speed = sorted(able, key=lambda number: problem.places[number].layer_seconds)

    def grown(self, taken: Sequence[int] = ()) -> Mapping[int, Members]:
        """By size the quickest group found of places that are not taken, if it is quicker than its quickest member."""
        free = (number for number in self._by_speed if number not in taken)
        seeds = [number for number, _ in zip(free, range(_MOST_SEEDS), strict=False)]
        pairs = sorted(combinations(sorted(seeds), 2), key=self.seconds)
        best: dict[int, Members] = {}
        for start in pairs[:_MOST_STARTS]:
            for members in self._larger(start, seeds):
                known = best.get(len(members), members)
                best[len(members)] = min(known, members, key=self.seconds)
        return {size: members for size, members in best.items() if self.seconds(members) < self._alone(members)}

    def seconds(self, members: Members) -> float:
        """What they would take for a layer."""
        if members not in self._known:
            computed = sum(part.of(members) for part in self._parts)
            self._known[members] = computed + SUMS_OF_A_LAYER * self._sum(members)
        return self._known[members]

    def next_seconds(self, size: int, taken: Members) -> float:
        """What a layer would take in another group of that size, or else in the quickest place that is not taken."""
        alone = (self._problem.places[number].layer_seconds for number in self._by_speed if number not in taken)
        grown = self.grown(taken)
        return self.seconds(grown[size]) if size in grown else next(alone, _NOWHERE)

    def weights(self, members: Members, left: float, beyond: float) -> list[Fraction]:
        """Shares with which a token takes least: as they are fast, or so that more layers fit.

        Args:
            members: who shares.
            left: layers that there are for them and others.
            beyond: seconds of a layer in others, of those that do not fit here.
        """
        speeds = [1 / self._problem.places[number].layer_seconds for number in members]
        rooms = [_room(self._problem.places[number]) for number in members]
        sums = self.seconds(members) - 1 / sum(speeds)

        def token(layers: float) -> float:
            shares = _poured(speeds, [room / layers for room in rooms])
            slowest = max(share / speed for share, speed in zip(shares, speeds, strict=True))
            return layers * (slowest + sums) + (left - layers) * beyond

        most = min(left, sum(rooms))
        fits = min(most, sum(speeds) * min(room / speed for room, speed in zip(rooms, speeds, strict=True)))
        tried = [fits + (most - fits) * step / _STEPS for step in range(_STEPS + 1)]
        shares = _poured(speeds, [room / min(tried, key=token) for room in rooms])
        return [max(Fraction(share).limit_denominator(1_000_000), Fraction(1, 1000)) for share in shares]

    def _alone(self, members: Members) -> float:
        return min(self._problem.places[number].layer_seconds for number in members)

    def _larger(self, start: Members, seeds: Sequence[int]) -> Iterator[Members]:
        members = start
        while len(members) <= _MOST_MEMBERS:
            yield members
            larger = [tuple(sorted((*members, seed))) for seed in seeds if seed not in members]
            if not larger:
                return
            members = min(larger, key=self.seconds)

    def _sum(self, members: Members) -> float:
        mesh = mesh_of(self._problem.fleet, [self._problem.places[number].name for number in members])
        request = self._problem.request
        nbytes = message_bytes(request.spec.hidden, wire_of(mesh, request.goal.dtype))
        return min(seconds(mesh, nbytes) for seconds in SECONDS.values()) + request.goal.software.sum

    @cached_property
    def _parts(self) -> list[PartSeconds]:
        return parts_of_a_layer(self._problem)


def _room(place: Place) -> float:
    holder = place.holders[0]
    return max(0.0, holder.free / (holder.layer_weights + holder.layer_kv))


def _poured(speeds: Sequence[float], most: Sequence[float]) -> list[float]:
    """Shares of one, in proportion to speed where that is no more than each may have."""
    full: set[int] = set()
    while True:
        left = 1 - sum(most[number] for number in full)
        speed = sum(one for number, one in enumerate(speeds) if number not in full)
        shares = [most[number] if number in full else left * one / speed for number, one in enumerate(speeds)]
        over = {number for number, share in enumerate(shares) if number not in full and share > most[number]}
        if not over or len(full | over) == len(speeds):
            return shares
        full |= over
