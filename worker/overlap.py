"""A sum of many rows in pieces: one travels while the next is computed.

Over 1 Gbit/s a layer's sums of a prompt of 512 rows take as long as its products (bench/tensor_parallel.py). Rows do
not depend on each other, so the sum has the same bits as in one piece.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch

from potluck.proto.member_link import Incoming, Outgoing, begin, finish
from potluck.worker.sums import Buffers, Circle, added

FEWEST_ROWS = 32  # fewer take no time to travel, and products slow down


class _Underway(NamedTuple):
    """A piece on its way: what must not be changed, and where it goes in the sum."""

    own_B: torch.Tensor
    messages: dict[int, torch.Tensor]
    outgoing: list[Outgoing]
    incoming: list[Incoming]
    sum_N: torch.Tensor


class Overlap:
    """Direct exchange in pieces."""

    def __init__(self, circle: Circle, buffers: Buffers, apart: Callable[[], AbstractContextManager[None]]) -> None:
        """`apart` surrounds what is not this node's computing."""
        self._circle, self._buffers, self._apart = circle, buffers, apart
        self.seconds = 0.0

    def sum(self, parts: Iterable[torch.Tensor], shape: tuple[int, int]) -> torch.Tensor:
        """The sum (T, D) of all members' parts, which are computed one after the other as they are asked for."""
        sum_N, done, underway = self._buffers.sum(shape[0] * shape[1]), 0, None
        for part_TD in parts:
            part_N = part_TD.to("cpu", torch.float32).view(-1)
            with self._apart():
                begun = time.perf_counter()
                self._finish(underway)
                underway = self._begin(part_N, sum_N[done : done + len(part_N)])
                self.seconds += time.perf_counter() - begun
            done += len(part_N)
        with self._apart():
            begun = time.perf_counter()
            self._finish(underway)
            self.seconds += time.perf_counter() - begun
        return sum_N.view(shape)

    def _begin(self, part_N: torch.Tensor, sum_N: torch.Tensor) -> _Underway:
        circle, nbytes = self._circle, self._circle.wire.nbytes(len(part_N))
        own_B = circle.wire.encode(part_N, self._buffers.message(circle.place, nbytes)[0])
        messages = {place: self._buffers.message(place, nbytes) for place in circle.others}
        outgoing = [Outgoing(circle.link(place), own_B.numpy().data) for place in messages]
        incoming = [Incoming(circle.link(place), view) for place, (_, view) in messages.items()]
        begin(outgoing, incoming)
        return _Underway(
            own_B, {place: message_B for place, (message_B, _) in messages.items()}, outgoing, incoming, sum_N
        )

    def _finish(self, underway: _Underway | None) -> None:
        if underway is None:
            return
        finish(underway.outgoing, underway.incoming)
        by_place = {**underway.messages, self._circle.place: underway.own_B}
        added([self._circle.wire.read(by_place[place]) for place in sorted(by_place)], underway.sum_N)
