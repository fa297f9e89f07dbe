"""How GPTQ and AWQ store a matrix: numbers of 4 or 8 bits, with a scale and a zero point for every group of inputs.

Several tensors of the file belong to one matrix. Here and on the wire they are one run of bytes, its pieces one after
the other: qweight, qzeros, scales, and for GPTQ g_idx, which gives every input its group. Sources of the layouts:
AutoGPTQ's and GPTQModel's QuantLinear (their wiki's "Packing Formats and Compatibility"), AutoAWQ's WQLinear_GEMM.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

_NAME = re.compile(r"(GPTQ4|GPTQ4v2|GPTQ8|GPTQ8v2|AWQ4)_([1-9][0-9]{0,9})")
_WORD_BITS = 32


@dataclass(frozen=True, slots=True)
class Piece:
    """One of the tensors that a matrix is stored in: its name's end, its type in the blob, and its shape."""

    name: str
    dtype: Literal["I32", "F16"]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the blob."""
        return math.prod(self.shape) * (4 if self.dtype == "I32" else 2)


@dataclass(frozen=True, slots=True)
class GroupedFormat:
    """A way to store a matrix of O outputs and I inputs in groups of inputs.

    Attributes:
        method: GPTQ packs qweight along the inputs, AWQ along the outputs in the order of `grouped.AWQ_ORDER`.
        bits: of a number.
        group: inputs that share a scale and a zero point; the last group may be smaller.
        less_one: zero points are stored minus one, wrapping around (GPTQ's classic format; not its "v2", not AWQ).
    """

    method: Literal["GPTQ", "AWQ"]
    bits: int
    group: int
    less_one: bool

    @property
    def encoding(self) -> str:
        """The name: GPTQ4_128, GPTQ8v2_32, AWQ4_64, ..."""
        return f"{self.method}{self.bits}{'v2' if self.method == 'GPTQ' and not self.less_one else ''}_{self.group}"

    def groups(self, columns: int) -> int:
        """How many groups rows of so many inputs have."""
        return -(-columns // self.group)

    def pieces(self, shape: tuple[int, ...]) -> tuple[Piece, ...]:
        """What a matrix of this (O, I) is stored in, in the blob's order.

        Raises:
            ValueError: it does not divide into words of 32 bits.
        """
        a_word = _WORD_BITS // self.bits
        if len(shape) != 2 or min(shape) < 1 or any(size % a_word for size in shape):
            raise ValueError(f"shape {shape} does not divide into {self.encoding}'s words of {a_word} numbers")
        outputs, inputs = shape
        groups = self.groups(inputs)
        gptq = self.method == "GPTQ"
        return (
            Piece("qweight", "I32", (inputs // a_word, outputs) if gptq else (inputs, outputs // a_word)),
            Piece("qzeros", "I32", (groups, outputs // a_word)),
            Piece("scales", "F16", (groups, outputs)),
            *((Piece("g_idx", "I32", (inputs,)),) if gptq else ()),
        )

    def kept(self, shape: tuple[int, ...]) -> str | None:
        """The encoding in which such a matrix is multiplied without decoding it; None where none fits."""
        if len(shape) != 2 or self.group % 32 or shape[1] % self.group:
            return None
        return f"INT{self.bits}_G{32 if self.group % 128 else 128}"


def grouped_format(encoding: str) -> GroupedFormat | None:
    """The format of this name; None where it is none of GPTQ's or AWQ's."""
    found = _NAME.fullmatch(encoding)
    if found is None:
        return None
    kind, group = found[1], int(found[2])
    if kind == "AWQ4":
        return GroupedFormat("AWQ", 4, group, False)
    return GroupedFormat("GPTQ", int(kind[4]), group, not kind.endswith("v2"))
