"""A shard: the windows of a model that one node runs, with their weights, KV and, on the head, the sampler.

Called from one thread. Windows of one node share weights, KV and what was worked out about a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from potluck.kernels.attention_plan import Paging
from potluck.kernels.rotary import RotaryTable
from potluck.models.rope import inverse_frequencies
from potluck.models.spec import ModelSpec, Rope
from potluck.proto.step import Outcome, Step
from potluck.worker.batch import Batch, BatchBuilder
from potluck.worker.decoder import embed, embed_some, logits
from potluck.worker.group import Combine
from potluck.worker.kv import BlockTables, new_pool
from potluck.worker.layers import LayerMaker, Layers, on_host
from potluck.worker.operations import Operations, operations_of
from potluck.worker.pace import Pace, counting
from potluck.worker.pieces import Unit, head_unit
from potluck.worker.residence import Matrix
from potluck.worker.sampler import Sampler
from potluck.worker.streaming import Streamer
from potluck.worker.weights import Assembly, HeadWeights, Placed, WeightSource, bytes_of
from potluck.worker.windows import (
    ShardConfig,
    Window,
    check_windows,
    is_head_only,
    layers_of,
    query_group,
    streamed_units,
    units_of_windows,
)

__all__ = ["Shard", "ShardConfig", "StepError", "Window"]

_MOST_UNDERWAY = 256  # the coordinator keeps fewer steps in flight


class StepError(Exception):
    """A step cannot run here: wrong order, size or content; the sender's fault."""


@dataclass(frozen=True, slots=True)
class _Underway:
    """A step that still has to pass windows of this node: the stages of `ahead`."""

    step: Step
    batch: Batch
    sampled: int
    ahead: list[int]


