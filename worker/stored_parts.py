"""The rows that are wanted of a checkpoint's tensor, in parts of some MiB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from potluck.kernels.packed import ROWS
from potluck.models.checkpoint import TensorEntry
from potluck.models.encodings import encoded_bytes

# Numbers that are decoded together, 4 MiB as float32. As stored, decoded, rounded and packed they are there several
# times: with four times as many a worker took 90 MiB to build the files of SmolLM2.
_AT_ONCE = 1 << 20
Rows = slice | torch.Tensor  # a range without a step, or int64 numbers of rows
EVERY_ROW = slice(None)


class Part(NamedTuple):
    """A run of stored rows: their entry and bytes, and which of them are wanted once they are decoded."""

    entry: TensorEntry
    raw: memoryview
    rows: Rows = EVERY_ROW


def parts_of(entry: TensorEntry, raw: memoryview, rows: Rows = EVERY_ROW) -> Iterator[Part]:
    """A matrix in whole groups of rows, as many as are decoded at once; rows that change places stay together."""
    row = _row_bytes(entry, raw)
    if row is None:
        yield Part(entry, raw, rows)
        return
    wanted = _wanted(raw, row, rows)
    step = max(ROWS, _AT_ONCE // entry.shape[1] // ROWS * ROWS)
    for first in range(0, len(wanted) // row, step):
        part = wanted[first * row : (first + step) * row]
        yield Part(replace(entry, shape=(len(part) // row, entry.shape[1]), nbytes=len(part)), part)


def _row_bytes(entry: TensorEntry, raw: memoryview) -> int | None:
    """Bytes of a stored row; None where rows do not lie one after the other, or the bytes are not the tensor's."""
    if len(entry.shape) != 2 or entry.transform == "unpermute" or len(raw) != entry.nbytes:
        return None
    try:
        row = encoded_bytes(entry.encoding, (1, entry.shape[1]))
    except ValueError:
        return None
    return row if row * entry.shape[0] == len(raw) else None


def _wanted(raw: memoryview, row: int, rows: Rows) -> memoryview:
    if isinstance(rows, slice):
        first, end, _ = rows.indices(len(raw) // row)
        return raw[first * row : end * row]
    stored: npt.NDArray[np.uint8] = np.frombuffer(raw, dtype=np.uint8).reshape(-1, row)
    return memoryview(stored[rows.numpy()]).cast("B")
