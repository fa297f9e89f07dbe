"""GPTQ's and AWQ's matrices of a checkpoint in blocks, whole or what a cut takes of them."""

from __future__ import annotations

import torch

from potluck.models.checkpoint import Checkpoint, TensorEntry
from potluck.models.grouped import grouped_blocks, stored_order
from potluck.models.grouped_picked import picked_blocks
from potluck.models.roles import TensorKey
from potluck.models.spec import ModelSpec
from potluck.worker.cut import Range
from potluck.worker.pieces import Piece
from potluck.worker.stored_parts import EVERY_ROW, Rows
from potluck.worker.takes import Take, picked_columns, widened

# Encoding, blocks of every row, and the input that each of their columns multiplies.
_Blocks = tuple[str, torch.Tensor, torch.Tensor]


class WeightError(Exception):
    """A checkpoint's tensor does not fit the model spec."""


class GroupedMatrices:
    """Unpacks a matrix once for its blocks and their order, which are asked for one after the other."""

    def __init__(self, spec: ModelSpec, checkpoint: Checkpoint) -> None:
        self._spec, self._checkpoint = spec, checkpoint
        self._last: tuple[tuple[TensorKey, Range | None], _Blocks] | None = None

    def rows(self, take: Take) -> Rows:
        """The rows of any matrix that a cut takes, in the order of the matrix that they follow."""
        if take.rows is None:
            return EVERY_ROW
        if take.follows is None:
            return slice(*take.rows)
        order_I = stored_order(self._checkpoint.entries[take.follows], self._checkpoint.raw(take.follows))
        return torch.from_numpy(order_I[slice(*take.rows)])

    def order(self, entry: TensorEntry, take: Take) -> torch.Tensor:
        """The input that each column of the blocks multiplies."""
        return self._unpacked(entry, take)[2]

    def blocks(self, piece: Piece, entry: TensorEntry, take: Take) -> torch.Tensor:
        """The blocks of a piece, uint8 (O, bytes of a row).

        Raises:
            WeightError: it is stored otherwise than planned.
            CheckpointError: its bytes are damaged.
        """
        encoding, blocks_OB, order_I = self._unpacked(entry, take)
        ordered = str(entry.key) in self._spec.ordered
        if encoding != piece.encoding or (take.columns is not None and not ordered and not _is_sorted(order_I)):
            raise other_format(entry.key)
        return columns_of(blocks_OB[self.rows(take)], piece, entry, take)

    def _unpacked(self, entry: TensorEntry, take: Take) -> _Blocks:
        if self._last is None or self._last[0] != (entry.key, take.inputs):
            self._last = (entry.key, take.inputs), self._unpack(entry, take.inputs)
        return self._last[1]

    def _unpack(self, entry: TensorEntry, inputs: Range | None) -> _Blocks:
        raw = self._checkpoint.raw(entry.key)
        if inputs is not None:
            stored, picked = self._spec.encodings[str(entry.key)], inputs[1] - inputs[0]
            encoding, blocks_OB, order_C = picked_blocks(
                entry, raw, inputs, picked_columns(stored, entry.shape[1], picked)
            )
            return encoding, torch.from_numpy(blocks_OB), torch.from_numpy(order_C)
        encoding, blocks_OB, order_I = grouped_blocks(entry, raw)
        order = torch.arange(entry.shape[1]) if order_I is None else torch.from_numpy(order_I)
        return encoding, torch.from_numpy(blocks_OB), order


def columns_of(blocks_OB: torch.Tensor, piece: Piece, entry: TensorEntry, take: Take) -> torch.Tensor:
    """The blocks that hold the columns a member takes."""
    if take.columns is None:
        return blocks_OB
    first, end = widened(piece.encoding, take.columns)
    row, columns = blocks_OB.shape[1], entry.shape[1]
    return blocks_OB[:, first * row // columns : end * row // columns]


def other_format(key: TensorKey) -> WeightError:
    """The error for a tensor that is stored otherwise than planned."""
    return WeightError(f"tensor {key} is stored in another format than the plan was made for; plan again")


def _is_sorted(order_I: torch.Tensor) -> bool:
    return torch.equal(order_I, torch.arange(len(order_I)))