class Shard:
    """Runs windows of the model spec. Build it, load it, then run steps in order of their numbers."""

    def __init__(
        self,
        spec: ModelSpec,
        windows: Sequence[Window],
        config: ShardConfig,
        groups: Mapping[int, Combine] | None = None,
        pace: Pace | None = None,
    ) -> None:
        """`groups`: by stage, of the windows that this node runs together with others; `pace`: of a described node.

        Raises:
            ValueError: the windows are not distinct parts of the model.
        """
        check_windows(spec, windows)
        self._spec = spec
        self._config = config
        self._windows = {window.stage: window for window in windows}
        self._groups, self._pace = dict(groups or {}), pace
        self._tables = BlockTables(config.kv_shape)
        self._underway: dict[int, _Underway] = {}
        self._number = 0
        self._embedding: Matrix | None = None
        self._layers = Layers()
        self._head: HeadWeights | None = None
        self._weights: WeightSource | None = None
        self._streamer: Streamer | None = None
        self._sampler = Sampler(spec.vocab, self._logits)
        paging = Paging(config.block_size, None, config.dtype, config.device)
        owned = [spec.layers[layer] for layer in layers_of(windows)]
        group = query_group(spec, windows) if config.kernels == "gpu" else 0
        self._operations = operations_of(config.kernels, group)
        self._builder = BatchBuilder(owned, paging, self._rotary_table, self._operations)

    @staticmethod
    def required_bytes(spec: ModelSpec, windows: Sequence[Window], config: ShardConfig) -> tuple[int, int]:
        """Bytes of weights and of KV that a shard of these windows allocates."""
        kv = sum(
            len(window.layers) * config.kv_shape.bytes_per_layer(window.spec(spec), config.dtype) for window in windows
        )
        return bytes_of(spec, units_of_windows(spec, windows), config.form, config.residence), kv

    @staticmethod
    def streamed_bytes(spec: ModelSpec, windows: Sequence[Window], config: ShardConfig) -> int:
        """Bytes of weights that do not stay in memory, those in `required_bytes`."""
        return bytes_of(spec, streamed_units(windows), config.form, config.residence)

    @property
    def streamed_units(self) -> list[Unit]:
        """Units that do not stay in memory, in the order in which a step needs them."""
        return streamed_units(list(self._windows.values()))

    @property
    def memory_bytes(self) -> int:
        """Bytes of KV and of the weights that stay in memory, with what streaming may take of it."""
        streamed = self.streamed_bytes(self._spec, list(self._windows.values()), self._config)
        held = min(streamed, self._streamer.budget) if self._streamer else 0
        return self.weight_bytes - streamed + held + self.kv_bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return self.required_bytes(self._spec, list(self._windows.values()), self._config)[0]

    @property
    def kv_itemsize(self) -> int:
        """Bytes of one number of the KV."""
        return self._config.dtype.itemsize

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV pools."""
        return self.required_bytes(self._spec, list(self._windows.values()), self._config)[1]

    @property
    def units(self) -> list[Unit]:
        """The units of the shard, each once, in the order in which a token needs them."""
        return units_of_windows(self._spec, list(self._windows.values()))

    @torch.inference_mode()
    def load(self, weights: WeightSource) -> None:
        """Take every unit's pieces, in memory or mapped, and allocate KV.

        Raises:
            whatever `weights.place` does.
        """
        config, windows = self._config, list(self._windows.values())
        assembly = Assembly(self._spec, config.form, config.residence)
        placed = {unit: weights.place(unit) for unit in self.units}
        self._weights, self._streamer = weights, weights.streamer
        for window in windows:
            if window.embedding:
                unit = Unit("embedding", cut=window.cut)
                self._embedding = assembly.embedding(unit, placed[unit])
            if window.head:
                unit = head_unit(self._spec, window.cut)
                self._head = assembly.head(placed[Unit("output_norm")], unit, placed[unit])
        # Last: how many streamed layers a GPU holds depends on what everything else has left.
        self._layers = self._made_layers(
            [self._maker(window, unit, assembly, placed[unit]) for window in windows for unit in window.layer_units]
        )

    def _maker(self, window: Window, unit: Unit, assembly: Assembly, placed: Placed) -> LayerMaker:
        spec, group = window.spec(self._spec), self._groups.get(window.stage)
        operations = replace(self._operations, sum=group.sum, summed=group.summed) if group else self._alone()
        like = torch.empty(0, dtype=self._config.dtype, device=self._config.device)
        pool_NS2KE = new_pool(spec, self._config.kv_shape, like)
        nbytes = bytes_of(self._spec, [unit], self._config.form, self._config.residence)
        weights = partial(assembly.layer, unit, placed)
        return LayerMaker(unit, spec, operations, pool_NS2KE, weights, nbytes, group is not None)

    def _alone(self) -> Operations:
        return self._operations if self._pace is None else counting(self._operations, self._pace)

    def _made_layers(self, makers: Sequence[LayerMaker]) -> Layers:
        streamed = [unit.layer for unit in self.streamed_units if unit.layer is not None]
        if self._config.kernels == "cpu":
            return on_host(makers, streamed, self._streamer, self._pace)
        from potluck.worker.gpu.layers import on_gpu

        return on_gpu(makers, streamed, self._streamer, self._config)

    def close(self) -> None:
        """No step will run any more."""
        if self._weights is not None:
            self._weights.close()

    @property
    def stall_seconds(self) -> float:
        """Seconds that computing waited for weights that do not stay."""
        return self._layers.coming.stall_seconds if self._layers.coming else 0.0

    @property
    def brought_bytes(self) -> int:
        """Bytes of weights that were brought for steps."""
        return self._layers.coming.brought_bytes if self._layers.coming else 0

    def prepared(self, number: int) -> Step | None:
        """The step of this number if it was prepared and still has windows of this shard to pass."""
        underway = self._underway.get(number)
        return underway.step if underway else None

    @torch.inference_mode()
    def prepare(self, step: Step) -> None:
        """Work out what a step means here, before its rows come. Nothing happens if that was done already.

        Raises:
            StepError, KvError: as `run`.
        """
        if step.number > self._number:
            self._arrive(step)

    @torch.inference_mode()
    def run(self, stage: int, step: Step, x_TD: torch.Tensor | None) -> torch.Tensor | list[Outcome] | None:
        """Run one window of a step.

        Args:
            stage: the window's stage.
            step: the step; each visits every window of this shard once, in order.
            x_TD: None for the window with the embedding, else the hidden rows that the stage before returned.

        Returns:
            Outcomes, in order of the runs that sample, from the window with the head (None from a member of its group
            that does not lead); else hidden rows (T, D), of the sampled rows only where the next stage is the head
            alone.

        Raises:
            StepError: an unknown stage, a step out of order, or rows that do not fit it.
            KvError: the step's KV blocks are impossible; nothing was changed.
            ShardFileError, StreamError: weights that it was computed with were gone.
            MemberError: another member of the window's group is gone.
        """
        window = self._windows.get(stage)
        if window is None:
            raise StepError(f"stage {stage} is not on this node; it runs {sorted(self._windows)}")
        underway = self._underway.get(step.number) or self._arrive(step)
        if underway.ahead[0] != stage:
            raise StepError(f"step {step.number} came to stage {stage} before stage {underway.ahead[0]}, or again")
        underway.ahead.pop(0)
        if not underway.ahead:
            del self._underway[step.number]
        if group := self._groups.get(stage):
            group.begin()
        x_TD = self._enter(window, underway, x_TD)
        if len(x_TD):
            x_TD = self._layers.run(window.layers, x_TD, underway.batch)
        wants_sampled = window.next_wants_sampled or (window.head and not is_head_only(window))
        if wants_sampled and underway.batch.sampled_R is not None:
            x_TD = x_TD.index_select(0, underway.batch.sampled_R)
        out = self._answer(group, step, x_TD) if window.head else self._leave(stage, x_TD)
        if self._weights is not None:
            self._weights.check()
        return out

    def _answer(self, group: Combine | None, step: Step, x_TD: torch.Tensor) -> list[Outcome] | None:
        if group is None or group.leads:
            return self._sampler.sample(step, x_TD)
        for rows in self._sampler.at_once(len(x_TD)):
            group.gather(self._part_of_logits(x_TD[rows]))
        return None

    def _arrive(self, step: Step) -> _Underway:
        if step.number != self._number + 1:
            raise StepError(f"step {step.number} came after step {self._number}; steps must come in order")
        if len(self._underway) >= _MOST_UNDERWAY:
            raise StepError(f"{_MOST_UNDERWAY} steps were announced and never came")
        if step.rows > self._config.max_rows:
            raise StepError(f"step {step.number} has {step.rows} rows, more than the {self._config.max_rows} agreed")
        for run in step.runs:
            for token in (*run.history, *run.tokens):
                if not 0 <= token < self._spec.vocab:
                    raise StepError(f"token {token} of sequence {run.sequence} is not in the vocabulary")
        cleared = self._tables.apply(step)
        self._number = step.number
        blocks = {run.sequence: self._tables.blocks(run.sequence) for run in step.runs}
        batch = self._builder.build(step, blocks, cleared)
        underway = _Underway(step, batch, len(step.sampled_rows()), list(self._windows))
        self._underway[step.number] = underway
        return underway

    def _enter(self, window: Window, underway: _Underway, x_TD: torch.Tensor | None) -> torch.Tensor:
        if window.embedding:
            if x_TD is not None or self._embedding is None:
                raise StepError(f"stage {window.stage} begins with tokens; it takes no hidden rows")
            tokens_T, group = underway.batch.tokens_T, self._groups.get(window.stage)
            if group is None or window.cut is None:
                return self._alone().sum(embed(self._spec, self._embedding, tokens_T))
            return group.sum(embed_some(self._spec, self._embedding, tokens_T, window.cut.vocabulary)).clone()
        rows = underway.sampled if is_head_only(window) else underway.step.rows
        if x_TD is None or x_TD.shape != (rows, self._spec.hidden) or x_TD.dtype != self._config.dtype:
            found = "nothing" if x_TD is None else f"{tuple(x_TD.shape)} {x_TD.dtype}"
            wanted = f"({rows}, {self._spec.hidden}) {self._config.dtype}"
            raise StepError(f"stage {window.stage} needs hidden rows {wanted}, got {found}")
        return x_TD.to(self._config.device).float()

    def _leave(self, stage: int, x_TD: torch.Tensor) -> torch.Tensor:
        """Hidden rows as the next stage takes them; what goes over the wire lies in the host's memory."""
        x_TD = x_TD.to(self._config.dtype)
        return x_TD if stage + 1 in self._windows else x_TD.cpu()

    def _logits(self, x_RD: torch.Tensor) -> torch.Tensor:
        part_RV = self._part_of_logits(x_RD)
        group = self._groups.get(max(self._windows))
        gathered_RV = group.gather(part_RV) if group else part_RV
        if gathered_RV is None:
            raise StepError("a member that does not lead cannot sample")
        return gathered_RV

    def _part_of_logits(self, x_RD: torch.Tensor) -> torch.Tensor:
        if self._head is None:
            raise StepError("the shard's weights were never loaded")
        return logits(self._spec, self._head, x_RD, self._operations).cpu()

    def _rotary_table(self, rope: Rope) -> RotaryTable:
        frequencies, factor = inverse_frequencies(rope, self._spec.head_dim)
        return RotaryTable(frequencies, factor, self._config.device)
