"""A sum of many rows in pieces: one travels while the next is computed.

Over 1 Gbit/s a layer's sums of a prompt of 512 rows take as long as its products (bench/tensor_parallel.py). Rows do
not depend on each other, so the sum has the same bits as in one piece.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from potluck.worker.sums import Buffers, Circle, Direct

Apart = Callable[[float], AbstractContextManager[None]]
"""Surrounds what is not computing, after a part's; of so large a share of its rows the last product is left."""
FEWEST_ROWS = 32  # fewer take no time to travel, and products slow down


def unpaced(_left: float) -> AbstractContextManager[None]:
    """An `Apart` of a node that computes as fast as it can."""
    return nullcontext()


class Overlap:
    """Direct exchange in pieces."""

    def __init__(self, circle: Circle, buffers: Buffers, apart: Apart) -> None:
        """`apart` surrounds what is not this node's computing."""
        self._circle, self._buffers, self._apart = circle, buffers, apart
        self.seconds = 0.0

    def sum(self, parts: Iterable[torch.Tensor], shape: tuple[int, int]) -> torch.Tensor:
        """The sum (T, D) of all members' parts, which are computed one after the other as they are asked for."""
        sum_N, done = self._buffers.sum(shape[0] * shape[1]), 0
        underway: Direct | None = None
        for part_TD in parts:
            part_N = part_TD.to("cpu", torch.float32).view(-1)
            begin, done = done, done + len(part_N)
            with self._timed(1.0 - done / len(sum_N)):
                if underway is not None:
                    underway.finish()
                underway = Direct(self._circle, part_N, self._buffers, sum_N[begin:done])
                if done == len(sum_N):
                    underway.finish()
        return sum_N.view(shape)

    @contextmanager
    def _timed(self, left: float) -> Iterator[None]:
        with self._apart(left):
            begun = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - begun
