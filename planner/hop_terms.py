"""The hops of a ring as a linear expression: exact, or as what they cannot take less than.

A token goes from the place with the embedding to the ring's first, round from each to the next, from the last back to
the first but for the last round, and from the last to the place with the head. With a column y for every pair of
places that follow each other (the last and the first, too), z for that one closing pair, and k rounds:

    hops = k sum of y hop - sum of z hop + the way to the first + the way from the last

Positions rise along every pair but the closing one, so that there is one ring (Miller, Tucker and Zemlin, J. ACM 7,
1960). In a large fleet, or where all links are alike, every place pays the cheapest way to it instead; then hops are
underestimated, and what comes out is a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations, product

from potluck.planner.programme import Terms, total
from potluck.planner.ring_programme import RingProgramme

Pair = tuple[int, int]


def cheapest_hops(ring: RingProgramme) -> Terms:
    """Seconds that the hops take at least."""
    programme, hops, rounds = ring.programme, ring.problem.hops, ring.rounds
    terms: list[Terms] = [_engine_hops(ring)]
    for number, one in enumerate(ring.columns):
        least = hops.cheapest[number]
        entered, left = programme.column(1.0), programme.column(1.0)
        for joined, ends in ((entered, (one.first, one.embedding)), (left, (one.last, one.head))):
            for end in ends:
                programme.at_most(0.0, {joined: 1.0, end: -1.0})
        ring.joined.append((entered, left))
        terms.append({one.used: rounds * least, entered: -least, one.head: least, left: -least})
    return total(*terms)


def exact_hops(ring: RingProgramme) -> Terms:
    """Seconds that the hops take."""
    programme, hops = ring.programme, ring.problem.hops
    pairs = {pair: hops.between(*pair) for pair in permutations(range(len(ring.columns)), 2)}
    follows, closes = ({pair: programme.binary() for pair in pairs} for _ in range(2))
    _ring(ring, follows, closes)
    _one_ring(ring, follows, closes)
    ring.waits += [{follows[pair]: hops.wire(*pair), closes[pair]: -hops.wire(*pair)} for pair in pairs]
    terms: dict[int, float] = {}
    for pair, seconds in pairs.items():
        terms |= {follows[pair]: ring.rounds * seconds, closes[pair]: -seconds}
    entry = _sent(ring, [one.embedding for one in ring.columns], [one.first for one in ring.columns])
    leaving = _sent(ring, [one.last for one in ring.columns], [one.head for one in ring.columns])
    ring.joined += [(entry[number, number], leaving[number, number]) for number in range(len(ring.columns))]
    ways = [{column: hops.between(*pair) for pair, column in sent.items()} for sent in (entry, leaving)]
    return total(terms, *ways, _engine_hops(ring))


def _engine_hops(ring: RingProgramme) -> Terms:
    hops = ring.problem.hops
    enter = {one.embedding: hops.enter(number) for number, one in enumerate(ring.columns)}
    return enter | {one.head: hops.leave(number) for number, one in enumerate(ring.columns)}


def _ring(ring: RingProgramme, follows: Mapping[Pair, int], closes: Mapping[Pair, int]) -> None:
    """Every used place has one before and one after it; the closing pair is the last and the first."""
    programme, numbers = ring.programme, range(len(ring.columns))
    for number, one in enumerate(ring.columns):
        into, out = ([pair for pair in follows if pair[side] == number] for side in (1, 0))
        programme.equal(0.0, {follows[pair]: 1.0 for pair in into}, {one.used: -1.0})
        programme.equal(0.0, {follows[pair]: 1.0 for pair in out}, {one.used: -1.0})
        programme.equal(0.0, {closes[pair]: 1.0 for pair in into}, {one.first: -1.0})
        programme.equal(0.0, {closes[pair]: 1.0 for pair in out}, {one.last: -1.0})
    for pair in permutations(numbers, 2):
        programme.at_most(0.0, {closes[pair]: 1.0, follows[pair]: -1.0})


def _one_ring(ring: RingProgramme, follows: Mapping[Pair, int], closes: Mapping[Pair, int]) -> None:
    programme, count = ring.programme, len(ring.columns)
    positions = [programme.column(count - 1) for _ in range(count)]
    for before, after in follows:
        rises = {positions[before]: 1.0, positions[after]: -1.0}
        pair = {follows[before, after]: float(count), closes[before, after]: -float(count)}
        programme.at_most(count - 1.0, rises, pair)


def _sent(ring: RingProgramme, sources: Sequence[int], targets: Sequence[int]) -> dict[Pair, int]:
    """From whichever of some places is chosen to whichever of others: a transport of one unit."""
    programme, hops = ring.programme, ring.problem.hops
    numbers = range(len(ring.columns))
    sent = {(source, target): programme.column(1.0) for source, target in product(numbers, repeat=2)}
    for number in numbers:
        programme.equal(0.0, {sent[number, target]: 1.0 for target in numbers}, {sources[number]: -1.0})
        programme.equal(0.0, {sent[source, number]: 1.0 for source in numbers}, {targets[number]: -1.0})
    ring.waits += [{column: hops.wire(*pair)} for pair, column in sent.items()]
    return sent
