"""Stored bytes to float32 tensors in the decoder's convention: the only module of models/ that imports torch."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from potluck.models.checkpoint import CheckpointError, TensorEntry
from potluck.models.encodings import check_length
from potluck.models.grouped import decode_grouped
from potluck.models.grouped_format import grouped_format

_Floats = npt.NDArray[np.float32]
_Number = TypeVar("_Number", np.float32, np.uint8)
# Bytes of a block and where its half-precision numbers stand.
_SCALES = {
    "Q4_0": (18, (0,)),
    "Q4_1": (20, (0, 2)),
    "Q5_0": (22, (0,)),
    "Q5_1": (24, (0, 2)),
    "Q8_0": (34, (0,)),
    "Q4_K": (144, (0, 2)),
    "Q5_K": (176, (0, 2)),
    "Q6_K": (210, (208,)),
}


def decode(entry: TensorEntry, raw: memoryview | bytes) -> torch.Tensor:
    """Decode one tensor.

    Args:
        entry: how it is stored; may come from another node and is checked.
        raw: the stored bytes.

    Returns:
        float32 of `entry.shape`, in memory of its own: q and k rows with each head's halves apart ("rotate half", as
        Hugging Face has them), norm weights ready to multiply.

    Raises:
        CheckpointError: length, encoding and shape disagree, or a number is not finite.
    """
    values = _unpacked(entry, raw)
    if not np.isfinite(values).all():
        raise CheckpointError(f"tensor {entry.key} is damaged: it has numbers that are not finite; download it again")
    if entry.transform == "plus_one":
        values += 1.0
    if entry.transform == "unpermute":
        values = _unpermuted(entry, values)
    return torch.from_numpy(values)


def stored_rows(entry: TensorEntry, raw: memoryview | bytes) -> torch.Tensor:
    """The blocks of a quantised matrix as they are stored, in the decoder's order of rows.

    Returns:
        uint8 (rows, bytes of a row), read-only or in memory of its own.

    Raises:
        CheckpointError: length, encoding and shape disagree, the encoding is not one that is multiplied as it is, or a
            scale is not finite.
    """
    check_length(entry, raw)
    if entry.encoding not in _SCALES or entry.transform == "plus_one":
        raise CheckpointError(f"tensor {entry.key} in {entry.encoding} cannot be multiplied as it is stored")
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(entry.shape[0], -1)
    size, places = _SCALES[entry.encoding]
    blocks = rows.reshape(-1, size)
    for place in places:
        if not np.isfinite(np.ascontiguousarray(blocks[:, place : place + 2]).view("<f2")).all():
            raise CheckpointError(f"tensor {entry.key} is damaged: a scale is not finite; download it again")
    if entry.transform == "unpermute":
        rows = _unpermuted(entry, rows)
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy())


def _unpacked(entry: TensorEntry, raw: memoryview | bytes) -> _Floats:
    if grouped_format(entry.encoding):
        return decode_grouped(entry, raw)
    check_length(entry, raw)
    # Damaged bytes may be scales of infinity; decode() finds them, numpy need not warn.
    with np.errstate(all="ignore"):
        return _numbers(entry, np.frombuffer(raw, dtype=np.uint8)).reshape(entry.shape)


def _numbers(entry: TensorEntry, data: npt.NDArray[np.uint8]) -> _Floats:
    match entry.encoding:
        case "F32":
            return data.view("<f4").astype(np.float32)
        case "F16":
            return data.view("<f2").astype(np.float32)
        case "BF16":
            # bfloat16 is the upper half of a float32.
            return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    rows: Any = data.reshape(int(np.prod(entry.shape[:-1])), -1)
    numbers: _Floats = dequantize(rows, GGMLQuantizationType[entry.encoding])
    return numbers


def _unpermuted(entry: TensorEntry, values: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """Rows of a head lie as pairs (0, half, 1, half + 1, ...); put the halves one after the other again."""
    rows = values.shape[0]
    if entry.heads < 1 or rows % (2 * entry.heads):
        raise CheckpointError(f"tensor {entry.key}: {rows} rows do not divide over {entry.heads} heads of pairs")
    pairs = values.reshape(entry.heads, rows // entry.heads // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
