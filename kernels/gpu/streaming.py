"""Layers of a model too large for its device, copied from pinned host memory while others are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from potluck.kernels.gpu.stream_plan import StreamPlan


class Lane(Protocol):
    """Where layers lie on a device and how they get there. No call blocks; the device keeps the order."""

    @property
    def stall_seconds(self) -> float:
        """Seconds that computing waited for copies, as far as is known."""

    @property
    def copied_bytes(self) -> int:
        """Bytes that copies brought, or are bringing."""

    def resident(self, layer: int) -> torch.Tensor:
        """A layer that stays."""

    def slot(self, slot: int) -> torch.Tensor:
        """What a slot holds."""

    def copy(self, layer: int, slot: int) -> None:
        """Copy a layer to a slot, when the slot's last release and the copies before are done."""

    def wait(self, slot: int) -> None:
        """Let what is computed from here on wait for the slot's last copy."""

    def release(self, slot: int) -> None:
        """Let copies to the slot wait for what was computed up to here."""


class LayerStream:
    """Gives each layer's weights in turn; copies the ones to come as slots become free."""

    __slots__ = ("_lane", "_next", "_plan", "_streamed")

    def __init__(self, plan: StreamPlan, lane: Lane) -> None:
        """Start copying the first layers."""
        self._plan, self._lane = plan, lane
        self._streamed = {layer: i for i, layer in enumerate(plan.streamed)}
        self._next = 0
        self._fill()

    @contextmanager
    def layer(self, layer: int) -> Iterator[torch.Tensor]:
        """The bytes of a layer on the device, for what is computed on the current stream until the block's end.

        Layers come in order, pass after pass. After a pass that was broken off the copies under way are wasted.
        """
        if layer not in self._streamed:
            yield self._lane.resident(layer)
            return
        if layer != self._plan.layer(self._next):
            self._next = self._streamed[layer]
            self._fill()
        slot = self._plan.slot(self._next)
        self._lane.wait(slot)
        try:
            yield self._lane.slot(slot)
        finally:
            self._lane.release(slot)
            self._lane.copy(self._plan.layer(self._next + self._plan.ring), slot)
            self._next += 1

    def _fill(self) -> None:
        for copy in range(self._next, self._next + self._plan.ring):
            self._lane.copy(self._plan.layer(copy), self._plan.slot(copy))
