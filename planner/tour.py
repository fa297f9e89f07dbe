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
            moved, place, stretch, rest = min(self._moves(order))
            if moved >= seconds - 1e-12:
                break
            order, seconds = rest[:place] + stretch + rest[place:], moved
        return order

    def _moves(self, order: Order) -> Iterator[tuple[float, int, Order, Order]]:
        """Up to three places that follow each other at another place among the rest, and what that order costs."""
        for length in (1, 2, 3):
            for first in range(len(order) - length + 1):
                stretch, rest = order[first : first + length], order[:first] + order[first + length :]
                fixed = self._way(rest) + self._way(stretch)
                for place in range(len(rest) + 1):
                    if place != first:
                        yield fixed + self._put(stretch, rest, place), place, stretch, rest

    def _way(self, order: Order) -> float:
        return self._rounds * sum(self._between(*hop) for hop in pairwise(order))

    def _put(self, stretch: Order, rest: Order, place: int) -> float:
        """What joining a stretch to the rest at a place adds to the ways within both, the ends included."""
        if place == 0:
            return self._rounds * self._between(stretch[-1], rest[0]) + self._closing(stretch[0], rest[-1])
        if place == len(rest):
            return self._rounds * self._between(rest[-1], stretch[0]) + self._closing(rest[0], stretch[-1])
        before, after = rest[place - 1], rest[place]
        detour = self._between(before, stretch[0]) + self._between(stretch[-1], after) - self._between(before, after)
        return self._rounds * detour + self._closing(rest[0], rest[-1])
