"""What the layers of a shard read of a decode step, at places that stay: the inputs of a captured step.

T = packed rows, one of each sequence; D = hidden width, E = width of a head, M = blocks of a table. Rows that fill a
batch up write no KV and see none: they touch nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from potluck.kernels.gpu.attention import splits_for
from potluck.kernels.gpu.attention_plan import AttentionPlan, Tiles
from potluck.kernels.gpu.graphs import Buffer, Choices
from potluck.models.spec import LayerSpec, ModelSpec
from potluck.worker.batch import Batch
from potluck.worker.windows import ShardConfig

# Larger batches compute long enough to hide their launches.
_MOST_ROWS = 64


class StepPlaces:
    """Buffers for the rows of decode steps, and the batch that stands in them."""

    def __init__(self, spec: ModelSpec, layers: Sequence[LayerSpec], config: ShardConfig) -> None:
        """Allocate the places for steps through these layers."""
        self.most = min(_MOST_ROWS, config.max_rows)
        self._kv_heads, self._device = spec.kv_heads, config.device
        self._ropes = list(dict.fromkeys(layer.rope for layer in layers))
        self._windows = list(dict.fromkeys(layer.window for layer in layers))
        own = torch.arange(self.most, dtype=torch.int32, device=config.device)
        # A tile for each row, with the table of the same number.
        self._tiles_T3 = torch.stack((own, torch.ones_like(own), own), 1)
        self.buffers = self._new_buffers(spec, config.kv_blocks)

    def rows(self, x_TD: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """The inputs of a step."""
        inputs = {"x": x_TD, "slots": batch.slots_T}
        for number, rope in enumerate(self._ropes):
            inputs[f"cos{number}"], inputs[f"sin{number}"] = batch.rotary[rope]
        plans = [batch.attention[window] for window in self._windows]
        for number, plan in enumerate(plans):
            inputs[f"low{number}"], inputs[f"high{number}"] = plan.low_T, plan.high_T
        return {**inputs, "tables": plans[0].tables_BM}

    def choices(self, batch: Batch, rows: int) -> Choices:
        """For each window, into how many pieces attention over so many rows cuts what they see."""
        plans = [batch.attention[window] for window in self._windows]
        return tuple(splits_for(rows, self._kv_heads, plan.longest, self._device) for plan in plans)

    def batch(self, inputs: Mapping[str, torch.Tensor], choices: Choices) -> Batch:
        """The batch whose numbers stand in these inputs; it has nothing but what layers read."""
        slots_T = inputs["slots"]
        single = Tiles(self._tiles_T3[: len(slots_T)], 1)
        plans = {
            window: AttentionPlan(inputs[f"low{i}"], inputs[f"high{i}"], inputs["tables"], single, None, 0, splits)
            for i, (window, splits) in enumerate(zip(self._windows, choices, strict=True))
        }
        rotary = {rope: (inputs[f"cos{i}"], inputs[f"sin{i}"]) for i, rope in enumerate(self._ropes)}
        return Batch(slots_T, slots_T, None, rotary, plans, None, single=True)

    def idle(self) -> tuple[torch.Tensor, Batch]:
        """One row that touches nothing, with its hidden row (1, D)."""
        inputs = {name: buffer.rows[:1] for name, buffer in self.buffers.items()}
        return inputs["x"], self.batch(inputs, (1,) * len(self._windows))

    def _new_buffers(self, spec: ModelSpec, blocks: int) -> dict[str, Buffer]:
        made = {"x": self._buffer(0, torch.float32, spec.hidden), "slots": self._buffer(-1, torch.int64)}
        for number in range(len(self._ropes)):
            made |= {f"{name}{number}": self._buffer(0, torch.float32, 1, spec.head_dim) for name in ("cos", "sin")}
        for number in range(len(self._windows)):
            made |= {f"{name}{number}": self._buffer(0, torch.int32) for name in ("low", "high")}
        tables_TM = self._buffer(0, torch.int32, blocks).rows
        return {**made, "tables": Buffer(tables_TM, 0, ragged=True)}

    def _buffer(self, filler: float, dtype: torch.dtype, *width: int) -> Buffer:
        return Buffer(torch.full((self.most, *width), filler, dtype=dtype, device=self._device), filler)
