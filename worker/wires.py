"""The types in which parts of a sum travel. Pure: float32 numbers to bytes and back.

Whoever sends a part adds up what the others will read, not what it had: so all members get the same sum, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F

_BLOCK = 32  # numbers that share a scale in int8


class Wire(Protocol):
    """One type of parts."""

    def nbytes(self, count: int) -> int:
        """Bytes of a message of so many numbers."""

    def encode(self, part_N: torch.Tensor, scratch_B: torch.Tensor) -> torch.Tensor:
        """The message of float32 numbers, uint8: in scratch memory of as many bytes, or the part itself."""

    def read(self, message_B: torch.Tensor) -> torch.Tensor:
        """The numbers of a message, in a type that torch can add to float32 without rounding."""


class Float32:
    """As they are."""

    def nbytes(self, count: int) -> int:
        """See `Wire`."""
        return 4 * count

    def encode(self, part_N: torch.Tensor, scratch_B: torch.Tensor) -> torch.Tensor:
        """See `Wire`."""
        return part_N.view(torch.uint8)

    def read(self, message_B: torch.Tensor) -> torch.Tensor:
        """See `Wire`."""
        return message_B.view(torch.float32)


class BFloat16:
    """Rounded to 8 bits of mantissa: half the bytes."""

    def nbytes(self, count: int) -> int:
        """See `Wire`."""
        return 2 * count

    def encode(self, part_N: torch.Tensor, scratch_B: torch.Tensor) -> torch.Tensor:
        """See `Wire`."""
        scratch_B.view(torch.bfloat16).copy_(part_N)
        return scratch_B

    def read(self, message_B: torch.Tensor) -> torch.Tensor:
        """See `Wire`."""
        return message_B.view(torch.bfloat16)


class Int8:
    """Rounded to 8 bits with a scale per 32 numbers: the scales, then the numbers, the last block filled up."""

    def nbytes(self, count: int) -> int:
        """See `Wire`."""
        return (_BLOCK + 4) * -(-count // _BLOCK)

    def encode(self, part_N: torch.Tensor, scratch_B: torch.Tensor) -> torch.Tensor:
        """See `Wire`."""
        missing = -len(part_N) % _BLOCK
        part_GB = F.pad(part_N, (0, missing)).view(-1, _BLOCK)
        scale_G, numbers_GB = self._split(scratch_B)
        torch.div(part_GB.abs().amax(1), 127.0, out=scale_G)
        inverse_G = torch.where(scale_G > 0, 1.0 / scale_G, 0.0)
        numbers_GB.copy_((part_GB * inverse_G[:, None]).round_())
        return scratch_B

    def read(self, message_B: torch.Tensor) -> torch.Tensor:
        """See `Wire`; the filling included."""
        scale_G, numbers_GB = self._split(message_B)
        return (numbers_GB * scale_G[:, None]).view(-1)

    def _split(self, message_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = len(message_B) // (_BLOCK + 4)
        scales_B, numbers_B = message_B[: 4 * blocks], message_B[4 * blocks :]
        return scales_B.view(torch.float32), numbers_B.view(torch.int8).view(blocks, _BLOCK)


class Feedback:
    """Adds to each part what rounding took from the part before it in the same step (error feedback).

    Parts of attention and FFN are added to the same residual stream, so what one lacks the next can bring. Not where
    a norm stands between sum and stream.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._owed_N = torch.empty(0)

    def begin(self) -> None:
        """A step begins."""
        self._owed_N = torch.empty(0)

    def nbytes(self, count: int) -> int:
        """See `Wire`."""
        return self._wire.nbytes(count)

    def encode(self, part_N: torch.Tensor, scratch_B: torch.Tensor) -> torch.Tensor:
        """See `Wire`."""
        if self._owed_N.shape == part_N.shape:
            part_N = part_N + self._owed_N
        message_B = self._wire.encode(part_N, scratch_B)
        self._owed_N = part_N - self._wire.read(message_B)[: len(part_N)]
        return message_B

    def read(self, message_B: torch.Tensor) -> torch.Tensor:
        """See `Wire`."""
        return self._wire.read(message_B)


def wire_of(name: str) -> Wire:
    """A wire by its name.

    Raises:
        ValueError: it is not known.
    """
    wires: dict[str, Callable[[], Wire]] = {"float32": Float32, "bfloat16": BFloat16, "int8": Int8}
    if name == "int8-feedback":
        return Feedback(Int8())
    if name not in wires:
        raise ValueError(f"parts of sums cannot travel as {name[:20]!r}; known: {', '.join(wires)}, int8-feedback")
    return wires[name]()
