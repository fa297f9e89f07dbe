"""Where streamed layers lie on a device, and what copies them there (`Lane` of `streaming.py`)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import torch

from potluck.kernels.gpu.stream_plan import StreamPlan


class CpuLane:
    """Where there is no CUDA, for tests: a copy is made when it is asked for."""

    def __init__(self, plan: StreamPlan, host: Sequence[torch.Tensor]) -> None:
        """`host`: the bytes of each layer, uint8."""
        self._host = list(host)
        most = max((host[layer].numel() for layer in plan.streamed), default=0)
        self._slots = [torch.empty(most, dtype=torch.uint8) for _ in range(plan.ring)]
        self.stall_seconds, self.copied_bytes = 0.0, 0

    def resident(self, layer: int) -> torch.Tensor:
        """A layer that stays."""
        return self._host[layer]

    def slot(self, slot: int) -> torch.Tensor:
        """What a slot holds, as long as the largest layer."""
        return self._slots[slot]

    def copy(self, layer: int, slot: int) -> None:
        """Copy a layer to a slot; computing waits as long."""
        begun, source = time.perf_counter(), self._host[layer]
        self._slots[slot][: source.numel()].copy_(source)
        self.stall_seconds += time.perf_counter() - begun
        self.copied_bytes += source.numel()

    def wait(self, slot: int) -> None:
        """The copy is there."""

    def release(self, slot: int) -> None:
        """Nothing is computed any more."""


class _Stalls:
    """Seconds that a stream waited, summed up as the device comes to know them."""

    __slots__ = ("_open", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._open: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def wait(self, stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        """Let a stream wait for an event, and note from when to when."""
        while self._open and self._open[0][1].query():  # type: ignore[no-untyped-call]
            before, after = self._open.popleft()
            self.seconds += before.elapsed_time(after) / 1e3
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record(stream)
        stream.wait_event(event)
        after.record(stream)
        self._open.append((before, after))


class CudaLane:
    """Layers in pinned host memory, copied on a stream of its own; events keep copies and computation in order."""

    __slots__ = ("_copied", "_freed", "_host", "_resident", "_slots", "_stalls", "_stream", "copied_bytes")

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
        # The host's copies of layers that stay are not kept.
        self._host = {layer: host[layer] for layer in plan.streamed}
        self._stalls, self.copied_bytes = _Stalls(), 0
        self._resident = {layer: host[layer].to(device) for layer in plan.resident}
        most = max((host[layer].numel() for layer in plan.streamed), default=0)
        self._slots = [torch.empty(most, dtype=torch.uint8, device=device) for _ in range(plan.ring)]
        self._copied = [torch.cuda.Event() for _ in self._slots]  # type: ignore[no-untyped-call]
        self._freed = [torch.cuda.Event() for _ in self._slots]  # type: ignore[no-untyped-call]
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # The slots' memory may still be read by what was computed before they were allocated.
        self._stream.wait_stream(torch.cuda.current_stream(device))

    @property
    def stall_seconds(self) -> float:
        """Seconds that computing waited for copies; those of a pass are known in the next."""
        return self._stalls.seconds

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
        self.copied_bytes += source.numel()

    def wait(self, slot: int) -> None:
        """Let what is computed from here on wait for the slot's last copy."""
        self._stalls.wait(torch.cuda.current_stream(self._slots[slot].device), self._copied[slot])

    def release(self, slot: int) -> None:
        """Let copies to the slot wait for what was computed up to here."""
        self._freed[slot].record(torch.cuda.current_stream(self._slots[slot].device))


def lane_for(plan: StreamPlan, host: Sequence[torch.Tensor], device: torch.device) -> CpuLane | CudaLane:
    """The lane of a device."""
    return CudaLane(plan, host, device) if device.type == "cuda" else CpuLane(plan, host)
