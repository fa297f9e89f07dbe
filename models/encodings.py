"""How tensors may be stored, and how many bytes they then take."""

from __future__ import annotations

import math
from typing import Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from potluck.models.checkpoint import CheckpointError, TensorEntry
from potluck.models.grouped_format import grouped_format

ENCODINGS: Final = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
)


def encoded_bytes(encoding: str, shape: tuple[int, ...]) -> int:
    """Bytes a tensor takes in an encoding: one of ENCODINGS, or one of `grouped_format`'s.

    Raises:
        ValueError: unknown encoding, or rows that do not divide into its blocks.
    """
    grouped = grouped_format(encoding)
    if grouped:
        return sum(piece.nbytes for piece in grouped.pieces(shape))
    if encoding not in ENCODINGS:
        raise ValueError(f"unknown encoding {encoding[:40]!r}; supported are {', '.join(ENCODINGS)}, GPTQ and AWQ")
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[encoding]]
    if not shape or min(shape) < 1 or shape[-1] % block:
        raise ValueError(f"shape {shape} does not divide into {encoding}'s blocks of {block}")
    return math.prod(shape) // int(block) * int(block_bytes)


def check_length(entry: TensorEntry, raw: memoryview | bytes) -> None:
    """Refuse bytes that cannot be the tensor's.

    Raises:
        CheckpointError: length, encoding and shape disagree.
    """
    try:
        wanted = encoded_bytes(entry.encoding, entry.shape)
    except ValueError as error:
        raise CheckpointError(f"tensor {entry.key}: {error}") from None
    if len(raw) != wanted:
        raise CheckpointError(f"tensor {entry.key} has {len(raw)} bytes, {entry.encoding} of its shape takes {wanted}")


# Formats that are multiplied as they are, each with the bytes that 32 columns of a row take in memory (potluck.kernels
# packs 16 rows together and spreads out the scales of K-quants). INT4 and INT8 with groups of 32 or 128 columns are
# what `grouped.grouped_blocks` makes of GPTQ and AWQ.
PACKED: Final[dict[str, float]] = {
    "Q4_0": 18,
    "Q4_1": 20,
    "Q5_0": 22,
    "Q5_1": 24,
    "Q8_0": 34,
    "Q4_K": 18.5,
    "Q5_K": 22.5,
    "Q6_K": 26.25,
    "INT4_G32": 20,
    "INT4_G128": 17,
    "INT8_G32": 36,
    "INT8_G128": 33,
}
_PACKED_ROWS = 16

# The same on a GPU (potluck.kernels.gpu.from_packed): 4 or 8 bits a weight, a scale and a minimum for every group of
# columns, in single precision where they are products of two numbers.
GROUPED: Final[dict[str, int]] = {
    "Q4_0": 20,
    "Q4_1": 20,
    "Q5_0": 36,
    "Q5_1": 36,
    "Q8_0": 36,
    "Q4_K": 24,
    "Q5_K": 40,
    "Q6_K": 48,
    "INT4_G32": 24,
    "INT4_G128": 18,
    "INT8_G32": 40,
    "INT8_G128": 34,
}


def plain_bytes(shape: tuple[int, ...], itemsize: int, on_gpu: bool = False) -> int:
    """Bytes in memory of a tensor of plain numbers.

    Matrices lie in groups of rows, two columns of 16 bits together; on a GPU row by row.
    """
    if len(shape) != 2 or on_gpu:
        return math.prod(shape) * itemsize
    rows, columns = shape
    return -(-rows // _PACKED_ROWS) * _PACKED_ROWS * (columns + columns % 2 * (itemsize == 2)) * itemsize


def packed_bytes(encoding: str, shape: tuple[int, ...], on_gpu: bool = False) -> int:
    """Bytes in memory of a matrix that is multiplied as it is stored.

    Raises:
        KeyError: the encoding has no products of its own.
    """
    rows, columns = shape
    if on_gpu:
        return rows * columns // 32 * GROUPED[encoding]
    return int(-(-rows // _PACKED_ROWS) * _PACKED_ROWS * columns // 32 * PACKED[encoding])
