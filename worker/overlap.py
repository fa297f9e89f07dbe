"""A sum of many rows in pieces: one travels while the next is computed.

Over 1 Gbit/s a layer's sums of a prompt of 512 rows take as long as its products (bench/tensor_parallel.py). Rows do
not depend on each other, so the sum has the same bits as in one piece.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from potluck.worker.sums import Buffers, Circle, Direct

FEWEST_ROWS = 32  # fewer take no time to travel, and products slow down


class Overlap:
    """Direct exchange in pieces."""

    def __init__(self, circle: Circle, buffers: Buffers, apart: Callable[[], AbstractContextManager[None]]) -> None:
        """`apart` surrounds what is not this node's computing."""
        self._circle, self._buffers, self._apart = circle, buffers, apart
        self.seconds = 0.0

    def sum(self, parts: Iterable[torch.Tensor], shape: tuple[int, int]) -> torch.Tensor:
        """The sum (T, D) of all members' parts, which are computed one after the other as they are asked for."""
        sum_N, done = self._buffers.sum(shape[0] * shape[1]), 0
        underway: Direct | None = None
        for part_TD in parts:
            part_N = part_TD.to("cpu", torch.float32).view(-1)
            with self._timed():
                if underway is not None:
                    underway.finish()
                underway = Direct(self._circle, part_N, self._buffers, sum_N[done : done + len(part_N)])
            done += len(part_N)
        with self._timed():
            if underway is not None:
                underway.finish()
        return sum_N.view(shape)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        with self._apart():
            begun = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - begun
