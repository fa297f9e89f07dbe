"""How tensors may be stored, and how many bytes they then take."""

from __future__ import annotations

import math
from typing import Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

ENCODINGS: Final = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
)


def encoded_bytes(encoding: str, shape: tuple[int, ...]) -> int:
    """Bytes a tensor takes in an encoding.

    Raises:
        ValueError: unknown encoding, or rows that do not divide into its blocks.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"unknown encoding {encoding!r}; supported are {', '.join(ENCODINGS)}")
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[encoding]]
    if not shape or min(shape) < 1 or shape[-1] % block:
        raise ValueError(f"shape {shape} does not divide into {encoding}'s blocks of {block}")
    return math.prod(shape) // int(block) * int(block_bytes)


# Formats that are multiplied as they are, each with the bytes that 32 columns of a row take in memory (potluck.kernels
# packs 16 rows together and spreads out the scales of K-quants).
PACKED: Final[dict[str, float]] = {
    "Q4_0": 18,
    "Q4_1": 20,
    "Q5_0": 22,
    "Q5_1": 24,
    "Q8_0": 34,
    "Q4_K": 18.5,
    "Q5_K": 22.5,
    "Q6_K": 26.25,
}
_PACKED_ROWS = 16


def packed_bytes(encoding: str, shape: tuple[int, ...]) -> int:
    """Bytes in memory of a matrix that is multiplied as it is stored.

    Raises:
        KeyError: the encoding has no products of its own.
    """
    rows, columns = shape
    return int(-(-rows // _PACKED_ROWS) * _PACKED_ROWS * columns // 32 * PACKED[encoding])
