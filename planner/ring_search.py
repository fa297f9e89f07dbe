"""The best ring of two places or more for a number of rounds, first with hops underestimated, then with exact ones.

The first programme bounds what any ring can cost. Its places are put in the best order; what that costs beyond the
bound is what the estimate of hops left out. Up to `tour.MOST_EXACT` places, the programme with exact hops closes the
gap. In larger fleets it is solved over the places found and the quickest others alone, and the bound stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from math import inf

from potluck.planner.hop_terms import cheapest_hops, exact_hops
from potluck.planner.layout import Layout
from potluck.planner.problem import Found, Problem, Search
from potluck.planner.programme import Answer, Terms
from potluck.planner.ring_columns import Room
from potluck.planner.ring_programme import RingProgramme
from potluck.planner.smoothing import smoothed
from potluck.planner.stream_moves import kept_by_window
from potluck.planner.tour import MOST_EXACT, Tour

_CLOSE, _CLOSER = 1 + 1e-6, 1 - 1e-9
_MOST_BRANCHES = 20_000
# A larger fleet is first thinned out: to the places that the relaxed programme uses most, and the quickest.
MOST_WHOLE = 64
_MOST_USED, _MOST_QUICK = 32, 16


def best_ring(problem: Problem, rounds: int, limit: float, room: Room = "none") -> Search:
    """The best ring, if any costs no more than `limit` seconds of the goal's aim; `room` for what it streams."""
    if len(problem.places) < 2 or problem.layers < 2 * rounds:
        return Search(None)
    if len(problem.places) > MOST_WHOLE:
        return _thinned(problem, rounds, limit, room)
    known = limit < inf
    ring = RingProgramme(problem, rounds, limit if known else _most_seconds(problem, rounds), room)
    answer = _solved(ring, cheapest_hops)
    if answer is None:
        return Search(None)
    found = _found(ring, answer)
    # Tolerances are as fine as the limit is low.
    if not known:
        return best_ring(problem, rounds, found.seconds, room)
    return _tightened(found, ring, ring.seconds(answer.bound))


def _thinned(problem: Problem, rounds: int, limit: float, room: Room) -> Search:
    """The best ring over some places of a large fleet; the bound is that of the relaxed programme over all of them."""
    ring = RingProgramme(problem, rounds, limit if limit < inf else _most_seconds(problem, rounds), room)
    ring.set_aim(cheapest_hops(ring))
    relaxed = ring.programme.minimise(relaxed=True)
    if relaxed is None:
        return Search(None)

    def used(number: int) -> float:
        one = ring.columns[number]
        return relaxed.values[one.layers] + relaxed.values[one.embedding] + relaxed.values[one.head]

    numbers = [number for number, place in enumerate(problem.places) if place.most() > 0]
    by_speed = sorted(numbers, key=lambda number: problem.places[number].layer_seconds)
    by_room = sorted(numbers, key=lambda number: problem.places[number].layer_seconds / problem.places[number].most())
    by_use = sorted(numbers, key=used, reverse=True)[:_MOST_USED]
    chosen = {*problem.required(rounds), *by_use, *by_speed[:_MOST_QUICK], *by_room[:_MOST_QUICK]}
    search = best_ring(problem.narrowed(sorted(chosen)[:MOST_WHOLE]), rounds, limit, room)
    return Search(search.best, ring.seconds(relaxed.bound))


def _tightened(found: Found, loose: RingProgramme, bound: float) -> Search:
    """The search's result, once hops are exact where they can be."""
    if found.seconds <= bound * _CLOSE:
        return Search(found)
    problem, few = found.problem, len(found.problem.places) <= MOST_EXACT
    over = problem if few else problem.narrowed(_promising(found))
    ring = RingProgramme(over, loose.rounds, found.seconds, loose.room)
    answer = _solved(ring, exact_hops)
    better = _found(ring, answer) if answer else found
    best = min(found, better, key=lambda one: one.seconds)
    if loose.room == "layer" and answer:
        return Search(best, max(bound, ring.seconds(answer.bound)) if few else bound)
    return Search(best, inf if few else bound)


def _solved(ring: RingProgramme, hops: Callable[[RingProgramme], Terms]) -> Answer | None:
    ring.set_aim(hops(ring))
    return ring.programme.minimise(_MOST_BRANCHES)


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
        turned = replace(found.layout, order=tuple(other))
        if problem.seconds(turned) < found.seconds * _CLOSER:
            return _turned(problem.found(turned))
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
