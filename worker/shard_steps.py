"""Steps on their way through a shard: which are possible, in which order, and what each means for KV and batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from potluck.models.spec import ModelSpec
from potluck.proto.step import Step
from potluck.worker.batch import Batch, BatchBuilder
from potluck.worker.kv import BlockTables
from potluck.worker.windows import ShardConfig

_MOST_UNDERWAY = 256  # the coordinator keeps fewer steps in flight


class StepError(Exception):
    """A step cannot run here: wrong order, size or content; the sender's fault."""


@dataclass(frozen=True, slots=True)
class Underway:
    """A step that still has to pass windows of this node: the stages of `ahead`."""

    step: Step
    batch: Batch
    sampled: int
    ahead: list[int]


class ShardSteps:
    """The steps that a shard knows of and has not finished."""

    def __init__(self, spec: ModelSpec, config: ShardConfig, stages: Sequence[int], builder: BatchBuilder) -> None:
        """`stages`: those that every step visits here, in order."""
        self._spec, self._config, self._stages, self.builder = spec, config, stages, builder
        self.tables = BlockTables(config.kv_shape)
        self.underway: dict[int, Underway] = {}
        self._number = 0

    def prepare(self, step: Step) -> None:
        """Work out what a step means here; nothing happens if that was done already.

        Raises:
            StepError, KvError: it is impossible; nothing was changed.
        """
        if step.number > self._number:
            self._arrive(step)

    def enter(self, stage: int, step: Step) -> Underway:
        """A step comes to a stage.

        Raises:
            StepError, KvError: out of order, or as `prepare`.
        """
        underway = self.underway.get(step.number) or self._arrive(step)
        if underway.ahead[0] != stage:
            raise StepError(f"step {step.number} came to stage {stage} before stage {underway.ahead[0]}, or again")
        underway.ahead.pop(0)
        if not underway.ahead:
            del self.underway[step.number]
        return underway

    def _arrive(self, step: Step) -> Underway:
        self._check(step)
        cleared = self.tables.apply(step)
        self._number = step.number
        blocks = {run.sequence: self.tables.blocks(run.sequence) for run in step.runs}
        batch = self.builder.build(step, blocks, cleared)
        underway = Underway(step, batch, len(step.sampled_rows()), list(self._stages))
        self.underway[step.number] = underway
        return underway

    def _check(self, step: Step) -> None:
        if step.number != self._number + 1:
            raise StepError(f"step {step.number} came after step {self._number}; steps must come in order")
        if len(self.underway) >= _MOST_UNDERWAY:
            raise StepError(f"{_MOST_UNDERWAY} steps were announced and never came")
        if step.rows > self._config.max_rows:
            raise StepError(f"step {step.number} has {step.rows} rows, more than the {self._config.max_rows} agreed")
        for run in step.runs:
            for token in (*run.history, *run.tokens):
                if not 0 <= token < self._spec.vocab:
                    raise StepError(f"token {token} of sequence {run.sequence} is not in the vocabulary")
