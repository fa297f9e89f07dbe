"""Some inputs of a GPTQ matrix whose groups have its inputs out of order (act-order), as blocks of their own.

A group's picked inputs fill blocks of 32 columns that have the group's scale and zero point, so that every number is
the file's own; what is left of a block are columns of weight zero. Axes: O outputs, I inputs, G groups, C columns of
the blocks, B blocks of a row, P picked inputs.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from potluck.models.checkpoint import TensorEntry
from potluck.models.grouped import not_kept, to_blocks
from potluck.models.grouped_format import grouped_format
from potluck.models.grouped_parts import Bytes, Integers, unpack

_BLOCK = 32
_Number = TypeVar("_Number", np.float16, np.uint8)


def picked_blocks(
    entry: TensorEntry, raw: memoryview | bytes, inputs: tuple[int, int], columns: int
) -> tuple[str, Bytes, Integers]:
    """The inputs of a half-open range in blocks, as `grouped.grouped_blocks` lays them out.

    Args:
        entry: how the matrix is stored.
        raw: its blob.
        inputs: which inputs.
        columns: of the blocks: enough for all of them, wherever the groups have them.

    Returns:
        The encoding (INT4_G32 or INT8_G32), uint8 (O, bytes of a row), and the input, counted from the first picked,
        that every column multiplies: int64 (C), and their count where a column multiplies none.

    Raises:
        CheckpointError: as `grouped.grouped_blocks`; or the groups take more columns than there are.
    """
    grouped = grouped_format(entry.encoding)
    if grouped is None or grouped.kept(entry.shape) is None:
        raise not_kept(entry)
    parts, picked = unpack(entry, raw), inputs[1] - inputs[0]
    order_P, place_P, group_B = _places(parts.group_I[slice(*inputs)])
    if len(group_B) * _BLOCK > columns:
        raise not_kept(entry)
    spare = columns // _BLOCK - len(group_B)
    scales_OB = _spread(parts.scales_OG, group_B, spare)
    zeros_OB = _spread(parts.zeros_OG, group_B, spare)
    q_OC = np.repeat(zeros_OB, _BLOCK, axis=1)
    q_OC[:, place_P] = parts.q_OI[:, inputs[0] + order_P]
    order_C = np.full(columns, picked, dtype=np.int64)
    order_C[place_P] = order_P
    return f"INT{grouped.bits}_G{_BLOCK}", to_blocks(q_OC, scales_OB, zeros_OB, grouped.bits), order_C


def _places(group_P: Integers) -> tuple[Integers, Integers, Integers]:
    """Picked inputs by group, the column of each, and the group of every block."""
    order_P = np.argsort(group_P, kind="stable")
    counts_G = np.bincount(group_P)
    blocks_G = -(-counts_G // _BLOCK)
    shift_G = np.cumsum(blocks_G * _BLOCK - counts_G) - (blocks_G * _BLOCK - counts_G)
    place_P = np.arange(len(group_P)) + shift_G[group_P[order_P]]
    return order_P, place_P, np.repeat(np.arange(len(counts_G)), blocks_G)


def _spread(values_OG: npt.NDArray[_Number], group_B: Integers, spare: int) -> npt.NDArray[_Number]:
    """A group's value for each of its blocks; zero for those that are to spare."""
    return np.pad(values_OG[:, group_B], ((0, 0), (0, spare)))
