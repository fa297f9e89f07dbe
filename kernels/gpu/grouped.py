"""Matrices in groups: 4 or 8 bits a weight, a scale and a minimum for every group of columns, as the GPU reads them.

O = outputs, I = inputs, C = bytes of a group's codes, G = groups of a row. weight = scale * q + minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

GROUPS = (16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class GroupedMatrix:
    """A matrix of O rows and I columns.

    Four bits: byte c of a group holds its column c in the low half and column c + group / 2 in the high half, so that
    both halves of a vector of bytes meet consecutive inputs. Eight bits: a byte per column.

    Attributes:
        codes_OGC: uint8.
        scale_OG, minimum_OG: float16, or float32 where they are products that float16 would round.
        bits: 4 or 8.
        group: columns of a group.
    """

    codes_OGC: torch.Tensor
    scale_OG: torch.Tensor
    minimum_OG: torch.Tensor
    bits: int
    group: int

    @property
    def outputs(self) -> int:
        """O."""
        return self.codes_OGC.shape[0]

    @property
    def inputs(self) -> int:
        """I."""
        return self.codes_OGC.shape[1] * self.group

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads of it."""
        return sum(part.nbytes for part in (self.codes_OGC, self.scale_OG, self.minimum_OG))

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> GroupedMatrix:
        """The same with every tensor put through `move`, always in the same order."""
        codes, scale, minimum = move(self.codes_OGC), move(self.scale_OG), move(self.minimum_OG)
        return GroupedMatrix(codes, scale, minimum, self.bits, self.group)

    def select(self, rows_N: torch.Tensor) -> torch.Tensor:
        """Some rows as float32 (N, I); they are not checked, because that would wait for the device."""
        codes, scale, minimum = (x.index_select(0, rows_N) for x in (self.codes_OGC, self.scale_OG, self.minimum_OG))
        return unpack(GroupedMatrix(codes, scale, minimum, self.bits, self.group))


def pack(
    numbers_OI: torch.Tensor,
    scale_OG: torch.Tensor,
    minimum_OG: torch.Tensor,
    bits: int,
    dtype: torch.dtype = torch.float16,
) -> GroupedMatrix:
    """Lay a matrix out.

    Args:
        numbers_OI: uint8 below 2 ** bits.
        scale_OG: of any float type; the columns of a group are I / G.
        minimum_OG: likewise; minus scale times offset for formats that count from an offset.
        bits: 4 or 8.
        dtype: float16 or float32, of the scales and minima that are kept.

    Raises:
        ValueError: there are other bits or groups than the kernels know, a number is too large, or a scale or minimum
            is not finite in its type.
    """
    outputs, inputs = numbers_OI.shape
    groups = scale_OG.shape[1]
    if bits not in (4, 8) or groups * (inputs // max(groups, 1)) != inputs or inputs // max(groups, 1) not in GROUPS:
        raise ValueError(f"{bits} bits of {inputs} columns in {groups} groups: know 4 or 8 bits, groups of {GROUPS}")
    if scale_OG.shape != minimum_OG.shape or len(scale_OG) != outputs:
        raise ValueError(f"scales {tuple(scale_OG.shape)}, minima {tuple(minimum_OG.shape)}, {outputs} rows")
    if bits == 4 and numbers_OI.numel() and int(numbers_OI.max()) > 15:
        raise ValueError("a number does not fit four bits")
    scale, minimum = scale_OG.to(dtype).contiguous(), minimum_OG.to(dtype).contiguous()
    if not (scale.isfinite().all() and minimum.isfinite().all()):
        raise ValueError(f"a scale or minimum is no finite {str(dtype).removeprefix('torch.')}")
    group = inputs // groups
    codes = numbers_OI.view(outputs, groups, group)
    if bits == 4:
        low, high = codes.chunk(2, -1)
        codes = low | (high << 4)
    return GroupedMatrix(codes.contiguous(), scale, minimum, bits, group)


def unpack(weight: GroupedMatrix) -> torch.Tensor:
    """The weights as float32 (O, I)."""
    codes = weight.codes_OGC
    if weight.bits == 4:
        codes = torch.cat((codes & 15, codes >> 4), -1)
    weights = codes.float() * weight.scale_OG.float().unsqueeze(-1) + weight.minimum_OG.float().unsqueeze(-1)
    return weights.view(weight.outputs, weight.inputs)
