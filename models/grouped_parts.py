"""Unpacks the blob of a GPTQ or AWQ matrix. Axes: O outputs, I inputs, G groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from potluck.models.checkpoint import CheckpointError, TensorEntry
from potluck.models.encodings import check_length
from potluck.models.grouped_format import GroupedFormat, grouped_format

# Output of eight that AWQ's nibbles hold, lowest first.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Parts:
    """An unpacked matrix: numbers, zero points (none is beyond 255), scales, and the group of every input."""

    q_OI: Bytes
    zeros_OG: Bytes
    scales_OG: npt.NDArray[np.float16]
    group_I: Integers


def unpack(entry: TensorEntry, raw: memoryview | bytes) -> Parts:
    """Unpack a blob.

    Raises:
        CheckpointError: length, encoding and shape disagree, a scale is not finite, or an input's group is none.
    """
    grouped, found = _tensors(entry, raw)
    if not np.isfinite(found["scales"]).all():
        raise CheckpointError(f"tensor {entry.key} is damaged: a scale is not finite; download it again")
    return Parts(
        q_OI=_numbers(found["qweight"], grouped),
        zeros_OG=np.ascontiguousarray(_zeros(found["qzeros"], grouped).T),
        scales_OG=np.ascontiguousarray(found["scales"].T),
        group_I=_groups(entry, grouped, found),
    )


def unpack_groups(entry: TensorEntry, raw: memoryview | bytes) -> Integers:
    """The group of every input alone; errors as `unpack`."""
    return _groups(entry, *_tensors(entry, raw))


def _tensors(entry: TensorEntry, raw: memoryview | bytes) -> tuple[GroupedFormat, dict[str, npt.NDArray[Any]]]:
    check_length(entry, raw)
    grouped = grouped_format(entry.encoding)
    if grouped is None:
        raise CheckpointError(f"tensor {entry.key} in {entry.encoding[:40]} is not stored in groups")
    found, start = {}, 0
    for piece in grouped.pieces(entry.shape):
        data = np.frombuffer(raw, dtype=np.uint8, count=piece.nbytes, offset=start)
        found[piece.name] = data.view("<i4" if piece.dtype == "I32" else "<f2").reshape(piece.shape)
        start += piece.nbytes
    return grouped, found


def _groups(entry: TensorEntry, grouped: GroupedFormat, found: dict[str, npt.NDArray[Any]]) -> Integers:
    group_I = found.get("g_idx", np.arange(entry.shape[1]) // grouped.group)
    check_groups(group_I, grouped, f"tensor {entry.key}")
    return group_I.astype(np.int64)


def check_groups(group_I: npt.NDArray[np.integer], grouped: GroupedFormat, name: str) -> None:
    """Refuse inputs of groups that are none.

    Raises:
        CheckpointError: with this name of the tensor.
    """
    groups = grouped.groups(len(group_I))
    if group_I.min() < 0 or group_I.max() >= groups:
        raise CheckpointError(
            f"{name} is damaged: g_idx names a group beyond the {groups} there are; download it again"
        )


def _numbers(words: npt.NDArray[np.int32], grouped: GroupedFormat) -> Bytes:
    """qweight as (O, I)."""
    fields = _fields(words, grouped)
    if grouped.method == "AWQ":
        return np.ascontiguousarray(fields.reshape(len(words), -1).T)
    return fields.transpose(1, 0, 2).reshape(words.shape[1], -1)


def _zeros(words: npt.NDArray[np.int32], grouped: GroupedFormat) -> Bytes:
    """qzeros as (G, O). A zero point of 0 that was stored minus one wrapped around, as AutoGPTQ reads it."""
    zeros_GO = _fields(words, grouped).reshape(len(words), -1)
    return (zeros_GO + np.uint8(1)) & np.uint8((1 << grouped.bits) - 1) if grouped.less_one else zeros_GO


def _fields(words: npt.NDArray[np.int32], grouped: GroupedFormat) -> Bytes:
    """The numbers in every word, (rows, words, numbers of a word), in the order they had on their axis."""
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 4)
    if grouped.bits == 8:
        return octets
    nibbles = np.stack((octets & 15, octets >> 4), axis=-1).reshape(*words.shape, 8)
    return nibbles[..., np.argsort(AWQ_ORDER)] if grouped.method == "AWQ" else nibbles
