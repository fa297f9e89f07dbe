"""Layers of a model too large for its device, copied from pinned host memory while others are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from potluck.kernels.gpu.stream_plan import StreamPlan


class Lane(Protocol):
    """Where layers lie on a device and how they get there. No call blocks; the device keeps the order."""

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


class CudaLane:
    """Layers in pinned host memory, copied on a stream of its own; events keep copies and computation in order."""

    __slots__ = ("_copied", "_freed", "_host", "_resident", "_slots", "_stream")

    def __init__(self, plan: StreamPlan, host: Sequence[torch.Tensor], device: torch.device) -> None:
        """Allocate everything the plan holds and copy what stays.

        Args:
            plan: says what stays.
            host: the bytes of each layer, uint8, pinned: others cannot be copied beside a computation.
            device: the CUDA device.

        Raises:
            ValueError: there are not as many layers as planned, or one that is streamed is not pinned.
        """
        if len(host) != plan.layers or not all(host[layer].is_pinned() for layer in plan.streamed):
            raise ValueError(f"{len(host)} layers for {plan.layers}, or not pinned")
        self._host = host
        self._resident = {layer: host[layer].to(device) for layer in plan.resident}
        most = max((host[layer].numel() for layer in plan.streamed), default=0)
        self._slots = [torch.empty(most, dtype=torch.uint8, device=device) for _ in range(plan.ring)]
        self._copied = [torch.cuda.Event() for _ in self._slots]  # type: ignore[no-untyped-call]
        self._freed = [torch.cuda.Event() for _ in self._slots]  # type: ignore[no-untyped-call]
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # The slots' memory may still be read by what was computed before they were allocated.
        self._stream.wait_stream(torch.cuda.current_stream(device))

    def resident(self, layer: int) -> torch.Tensor:
        """A layer that stays."""
        return self._resident[layer]

    def slot(self, slot: int) -> torch.Tensor:
        """What a slot holds, as long as the largest layer."""
        return self._slots[slot]

    def copy(self, layer: int, slot: int) -> None:
        """Copy a layer to a slot, when the slot's last release and the copies before are done."""
        source = self._host[layer]
        self._stream.wait_event(self._freed[slot])
        with torch.cuda.stream(self._stream):
            self._slots[slot][: source.numel()].copy_(source, non_blocking=True)
        self._copied[slot].record(self._stream)

    def wait(self, slot: int) -> None:
        """Let what is computed from here on wait for the slot's last copy."""
        torch.cuda.current_stream(self._slots[slot].device).wait_event(self._copied[slot])

    def release(self, slot: int) -> None:
        """Let copies to the slot wait for what was computed up to here."""
        self._freed[slot].record(torch.cuda.current_stream(self._slots[slot].device))
