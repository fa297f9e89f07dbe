"""The physical KV of a shard: one pool of blocks per owned layer, one block table per sequence.

Which block belongs to whom is the scheduler's decision; here it is checked, then obeyed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from potluck.models.spec import ModelSpec
from potluck.proto.step import Run, Step


class KvError(Exception):
    """A step addresses KV that does not exist or does not fit; the scheduler's fault. Nothing was changed."""


@dataclass(slots=True)
class BlockTable:
    """The blocks of one sequence, in order of position, and how many tokens were written."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0


@dataclass(frozen=True, slots=True)
class KvShape:
    """`blocks` blocks of `block_size` tokens each, numbered from 0, all of them usable."""

    blocks: int
    block_size: int

    def bytes_per_layer(self, spec: ModelSpec, dtype: torch.dtype) -> int:
        """Bytes of one layer's pool."""
        return self.blocks * self.block_size * spec.kv_width() * dtype.itemsize


def new_pool(spec: ModelSpec, shape: KvShape, like: torch.Tensor) -> torch.Tensor:
    """A layer's pool (N, S, 2, K, E), of dtype and device of `like`: keys and values of a token side by side."""
    return like.new_zeros((shape.blocks, shape.block_size, 2, spec.kv_heads, spec.head_dim))


class BlockTables:
    """The block table of every sequence. `apply` takes each step once, in order."""

    def __init__(self, shape: KvShape) -> None:
        self._shape = shape
        self._tables: dict[int, BlockTable] = {}

    def apply(self, step: Step) -> list[int]:
        """Forget the dropped sequences, append the runs' new blocks.

        Returns:
            The new blocks that no token was written to yet: their slots hold what an earlier sequence left.

        Raises:
            KvError: an unknown or doubled block, a gap in the positions, or tokens beyond the sequence's blocks.
        """
        dropped = set(step.dropped)
        if len({run.sequence for run in step.runs}) < len(step.runs):
            raise KvError(f"step {step.number} has two runs of one sequence; the scheduler must join them")
        for run in step.runs:
            table = None if run.sequence in dropped else self._tables.get(run.sequence)
            self._check(run, table or BlockTable(), known=table is not None)
        for sequence in dropped:
            self._tables.pop(sequence, None)
        return [block for run in step.runs for block in self._extend(run)]

    def blocks(self, sequence: int) -> Sequence[int]:
        """The blocks of a sequence that `apply` has met."""
        return self._tables[sequence].blocks

    def __len__(self) -> int:
        return len(self._tables)

    def _check(self, run: Run, table: BlockTable, known: bool) -> None:
        blocks = [*table.blocks, *run.blocks]
        for block in run.blocks:
            if not 0 <= block < self._shape.blocks:
                raise KvError(
                    f"sequence {run.sequence} was given KV block {block}, but this node has blocks 0 to "
                    f"{self._shape.blocks - 1}; the scheduler and the worker were given different KV sizes"
                )
        if run.blocks and len(set(blocks)) < len(blocks):
            raise KvError(f"sequence {run.sequence} was given a KV block twice: {run.blocks}")
        if not run.tokens or run.position < 0 or (known and run.position > table.length):
            raise KvError(
                f"sequence {run.sequence} goes on at position {run.position} with {len(run.tokens)} tokens, but "
                f"{table.length} are known here; a step was lost or the run is empty"
            )
        if run.position + len(run.tokens) > len(blocks) * self._shape.block_size:
            raise KvError(
                f"sequence {run.sequence} needs KV for {run.position + len(run.tokens)} tokens, but its "
                f"{len(blocks)} blocks hold {len(blocks) * self._shape.block_size}"
            )

    def _extend(self, run: Run) -> list[int]:
        table = self._tables.setdefault(run.sequence, BlockTable())
        # Blocks before the run's position are another sequence's, shared: they hold KV in use.
        unwritten = -(-run.position // self._shape.block_size)
        first_new = len(table.blocks)
        table.blocks.extend(run.blocks)
        table.length = run.position + len(run.tokens)
        return table.blocks[max(unwritten, first_new) :]
