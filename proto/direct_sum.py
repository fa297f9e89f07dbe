"""Sums by direct exchange that the extension forms itself, for steps that run through a window's layers in one call.

The messages are those of `member_link.py`, byte for byte, and parts are added in the same order: a member with the
extension and one without form the same sums. Python is asked only where something goes wrong.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from potluck.proto.member_link import MemberLink, Trouble
from potluck.proto.socket_calls import SUM_ADDRESS

_SUMS, _NANOSECONDS, _WAYS = 5, 6, 7
_WAY = 3


class DirectSums:
    """The sums of one member of a group over its links; called from one thread."""

    def __init__(self, place: int, links: Sequence[MemberLink | None], half: bool) -> None:
        """`links` by place, None for its own; `half`: parts travel in bfloat16."""
        self._links = {other: link for other, link in enumerate(links) if link is not None}
        # Not a method: with a way back to itself this would not end, and give its descriptors back, when it should.
        self._told = partial(_met, self._links)
        ways = [0] * (_WAY * len(links))
        self._numbers = array("q", [place, len(links), half, id(self._told), 0, 0, 0, *ways])
        self._half = half

    @staticmethod
    def possible(links: Sequence[MemberLink | None]) -> bool:
        """Whether the extension can form sums over all of these."""
        return all(link is None or link.can_be_lent for link in links)

    @property
    def done(self) -> tuple[int, float]:
        """Sums so far, and the seconds that they took."""
        return self._numbers[_SUMS], self._numbers[_NANOSECONDS] * 1e-9

    @contextmanager
    def lent(self, count: int) -> Iterator[tuple[int, int]]:
        """The function that forms sums of `count` numbers, and what it is called with; links are its own meanwhile.

        Raises:
            MemberError: a link was closed.
        """
        before = self.done[1]
        for other, link in self._links.items():
            at = _WAYS + _WAY * other
            self._numbers[at : at + _WAY] = array("q", link.lend())
        yield SUM_ADDRESS, self._numbers.buffer_info()[0]
        for other, link in self._links.items():
            _, sent, received = self._numbers[_WAYS + _WAY * other :][:_WAY]
            link.take_back(sent, received, count * (2 if self._half else 4))
        next(iter(self._links.values())).waited(self.done[1] - before)


def _met(links: Mapping[int, MemberLink], place: int, what: int, *known: int) -> None:
    links[place].met(Trouble(what), *known)
