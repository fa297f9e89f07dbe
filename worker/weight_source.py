"""Where a shard's pieces are: in memory, or in mapped files (`mapped_weights`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from potluck.worker.pieces import Unit
from potluck.worker.streaming import Streamer

# A unit's pieces by name: uint8, as `potluck.worker.packing` made them.
Placed = Mapping[str, torch.Tensor]


class WeightSource(Protocol):
    """Where a shard's pieces are. `streamer` brings in units that do not stay in memory."""

    @property
    def streamer(self) -> Streamer | None:
        """None where all of them stay."""

    def place(self, unit: Unit) -> Placed:
        """A unit's pieces."""

    def check(self) -> None:
        """Raise ShardFileError where a page that was computed with is gone."""

    def close(self) -> None:
        """Nobody computes with them any more."""


class InMemory:
    """Pieces made on the spot, held in memory."""

    streamer: Streamer | None = None

    def __init__(self, place: Callable[[Unit], Placed]) -> None:
        self.place = place

    def check(self) -> None:
        """Memory stays."""

    def close(self) -> None:
        """Nothing to end."""
