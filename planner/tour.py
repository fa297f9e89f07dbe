"""In which order a token comes round: exact for few places (dynamic programming), improved step by step for many.

Held and Karp (J. SIAM 10, 1962) find the shortest way over a set that ends in each of its members from those of all
smaller sets. Here the way from the last place back to the first counts too, once less than the way itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from potluck.planner.hops import Hops

MOST_EXACT = 8

Order = tuple[int, ...]


class Tour:
    """The hops of a ring of some rounds, from the place with the embedding to the one with the head."""

    def __init__(self, hops: Hops, embedding: int, head: int, rounds: int) -> None:
        self._between, self._embedding, self._head, self._rounds = hops.between, embedding, head, rounds

    def seconds(self, order: Sequence[int]) -> float:
        """What an order costs."""
        way = sum(self._between(*hop) for hop in pairwise(order))
        return self._rounds * way + self._closing(order[0], order[-1])

    def best(self, places: Sequence[int]) -> Order:
        """The order of these places that costs least; beyond `MOST_EXACT`, one that no move of a stretch improves."""
        listed = sorted(places)
        if len(listed) <= MOST_EXACT:
            return min((self._from(first, listed) for first in listed), key=self.seconds)
        return self._improved(self._nearest(listed))

    def _closing(self, first: int, last: int) -> float:
        back = (self._rounds - 1) * self._between(last, first) if first != last else 0.0
        return back + self._between(self._embedding, first) + self._between(last, self._head)

    def _from(self, first: int, places: Sequence[int]) -> Order:
        """The best order that begins with a place."""
        ways: dict[tuple[frozenset[int], int], tuple[float, Order]] = {(frozenset((first,)), first): (0.0, (first,))}
        for _ in range(len(places) - 1):
            longer: dict[tuple[frozenset[int], int], tuple[float, Order]] = {}
            for (seen, last), (way, order) in ways.items():
                for place in places:
                    if place not in seen:
                        key, found = (seen | {place}, place), (way + self._between(last, place), (*order, place))
                        longer[key] = min(longer.get(key, found), found)
            ways = longer
        return min((order for _, order in ways.values()), key=self.seconds)

    def _nearest(self, places: Sequence[int]) -> Order:
        order, rest, last = [], set(places), self._embedding
        while rest:
            last = min(rest, key=lambda place: (self._between(last, place), place))
            rest.remove(last)
            order.append(last)
        return tuple(order)

    def _improved(self, order: Order) -> Order:
        """Move stretches elsewhere as long as that helps (Or-opt: no stretch is turned, as links are not symmetric)."""
        seconds = self.seconds(order)
        for _ in range(len(order)):
            best = min(_moved(order), key=self.seconds)
            if self.seconds(best) >= seconds - 1e-12:
                break
            order, seconds = best, self.seconds(best)
        return order


def _moved(order: Order) -> Iterator[Order]:
    """Every order in which up to three places that follow each other stand elsewhere."""
    for length in (1, 2, 3):
        for first in range(len(order) - length + 1):
            stretch, rest = order[first : first + length], order[:first] + order[first + length :]
            for place in range(len(rest) + 1):
                if place != first:
                    yield rest[:place] + stretch + rest[place:]
