"""What a step means for this shard, as tensors: built once at the step's first window, shared by the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from potluck.kernels.attention_plan import Paging, Span
from potluck.kernels.halves import MOST_ROWS, DecodeStep
from potluck.kernels.rotary import RotaryTable
from potluck.models.spec import LayerSpec, Rope
from potluck.proto.step import Step
from potluck.worker.operations import Operations, Plan


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's packed rows.

    Attributes:
        tokens_T: token ids.
        slots_T: flat KV slot that each row writes.
        cleared: blocks whose old content must be wiped before a layer writes them; None where there are none.
        rotary: cos and signed sin of the rows, per rope.
        attention: the attention plan, per window.
        sampled_R: packed rows that go to the head; None where all do.
        single: whether every row is its sequence's only one.
        decode: a few single rows as halves of layers read them, per kind of layer; else empty.
    """

    tokens_T: torch.Tensor
    slots_T: torch.Tensor
    cleared: torch.Tensor | None
    rotary: Mapping[Rope, tuple[torch.Tensor, torch.Tensor]]
    attention: Mapping[int | None, Plan]
    sampled_R: torch.Tensor | None
    single: bool = False
    decode: Mapping[LayerSpec, DecodeStep] = field(default_factory=dict)


class BatchBuilder:
    """Builds batches for the layers a shard owns; keeps the rope tables."""

    def __init__(
        self,
        layers: Iterable[LayerSpec],
        paging: Paging,
        table: Callable[[Rope], RotaryTable],
        operations: Operations,
    ) -> None:
        """`paging` gives block size, dtype and device; its window is replaced by each layer's. `operations` are the
        layers'."""
        owned = set(layers)
        self._kinds = owned
        self._operations = operations
        self._paging = {
            window: Paging(paging.block_size, window, paging.dtype, paging.device)
            for window in {layer.window for layer in owned}
        }
        self._tables = {rope: table(rope) for rope in {layer.rope for layer in owned}}
        self._block_size = paging.block_size
        self._device = paging.device

    def build(self, step: Step, blocks: Mapping[int, Sequence[int]], cleared: list[int]) -> Batch:
        """The batch of a step whose sequences have these block tables."""
        spans, positions = _spans(step, blocks), _positions(step)
        sampled = step.sampled_rows()
        positions_T = self._numbers(positions)
        limit = max(positions, default=0) + 1
        batch = Batch(
            self._numbers([token for run in step.runs for token in run.tokens]),
            self._numbers(_slots(spans, self._block_size)),
            self._numbers(cleared) if cleared and self._operations.reads_unwritten else None,
            {rope: table.rows(positions_T, limit) for rope, table in self._tables.items()},
            {window: self._operations.plan(spans, paging) for window, paging in self._paging.items()},
            None if len(sampled) == step.rows else self._numbers(sampled),
            all(span.count == 1 for span in spans),
        )
        return replace(batch, decode=self._decode(batch)) if batch.single and 0 < step.rows <= MOST_ROWS else batch

    def _decode(self, batch: Batch) -> dict[LayerSpec, DecodeStep]:
        step = self._operations.decode
        if step is None:
            return {}
        rotary, attention = batch.rotary, batch.attention
        return {kind: step(batch.slots_T, rotary[kind.rope], attention[kind.window]) for kind in self._kinds}

    def _numbers(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def _spans(step: Step, blocks: Mapping[int, Sequence[int]]) -> list[Span]:
    spans, row = [], 0
    for run in step.runs:
        spans.append(Span(row, len(run.tokens), run.position, blocks[run.sequence]))
        row += len(run.tokens)
    return spans


def _positions(step: Step) -> list[int]:
    return [run.position + offset for run in step.runs for offset in range(len(run.tokens))]


def _slots(spans: list[Span], block_size: int) -> list[int]:
    return [
        span.table[position // block_size] * block_size + position % block_size
        for span in spans
        for position in range(span.position, span.position + span.count)
    ]
