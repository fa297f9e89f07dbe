"""Layers that a GPU's memory does not hold: copied from pinned host memory ahead of their turn, or made every step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from potluck.kernels.gpu.lanes import lane_for
from potluck.kernels.gpu.stream_plan import StreamPlan
from potluck.kernels.gpu.streaming import LayerStream
from potluck.worker.decoder import Layer
from potluck.worker.device import wait_for
from potluck.worker.gpu.flat import FlatLayer, weights_over
from potluck.worker.layers import LayerMaker
from potluck.worker.streaming import Streamer


class CopiedLayers:
    """Layers that lie in host memory as the device reads them (a `potluck.worker.layers.ComingLayers`)."""

    def __init__(
        self, makers: Sequence[LayerMaker], flats: Sequence[FlatLayer], plan: StreamPlan, device: torch.device
    ) -> None:
        """Layers and their bytes in the order in which a step needs them, which the plan counts from 0."""
        self.plan = plan
        self._lane = lane_for(plan, [flat.data_B for flat in flats], device)
        self._stream = LayerStream(plan, self._lane)
        self._turns = {maker.number: turn for turn, maker in enumerate(makers)}
        self._forms = {maker.number: (maker, flat.form) for maker, flat in zip(makers, flats, strict=True)}
        self._made: dict[tuple[int, int], Layer] = {}

    @contextmanager
    def layer(self, number: int) -> Iterator[Layer]:
        """A layer, once what is computed next may read it."""
        with self._stream.layer(self._turns[number]) as data_B:
            yield self._over(number, data_B)

    @property
    def stall_seconds(self) -> float:
        """Seconds that computing waited for copies."""
        return self._lane.stall_seconds

    @property
    def brought_bytes(self) -> int:
        """Bytes copied."""
        return self._lane.copied_bytes

    def _over(self, number: int, data_B: torch.Tensor) -> Layer:
        # Kept, because a layer is some dozen views, which every step would make anew.
        key = number, data_B.data_ptr()
        if key not in self._made:
            maker, form = self._forms[number]
            self._made[key] = maker.layer(weights_over(form, data_B))
        return self._made[key]


class MadeLayers:
    """Layers laid out anew on the device for every step (a `potluck.worker.layers.ComingLayers`)."""

    def __init__(self, makers: Sequence[LayerMaker], streamer: Streamer, device: torch.device) -> None:
        """`streamer` brings what they are made from into the host's memory."""
        self._makers, self._streamer, self._device = {maker.number: maker for maker in makers}, streamer, device
        self._seconds = 0.0

    @contextmanager
    def layer(self, number: int) -> Iterator[Layer]:
        """A layer, made from what is in the host's memory for this long."""
        maker = self._makers[number]
        with self._streamer.here(maker.unit):
            # Else what was launched before would count as a wait for this.
            wait_for(self._device)
            begun = time.perf_counter()
            layer = maker.made()
            wait_for(self._device)
            self._seconds += time.perf_counter() - begun
            yield layer

    @property
    def stall_seconds(self) -> float:
        """Seconds that computing waited for reads and copies."""
        return self._streamer.stall_seconds + self._seconds

    @property
    def brought_bytes(self) -> int:
        """Bytes read."""
        return self._streamer.bytes_read
