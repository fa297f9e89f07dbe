"""The best ring of two places or more for a number of rounds, first with hops underestimated, then with exact ones.

The first programme bounds what any ring can cost. Its places are put in the best order; what that costs beyond the
bound is what the estimate of hops left out. Up to `tour.MOST_EXACT` places, the programme with exact hops closes the
gap. In larger fleets it is solved over the places found and the quickest others alone, and the bound stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from math import inf

from potluck.planner.hop_terms import cheapest_hops, exact_hops
from potluck.planner.layout import Layout
from potluck.planner.problem import Found, Problem, Search
from potluck.planner.programme import Answer, Effort, Terms
from potluck.planner.ring_columns import Room
from potluck.planner.ring_programme import RingProgramme
from potluck.planner.smoothing import smoothed
from potluck.planner.stream_moves import kept_by_window
from potluck.planner.tour import MOST_EXACT, Tour

_CLOSE, _CLOSER = 1 + 1e-6, 1 - 1e-9
_EXACT = Effort(20_000)
# For what bounds nothing: a limit, and what is found over some places of a larger fleet. With all effort, 64 places
# took 20 s for half a percent.
_ROUGH = Effort(200, 1e-3)
# A larger fleet is first thinned out: to the places that the relaxed programme uses most, and the quickest.
MOST_WHOLE = 64
_MOST_USED, _MOST_QUICK = 32, 16


@dataclass(frozen=True, slots=True)
class Loose:
    """A ring found with hops underestimated, its programme, and what no ring of its kind can cost less than.

    `few`: whether those are all places, and so few that the programme with exact hops may raise the bound.
    """

    found: Found
    ring: RingProgramme
    bound: float
    few: bool


def best_ring(problem: Problem, rounds: int, limit: float, room: Room = "none") -> Search:
    """The best ring, if any costs no more than `limit` seconds of the goal's aim; `room` for what it streams."""
    loose = loosely(problem, rounds, limit, room)
    return tightened(loose, limit) if loose else Search(None)


def loosely(problem: Problem, rounds: int, limit: float, room: Room = "none") -> Loose | None:
    """The best ring with hops underestimated, if any costs no more than `limit` seconds of the goal's aim."""
    if len(problem.places) < 2 or problem.layers < 2 * rounds:
        return None
    if len(problem.places) > MOST_WHOLE:
        return _thinned(problem, rounds, limit, room)
    if limit == inf:
        # Tolerances are as fine as the limit is low.
        rough = _loosely(problem, (rounds, room), _most_seconds(problem, rounds), _ROUGH)
        return _loosely(problem, (rounds, room), rough.found.seconds, _EXACT) or rough if rough else None
    return _loosely(problem, (rounds, room), limit, _EXACT)


def _loosely(problem: Problem, kind: tuple[int, Room], limit: float, effort: Effort) -> Loose | None:
    ring = RingProgramme(problem, kind[0], limit, kind[1])
    answer = _solved(ring, cheapest_hops, effort)
    if answer is None:
        return None
    return Loose(_found(ring, answer), ring, ring.seconds(answer.bound), len(problem.places) <= MOST_EXACT)


def _thinned(problem: Problem, rounds: int, limit: float, room: Room) -> Loose | None:
    """The best ring over some places of a large fleet; the bound is that of the relaxed programme over all of them."""
    ring = RingProgramme(problem, rounds, limit if limit < inf else _most_seconds(problem, rounds), room)
    ring.set_aim(cheapest_hops(ring))
    relaxed = ring.programme.minimise(relaxed=True)
    if relaxed is None:
        return None

    def used(number: int) -> float:
        one = ring.columns[number]
        return relaxed.values[one.layers] + relaxed.values[one.embedding] + relaxed.values[one.head]

    numbers = [number for number, place in enumerate(problem.places) if place.most() > 0]
    by_speed = sorted(numbers, key=lambda number: problem.places[number].layer_seconds)
    by_room = sorted(numbers, key=lambda number: problem.places[number].layer_seconds / problem.places[number].most())
    by_use = sorted(numbers, key=used, reverse=True)[:_MOST_USED]
    chosen = {*problem.required(rounds), *by_use, *by_speed[:_MOST_QUICK], *by_room[:_MOST_QUICK]}
    over = problem.narrowed(sorted(chosen)[:MOST_WHOLE])
    loose = _loosely(over, (rounds, room), limit if limit < inf else _most_seconds(over, rounds), _ROUGH)
    return replace(loose, bound=ring.seconds(relaxed.bound), few=False) if loose else None


