"""From a checkpoint's tensors to the bytes of pieces, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from gguf import GGMLQuantizationType, quants

from potluck.kernels.packed import PLAIN, PackedMatrix
from potluck.models.checkpoint import Checkpoint, TensorEntry
from potluck.models.decode import decode, stored_rows
from potluck.models.grouped_format import grouped_format
from potluck.models.roles import TensorKey, shape_of
from potluck.models.spec import ModelSpec
from potluck.worker.grouped_matrices import GroupedMatrices, WeightError, columns_of, other_format
from potluck.worker.pieces import BFLOAT16, FLOAT16, FLOAT32, ORDER, Piece
from potluck.worker.stored_parts import parts_of
from potluck.worker.takes import ALL, Take, length

__all__ = ["Change", "Packer", "WeightError"]

_TORCH = {FLOAT32: torch.float32, "F32": torch.float32, BFLOAT16: torch.bfloat16, "BF16": torch.bfloat16}
_TORCH |= {FLOAT16: torch.float16, "F16": torch.float16}
Change = Callable[[TensorKey, torch.Tensor], torch.Tensor]


class Packer:
    """Makes the bytes of pieces from a checkpoint."""

    def __init__(self, spec: ModelSpec, checkpoint: Checkpoint, change: Change | None = None) -> None:
        """`change(key, tensor)` may replace what was decoded (for tests)."""
        self.spec, self.checkpoint, self.change = spec, checkpoint, change
        self._grouped = GroupedMatrices(spec, checkpoint)

    def place(self, pieces: Iterable[Piece]) -> dict[str, torch.Tensor]:
        """Pieces in memory; errors as `make`."""
        return {piece.name: torch.cat(list(self.make(piece))) for piece in pieces}

    def make(self, piece: Piece) -> Iterator[torch.Tensor]:
        """The bytes of a piece, uint8, in parts of at most some MiB (or one tensor that cannot be cut).

        Raises:
            WeightError: a tensor's shape contradicts the model spec, or it is stored otherwise than planned.
            CheckpointError: its bytes are damaged.
            KeyError: the checkpoint has no such tensor.
        """
        for key, take in zip(piece.keys, piece.taken, strict=True):
            entry = self.checkpoint.entries[key]
            wanted = shape_of(self.spec, key.role)
            if entry.shape != wanted and (take != ALL or piece.encoding not in _TORCH):
                raise _misfit(key, entry.shape, wanted)
            if piece.encoding == ORDER:
                yield _bytes(self._grouped.order(entry, take))
            elif piece.encoding in _TORCH:
                yield from self._plain(piece, entry, take)
            else:
                yield from self._quantized(piece, entry, take)

    def _plain(self, piece: Piece, entry: TensorEntry, take: Take) -> Iterator[torch.Tensor]:
        shape, found = shape_of(self.spec, entry.key.role), 0
        rows = shape[0] if take.rows is None else length(take.rows)
        for part in self._decoded(entry, take):
            found += len(part)
            if part.shape[1:] != shape[1:] or found > rows:
                raise _misfit(entry.key, tuple(part.shape), shape)
            own = part if take.columns is None else part[:, slice(*take.columns)]
            stored = _bytes(own.to(_TORCH[piece.encoding]))
            if piece.encoding in PLAIN:
                yield PackedMatrix.pack(piece.encoding, stored.view(len(part), -1), piece.shape[1]).data
            else:
                yield stored.reshape(-1)
        if found != rows:
            raise _misfit(entry.key, (found, *shape[1:]), (rows, *shape[1:]))

    def _decoded(self, entry: TensorEntry, take: Take) -> Iterator[torch.Tensor]:
        for part in parts_of(entry, self.checkpoint.raw(entry.key), self._grouped.rows(take)):
            tensor = decode(part.entry, part.raw)[part.rows]
            yield self.change(entry.key, tensor) if self.change else tensor

    def _quantized(self, piece: Piece, entry: TensorEntry, take: Take) -> Iterator[torch.Tensor]:
        if grouped_format(entry.encoding) is not None:
            kept_OB = self._grouped.blocks(piece, entry, take)
            yield PackedMatrix.pack(piece.encoding, kept_OB, piece.shape[1]).data
            return
        # Rows are quantised before they are cut: a member has the numbers that a single node has.
        for part in parts_of(entry, self.checkpoint.raw(entry.key), self._grouped.rows(take)):
            if entry.encoding == piece.encoding:
                blocks_OB = stored_rows(part.entry, part.raw)
            elif entry.encoding in PLAIN:
                blocks_OB = _quantize(decode(part.entry, part.raw), piece.encoding)
            else:
                raise other_format(entry.key)
            kept_OB = columns_of(blocks_OB[part.rows], piece, entry, take)
            yield PackedMatrix.pack(piece.encoding, kept_OB, piece.shape[1]).data


def _quantize(weight_OI: torch.Tensor, encoding: str) -> torch.Tensor:
    blocks = quants.quantize(np.ascontiguousarray(weight_OI.numpy()), GGMLQuantizationType[encoding])
    return torch.from_numpy(blocks)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _misfit(key: TensorKey, found: tuple[int, ...], wanted: tuple[int, ...]) -> WeightError:
    return WeightError(
        f"tensor {key} is {found}, the model's config asks for {wanted}; checkpoint and config do not belong together"
    )
