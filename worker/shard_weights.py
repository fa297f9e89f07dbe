"""Loading a shard: its units put together where they are computed with, and its KV pools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from potluck.worker.group import Combine
from potluck.worker.kv import new_pool
from potluck.worker.layers import LayerMaker, Layers, on_host
from potluck.worker.operations import Operations
from potluck.worker.pace import Pace, counting
from potluck.worker.pieces import Unit, head_unit
from potluck.worker.residence import Matrix
from potluck.worker.shard_memory import ShardMemory
from potluck.worker.streaming import Streamer
from potluck.worker.weight_source import Placed, WeightSource
from potluck.worker.weights import Assembly, HeadWeights
from potluck.worker.windows import Window, streamed_units, units_of_windows


class ShardWeights(NamedTuple):
    """What a shard computes with; only the layers where it has neither end."""

    embedding: Matrix | None
    head: HeadWeights | None
    layers: Layers


class ShardMaker:
    """Puts the weights of a shard together."""

    def __init__(
        self, memory: ShardMemory, operations: Operations, groups: Mapping[int, Combine], pace: Pace | None
    ) -> None:
        """`memory` has the shard's model, windows and configuration; `groups` the windows that others run, too."""
        self._memory, self._operations, self._groups, self._pace = memory, operations, groups, pace
        self._spec, self._windows, self._config = memory.spec, memory.windows, memory.config
        self._alone = alone(operations, pace)
        self._assembly = Assembly(self._spec, self._config.form, self._config.residence)

    def made(self, source: WeightSource) -> ShardWeights:
        """Everything, with KV.

        Raises:
            whatever `source.place` does.
        """
        placed = {unit: source.place(unit) for unit in units_of_windows(self._spec, self._windows)}
        embedding, head = self._embedding(placed), self._head(placed)
        # Last: how many streamed layers a GPU holds depends on what everything else has left.
        makers = [self._maker(window, unit, placed[unit]) for window in self._windows for unit in window.layer_units]
        return ShardWeights(embedding, head, self._layers(makers, source.streamer))

    def _embedding(self, placed: Mapping[Unit, Placed]) -> Matrix | None:
        units = [Unit("embedding", cut=window.cut) for window in self._windows if window.embedding]
        return self._assembly.embedding(units[0], placed[units[0]]) if units else None

    def _head(self, placed: Mapping[Unit, Placed]) -> HeadWeights | None:
        units = [head_unit(self._spec, window.cut) for window in self._windows if window.head]
        return self._assembly.head(placed[Unit("output_norm")], units[0], placed[units[0]]) if units else None

    def _maker(self, window: Window, unit: Unit, placed: Placed) -> LayerMaker:
        spec, group = window.spec(self._spec), self._groups.get(window.stage)
        operations = self._together(group) if group else self._alone
        like = torch.empty(0, dtype=self._config.dtype, device=self._config.device)
        pool_NS2KE = new_pool(spec, self._config.kv_shape, like)
        weights = partial(self._assembly.layer, unit, placed)
        return LayerMaker(unit, spec, operations, pool_NS2KE, weights, self._memory.of_units([unit]), group is not None)

    def _together(self, group: Combine) -> Operations:
        return replace(self._operations, sum=group.sum, summed=group.summed, in_one=group.in_one)

    def _layers(self, makers: list[LayerMaker], streamer: Streamer | None) -> Layers:
        streamed = [unit.layer for unit in streamed_units(self._windows) if unit.layer is not None]
        if self._config.kernels == "cpu":
            return on_host(makers, streamed, streamer, self._pace)
        from potluck.worker.gpu.layers import on_gpu

        return on_gpu(makers, streamed, streamer, self._config)


def alone(operations: Operations, pace: Pace | None) -> Operations:
    """The operations of windows that no other node runs, at the pace of a described node."""
    return operations if pace is None else counting(operations, pace)