def tightened(loose: Loose, limit: float) -> Search:
    """The search's result, once hops are exact where they can be; `limit` as in `best_ring`."""
    found, bound = loose.found, loose.bound
    limit = min(limit, found.seconds)
    if limit <= bound * _CLOSE:
        return Search(found)
    over = found.problem if loose.few else found.problem.narrowed(_promising(found))
    ring = RingProgramme(over, loose.ring.rounds, limit, loose.ring.room)
    answer = _solved(ring, exact_hops)
    better = _found(ring, answer) if answer else found
    nearest = min(found, better, key=lambda one: one.seconds)
    if not loose.few:
        return Search(nearest, bound)
    # What the programme says of room for a layer may be less than what its ring costs.
    exact = ring.seconds(answer.bound) if answer and loose.ring.room == "layer" else inf
    return Search(nearest, max(bound, exact))


def _solved(ring: RingProgramme, hops: Callable[[RingProgramme], Terms], effort: Effort = _EXACT) -> Answer | None:
    ring.set_aim(hops(ring))
    return ring.programme.minimise(effort)


def _found(ring: RingProgramme, answer: Answer) -> Found:
    columns = ring.columns
    counts = {number: answer.whole(one.layers) for number, one in enumerate(columns) if answer.whole(one.layers)}
    embedding, head = (
        next(number for number, one in enumerate(columns) if answer.chosen(getattr(one, end)))
        for end in ("embedding", "head")
    )
    order = Tour(ring.problem.hops, embedding, head, ring.rounds).best(list(counts))
    layout = smoothed(Layout(order, counts, embedding, head, ring.rounds), ring.problem)
    found = ring.problem.found(replace(layout, kept=kept_by_window(layout, ring.problem)))
    return found if ring.problem.request.goal.aim == "latency" else _turned(found)


def _turned(found: Found) -> Found:
    """The same with places changed round while that helps.

    The shortest way is not all that counts where tokens follow each other: a link may hold them up, or a place that has
    layers and the head but is come to twice.
    """
    problem, order = found.problem, found.layout.order
    if len(order) > MOST_EXACT or found.layout.kept:
        return found
    for one, two in combinations(range(len(order)), 2):
        other = list(order)
        other[one], other[two] = order[two], order[one]
        turned = problem.found(replace(found.layout, order=tuple(other)))
        if turned.seconds < found.seconds * _CLOSER:
            return _turned(turned)
    return found


def _promising(found: Found) -> list[int]:
    """The places found and the quickest others, as many as are solved exactly."""
    places, used = found.problem.places, found.layout.used[:MOST_EXACT]
    others = [number for number in range(len(places)) if number not in used and places[number].room() > 0]
    quickest = sorted(others, key=lambda number: places[number].layer_seconds)
    return sorted([*used, *quickest[: MOST_EXACT - len(used)]])


def _most_seconds(problem: Problem, rounds: int) -> float:
    """More than any sensible ring takes."""
    places, hops = [place for place in problem.places if place.most() > 0] or problem.places, problem.hops
    slowest = max(place.layer_seconds for place in places) * problem.layers
    ends = max(place.head_seconds + place.embedding_seconds for place in problem.places)
    reading = max((place.holders[0].layer_weights / place.disk for place in places if place.disk), default=0.0)
    ways = sum(hops.between(0, number) + hops.between(number, 0) for number in range(len(problem.places)))
    engine = max(hops.enter(number) + hops.leave(number) for number in range(len(problem.places)))
    return 2 * (slowest + ends + reading * problem.layers + (rounds + 2) * ways + engine)
