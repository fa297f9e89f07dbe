"""From a checkpoint's tensors to the bytes of pieces, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from gguf import GGMLQuantizationType, quants

from potluck.kernels.packed import PLAIN, ROWS, PackedMatrix
from potluck.models.checkpoint import Checkpoint, TensorEntry
from potluck.models.decode import decode, stored_rows
from potluck.models.encodings import encoded_bytes
from potluck.models.grouped import grouped_blocks
from potluck.models.grouped_format import grouped_format
from potluck.models.roles import TensorKey, shape_of
from potluck.models.spec import ModelSpec
from potluck.worker.pieces import BFLOAT16, FLOAT16, FLOAT32, ORDER, Piece

_TORCH = {FLOAT32: torch.float32, "F32": torch.float32, BFLOAT16: torch.bfloat16, "BF16": torch.bfloat16}
_TORCH |= {FLOAT16: torch.float16, "F16": torch.float16}
_AT_ONCE = 4 << 20  # numbers that are decoded together; 16 MiB as float32
Change = Callable[[TensorKey, torch.Tensor], torch.Tensor]


class WeightError(Exception):
    """A checkpoint's tensor does not fit the model spec."""


class Packer:
    """Makes the bytes of pieces from a checkpoint."""

    def __init__(self, spec: ModelSpec, checkpoint: Checkpoint, change: Change | None = None) -> None:
        """`change(key, tensor)` may replace what was decoded (for tests)."""
        self.spec, self.checkpoint, self.change = spec, checkpoint, change
        self._last: tuple[TensorKey, tuple[str, torch.Tensor, torch.Tensor]] | None = None

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
        for key in piece.keys:
            entry = self.checkpoint.entries[key]
            if piece.encoding == ORDER:
                yield _bytes(self._grouped(entry)[2])
            elif piece.encoding in _TORCH:
                yield from self._plain(piece, entry)
            else:
                yield from self._quantized(piece, entry)

    def _plain(self, piece: Piece, entry: TensorEntry) -> Iterator[torch.Tensor]:
        shape, found = shape_of(self.spec, entry.key.role), 0
        for part in self._decoded(entry):
            found += len(part)
            if part.shape[1:] != shape[1:] or found > shape[0]:
                raise _misfit(entry.key, tuple(part.shape), shape)
            stored = _bytes(part.to(_TORCH[piece.encoding]))
            if piece.encoding in PLAIN:
                yield PackedMatrix.pack(piece.encoding, stored.view(len(part), -1), piece.shape[1]).data
            else:
                yield stored.reshape(-1)
        if found != shape[0]:
            raise _misfit(entry.key, (found, *shape[1:]), shape)

    def _decoded(self, entry: TensorEntry) -> Iterator[torch.Tensor]:
        for part, raw in _parts(entry, self.checkpoint.raw(entry.key)):
            tensor = decode(part, raw)
            yield self.change(entry.key, tensor) if self.change else tensor

    def _quantized(self, piece: Piece, entry: TensorEntry) -> Iterator[torch.Tensor]:
        if entry.shape != (shape := shape_of(self.spec, entry.key.role)):
            raise _misfit(entry.key, entry.shape, shape)
        if grouped_format(entry.encoding) is not None:
            encoding, blocks_OB, _ = self._grouped(entry)
            if encoding != piece.encoding:
                raise _other_format(entry.key)
            yield PackedMatrix.pack(encoding, blocks_OB, piece.shape[1]).data
            return
        for part, raw in _parts(entry, self.checkpoint.raw(entry.key)):
            if entry.encoding == piece.encoding:
                blocks_OB = stored_rows(part, raw)
            elif entry.encoding in PLAIN:
                blocks_OB = _quantize(decode(part, raw), piece.encoding)
            else:
                raise _other_format(entry.key)
            yield PackedMatrix.pack(piece.encoding, blocks_OB, piece.shape[1]).data

    def _grouped(self, entry: TensorEntry) -> tuple[str, torch.Tensor, torch.Tensor]:
        """Encoding, blocks and the order of columns; a matrix and its order are asked for one after the other."""
        if self._last is None or self._last[0] != entry.key:
            encoding, blocks_OB, order_I = grouped_blocks(entry, self.checkpoint.raw(entry.key))
            order = torch.arange(entry.shape[1]) if order_I is None else torch.from_numpy(order_I)
            self._last = (entry.key, (encoding, torch.from_numpy(blocks_OB), order))
        return self._last[1]


def _other_format(key: TensorKey) -> WeightError:
    return WeightError(f"tensor {key} is stored in another format than the plan was made for; plan again")


def _parts(entry: TensorEntry, raw: memoryview) -> Iterator[tuple[TensorEntry, memoryview]]:
    """A matrix in whole groups of rows, as many as are decoded at once; rows that change places stay together."""
    if len(entry.shape) != 2 or entry.transform == "unpermute" or len(raw) != entry.nbytes:
        yield entry, raw
        return
    try:
        row = encoded_bytes(entry.encoding, (1, entry.shape[1]))
    except ValueError:
        yield entry, raw
        return
    step = max(ROWS, _AT_ONCE // entry.shape[1] // ROWS * ROWS)
    for first in range(0, entry.shape[0], step):
        rows = min(step, entry.shape[0] - first)
        yield (
            replace(entry, shape=(rows, entry.shape[1]), nbytes=rows * row),
            raw[first * row : (first + rows) * row],
        )


def _quantize(weight_OI: torch.Tensor, encoding: str) -> torch.Tensor:
    blocks = quants.quantize(np.ascontiguousarray(weight_OI.numpy()), GGMLQuantizationType[encoding])
    return torch.from_numpy(blocks)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _misfit(key: TensorKey, found: tuple[int, ...], wanted: tuple[int, ...]) -> WeightError:
    return WeightError(
        f"tensor {key} is {found}, the model's config asks for {wanted}; checkpoint and config do not belong together"
    )
