"""Stored bytes to float32 tensors in the decoder's convention: the only module of models/ that imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from potluck.models.checkpoint import CheckpointError, TensorEntry
from potluck.models.encodings import encoded_bytes

_Floats = npt.NDArray[np.float32]


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


def _unpacked(entry: TensorEntry, raw: memoryview | bytes) -> _Floats:
    try:
        wanted = encoded_bytes(entry.encoding, entry.shape)
    except ValueError as error:
        raise CheckpointError(f"tensor {entry.key}: {error}") from None
    if len(raw) != wanted:
        raise CheckpointError(f"tensor {entry.key} has {len(raw)} bytes, {entry.encoding} of its shape takes {wanted}")
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


def _unpermuted(entry: TensorEntry, values: _Floats) -> _Floats:
    """Rows of a head lie as pairs (0, half, 1, half + 1, ...); put the halves one after the other again."""
    rows = values.shape[0]
    if entry.heads < 1 or rows % (2 * entry.heads):
        raise CheckpointError(f"tensor {entry.key}: {rows} rows do not divide over {entry.heads} heads of pairs")
    pairs = values.reshape(entry.heads, rows // entry.heads // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
