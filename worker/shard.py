"""A shard: the windows of a model that one node runs, with their weights, KV and, on the head, the sampler.

Called from one thread. Windows of one node share weights, KV and what was worked out about a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from potluck.kernels.attention_plan import Paging
from potluck.kernels.rotary import RotaryTable
from potluck.models.rope import inverse_frequencies
from potluck.models.spec import ModelSpec, Rope
from potluck.proto.step import Outcome, Step
from potluck.worker.batch import BatchBuilder
from potluck.worker.decoder import embed, embed_some, logits
from potluck.worker.group import Combine
from potluck.worker.layers import Layers
from potluck.worker.operations import operations_of
from potluck.worker.pace import Pace
from potluck.worker.pieces import Unit
from potluck.worker.residence import Matrix
from potluck.worker.sampler import Sampler
from potluck.worker.shard_memory import ShardMemory
from potluck.worker.shard_steps import ShardSteps, StepError, Underway
from potluck.worker.shard_weights import ShardMaker, alone
from potluck.worker.weight_source import WeightSource
from potluck.worker.weights import HeadWeights
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
        self.memory = ShardMemory(spec, tuple(windows), config)
        self._spec = spec
        self._config = config
        self._windows = {window.stage: window for window in windows}
        self._groups, self._pace = dict(groups or {}), pace
        self._embedding: Matrix | None = None
        self._layers = Layers()
        self._head: HeadWeights | None = None
        self._weights: WeightSource | None = None
        self._sampler = Sampler(spec.vocab, self._logits)
        group = query_group(spec, windows) if config.kernels == "gpu" else 0
        self._operations = operations_of(config.kernels, group)
        self._steps = ShardSteps(spec, config, list(self._windows), self._builder())

    def _builder(self) -> BatchBuilder:
        config, windows = self._config, self.memory.windows
        paging = Paging(config.block_size, None, config.dtype, config.device)
        owned = [self._spec.layers[layer] for layer in layers_of(windows)]
        return BatchBuilder(owned, paging, self._rotary_table, self._operations)

    @property
    def streamed_units(self) -> list[Unit]:
        """Units that do not stay in memory, in the order in which a step needs them."""
        return streamed_units(self.memory.windows)

    @property
    def memory_bytes(self) -> int:
        """Bytes of KV and of the weights that stay in memory, with what streaming may take of it."""
        streamer = self._weights.streamer if self._weights else None
        return self.memory.held(streamer.budget if streamer else 0)

    @property
    def units(self) -> list[Unit]:
        """The units of the shard, each once, in the order in which a token needs them."""
        return units_of_windows(self._spec, self.memory.windows)

    @torch.inference_mode()
    def load(self, weights: WeightSource) -> None:
        """Take every unit's pieces, in memory or mapped, and allocate KV.

        Raises:
            whatever `weights.place` does.
        """
        self._weights = weights
        made = ShardMaker(self.memory, self._operations, self._groups, self._pace).made(weights)
        self._embedding, self._head, self._layers = made

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
        underway = self._steps.underway.get(number)
        return underway.step if underway else None

    @torch.inference_mode()
    def prepare(self, step: Step) -> None:
        """Work out what a step means here, before its rows come. Nothing happens if that was done already.

        Raises:
            StepError, KvError: as `run`.
        """
        self._steps.prepare(step)

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
        group = self._groups.get(stage)
        underway = self._steps.enter(stage, self._filled(window, step))
        if group:
            group.begin()
        x_TD = self._enter(window, underway, x_TD)
        if len(x_TD):
            x_TD = self._layers.run(window.layers, x_TD, underway.batch)
        wants_sampled = window.next_wants_sampled or (window.head and not is_head_only(window))
        if wants_sampled and underway.batch.sampled_R is not None:
            x_TD = x_TD.index_select(0, underway.batch.sampled_R)
        out = self._answer(group, underway.step, x_TD) if window.head else self._leave(stage, x_TD)
        if self._weights is not None:
            self._weights.check()
        return out

    def _filled(self, window: Window, step: Step) -> Step:
        """The step with the tokens that the one before drew; the members of a group are told by the lead."""
        sequences = [step.runs[place].sequence for place in step.open_runs]
        if not sequences or not (window.embedding and window.head):
            return step
        group = self._groups.get(window.stage)
        if group is None:
            return step.filled(self._drawn(sequences))
        return step.filled(group.tell(self._drawn(sequences) if group.leads else [0] * len(sequences)))

    def _drawn(self, sequences: Sequence[int]) -> list[int]:
        """Tokens that the last step drew; any where it could not, since nobody will read what comes of them."""
        found = self._sampler.drawn
        if unknown := [sequence for sequence in sequences if sequence not in found]:
            raise StepError(
                f"sequence {unknown[0]} is to go on with a token of the step before, which drew none for it"
            )
        return [max(0, found[sequence]) for sequence in sequences]

    def _answer(self, group: Combine | None, step: Step, x_TD: torch.Tensor) -> list[Outcome] | None:
        if group is None or group.leads:
            return self._sampler.sample(step, x_TD)
        for rows in self._sampler.at_once(len(x_TD)):
            group.gather(self._part_of_logits(x_TD[rows]))
        return None

    def _enter(self, window: Window, underway: Underway, x_TD: torch.Tensor | None) -> torch.Tensor:
        if window.embedding:
            if x_TD is not None or self._embedding is None:
                raise StepError(f"stage {window.stage} begins with tokens; it takes no hidden rows")
            tokens_T, group = underway.batch.tokens_T, self._groups.get(window.stage)
            if group is None or window.cut is None:
                return alone(self._operations, self._pace).sum(embed(self._spec, self._embedding, tokens_T))
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
