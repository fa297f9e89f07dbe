"""Reads matrices of GPTQ and AWQ: to float32, or to blocks that are multiplied as they are.

Every weight is scale * (number - zero point) of its group, in the file, in float32 and in the blocks alike: nothing is
rounded. `potluck.models.grouped_format` says how they are stored. Axes: O outputs, I inputs, G groups.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from potluck.models.checkpoint import CheckpointError, TensorEntry
from potluck.models.grouped_format import GroupedFormat, grouped_format
from potluck.models.grouped_parts import Bytes, Integers, unpack, unpack_groups

_ROWS_AT_ONCE = 256  # decoding's own temporary memory stays small beside its result
_HALF_BLOCK = 16


def decode_grouped(entry: TensorEntry, raw: memoryview | bytes) -> npt.NDArray[np.float32]:
    """Decode a matrix.

    Args:
        entry: how it is stored; may come from another node and is checked.
        raw: its blob.

    Returns:
        float32 of `entry.shape`, in memory of its own.

    Raises:
        CheckpointError: length, encoding and shape disagree, a scale is not finite, or an input's group is none.
    """
    parts = unpack(entry, raw)
    out_OI = np.empty(entry.shape, dtype=np.float32)
    for first in range(0, entry.shape[0], _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        part_OI = out_OI[rows]
        # float32 holds the difference and its product with a scale of 11 bits exactly.
        np.subtract(parts.q_OI[rows], parts.zeros_OG[rows][:, parts.group_I], out=part_OI, dtype=np.float32)
        part_OI *= parts.scales_OG[rows].astype(np.float32)[:, parts.group_I]
    return out_OI


def grouped_blocks(entry: TensorEntry, raw: memoryview | bytes) -> tuple[str, Bytes, Integers | None]:
    """The matrix in blocks of 32 or 128 columns that are multiplied as they are.

    A block is its scale and its zero point, each an IEEE half (little endian), then its numbers: for 4 bits, every 32
    columns are 16 bytes, byte j with column j in its low and column j + 16 in its high nibble; 8 bits lie plain.

    Returns:
        The encoding (INT4_G32, INT4_G128, INT8_G32 or INT8_G128), uint8 (O, bytes of a row), and the input that every
        column of the blocks multiplies: int64 (I), columns sorted by group; None where it is the column itself.

    Raises:
        CheckpointError: as `decode_grouped`; or the groups are of a size or fill that blocks cannot have.
    """
    grouped = grouped_format(entry.encoding)
    encoding = grouped.kept(entry.shape) if grouped else None
    if grouped is None or encoding is None or entry.transform != "none":
        raise not_kept(entry)
    parts = unpack(entry, raw)
    if not groups_are_full(grouped, parts.group_I):
        raise not_kept(entry)
    order_I = _by_group(parts.group_I)
    sorted_already = bool((order_I[:-1] < order_I[1:]).all())
    q_OI = parts.q_OI if sorted_already else parts.q_OI[:, order_I]
    repeat = grouped.group // (32 if grouped.group % 128 else 128)
    scales_OB, zeros_OB = np.repeat(parts.scales_OG, repeat, axis=1), np.repeat(parts.zeros_OG, repeat, axis=1)
    return encoding, to_blocks(q_OI, scales_OB, zeros_OB, grouped.bits), None if sorted_already else order_I


def stored_order(entry: TensorEntry, raw: memoryview | bytes) -> Integers:
    """The input that every column of `grouped_blocks` multiplies, (I), without unpacking numbers; errors as there."""
    return _by_group(unpack_groups(entry, raw))


def groups_are_full(grouped: GroupedFormat, group_I: npt.NDArray[np.integer]) -> bool:
    """Whether every group has exactly its size in inputs; their groups have to be in range."""
    return bool((np.bincount(group_I, minlength=grouped.groups(len(group_I))) == grouped.group).all())


def _by_group(group_I: Integers) -> Integers:
    return np.argsort(group_I, kind="stable").astype(np.int64, copy=False)


def to_blocks(q_OI: Bytes, scales_OB: npt.NDArray[np.float16], zeros_OB: Bytes, bits: int) -> Bytes:
    """Blocks, (O, bytes of a row), of numbers that lie block by block, B in a row as the scales and zeros are."""
    rows, count = scales_OB.shape
    numbers_OBN = (_paired(q_OI) if bits == 4 else q_OI).reshape(rows, count, -1)
    blocks = np.empty((rows, count, 4 + numbers_OBN.shape[-1]), dtype=np.uint8)
    blocks[..., 0:2] = _half_bytes(scales_OB)
    blocks[..., 2:4] = _half_bytes(zeros_OB)
    blocks[..., 4:] = numbers_OBN
    return blocks.reshape(rows, -1)


def _paired(q_OI: Bytes) -> Bytes:
    halves = q_OI.reshape(len(q_OI), -1, 2, _HALF_BLOCK)
    paired: Bytes = halves[:, :, 0] | halves[:, :, 1] << np.uint8(4)
    return paired


def _half_bytes(numbers_OB: npt.NDArray[np.float16] | Bytes) -> Bytes:
    return np.ascontiguousarray(numbers_OB.astype("<f2")).view(np.uint8).reshape(*numbers_OB.shape, 2)


def not_kept(entry: TensorEntry) -> CheckpointError:
    """The error for a matrix whose groups cannot be multiplied as they are."""
    return CheckpointError(
        f"tensor {entry.key} in {entry.encoding[:40]} cannot be multiplied as stored; plan again with another dtype"
    )
