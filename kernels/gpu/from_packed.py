"""From the layout that the C++ extension packs, which shard files hold, to the groups that the GPU reads.

R = groups of 16 rows, T = tiles of 32 columns, B = bytes. `csrc/formats.hpp` says how a tile lies. No number is
rounded: q stays as it is, and scales that are a product of two numbers are kept in float32, which holds it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from potluck.kernels.gpu.grouped import GroupedMatrix, pack

_ROWS = 16
_TILE = 32
_AT_ONCE = 8 << 20  # weights that are laid out together: a few times as many bytes beside the matrix itself


@dataclass(frozen=True, slots=True)
class _Format:
    """How an encoding's weights are made of what its tiles hold.

    Attributes:
        bits: of q.
        offset: weight = scale * (q - offset), where there is no minimum.
        minimum: none, the number itself, minus its product with the scale, or minus one of 256 columns times a byte.
        group: columns that share a scale.
        shared: tiles that share the halves in front of them; 0 where every tile has its own.
        bytes_scale: whether each tile's scale is a byte times the half in front.
    """

    bits: int
    offset: int = 0
    minimum: str = ""
    group: int = 32
    shared: int = 0
    bytes_scale: bool = False

    @property
    def plane(self) -> int:
        """Bytes of a tile's numbers."""
        return 512 if self.bits == 8 else 256 + 64 * (self.bits - 4)

    @property
    def halves(self) -> int:
        """Bytes of a scale, and of a minimum where there is one, in half precision for 16 rows."""
        return 4 * _ROWS if self.minimum else 2 * _ROWS

    @property
    def tile(self) -> int:
        """Bytes of a tile."""
        return self.plane + (2 * _ROWS if self.bytes_scale else 0 if self.shared else self.halves)

    @property
    def dtype(self) -> torch.dtype:
        """In which scales and minima are exact."""
        return torch.float32 if self.bytes_scale or self.minimum == "zero" else torch.float16

    @property
    def kept_bits(self) -> int:
        """Bits of a number on the GPU."""
        return 4 if self.bits == 4 else 8


_FORMATS = {
    "Q4_0": _Format(4, offset=8),
    "Q4_1": _Format(4, minimum="plain"),
    "Q5_0": _Format(5, offset=16),
    "Q5_1": _Format(5, minimum="plain"),
    "Q8_0": _Format(8, offset=128),
    "Q4_K": _Format(4, minimum="byte", shared=8, bytes_scale=True),
    "Q5_K": _Format(5, minimum="byte", shared=8, bytes_scale=True),
    "Q6_K": _Format(6, offset=32, group=16, shared=8, bytes_scale=True),
    "INT4_G32": _Format(4, minimum="zero"),
    "INT4_G128": _Format(4, minimum="zero", group=128, shared=4),
    "INT8_G32": _Format(8, minimum="zero"),
    "INT8_G128": _Format(8, minimum="zero", group=128, shared=4),
}


def grouped_bytes(encoding: str, shape: tuple[int, int]) -> int:
    """Bytes that a matrix takes on the GPU."""
    form, weights = _FORMATS[encoding], shape[0] * shape[1]
    return weights * form.kept_bits // 8 + weights // form.group * 2 * form.dtype.itemsize


def from_packed(encoding: str, shape: tuple[int, int], data: torch.Tensor) -> GroupedMatrix:
    """The same matrix in groups, on the device of its packed bytes.

    Args:
        encoding: a GGUF encoding or a group format.
        shape: outputs and inputs.
        data: uint8, as `PackedMatrix.pack` made them.

    Raises:
        ValueError: a scale is not finite.
        KeyError: the encoding has no groups.
    """
    form, (rows, columns) = _FORMATS[encoding], shape
    data_RB = data.view(-(-rows // _ROWS), -1)
    step = max(1, _AT_ONCE // (_ROWS * columns))
    parts = [_part(form, part_RB, columns) for part_RB in torch.split(data_RB, step)]
    codes, scales, minima = (
        torch.cat([getattr(part, name) for part in parts])[:rows] for name in ("codes_OGC", "scale_OG", "minimum_OG")
    )
    return GroupedMatrix(codes, scales, minima, form.kept_bits, form.group)


def _part(form: _Format, data_RB: torch.Tensor, columns: int) -> GroupedMatrix:
    tiles = columns // _TILE
    if form.shared:
        data_RSB = data_RB.view(len(data_RB), tiles // form.shared, -1)
        before_RSB, tiles_RB = data_RSB[..., : form.halves], data_RSB[..., form.halves :]
        tiles_RTB = tiles_RB.reshape(len(data_RB), tiles, form.tile)
    else:
        tiles_RTB = data_RB.view(len(data_RB), tiles, form.tile)
        before_RSB = tiles_RTB[..., form.plane :]
    scale_OG, minimum_OG = _scales(form, before_RSB, tiles_RTB[..., form.plane :])
    return pack(_numbers(form.bits, tiles_RTB), scale_OG, minimum_OG, form.kept_bits, form.dtype)


def _numbers(bits: int, tiles_RTB: torch.Tensor) -> torch.Tensor:
    """q of every weight: uint8 (rows, columns). A step is four columns of the 16 rows."""
    groups, tiles = tiles_RTB.shape[:2]
    if bits == 8:
        q = tiles_RTB[..., :512].reshape(groups, tiles, 8, _ROWS, 4)
    else:
        # Two steps share their bytes: the first has the low halves.
        low = tiles_RTB[..., :256].reshape(groups, tiles, 4, 1, _ROWS, 4)
        q = torch.cat((low & 15, low >> 4), 3).view(groups, tiles, 8, _ROWS, 4)
    places = torch.arange(8, dtype=torch.uint8, device=tiles_RTB.device)
    for bit in range(4, bits if bits < 8 else 4):
        first = 256 + 64 * (bit - 4)
        plane = tiles_RTB[..., first : first + 64].reshape(groups, tiles, 8, 8, 1)
        q = q | (((plane >> places) & 1) << bit).view(q.shape)
    return q.permute(0, 3, 1, 2, 4).reshape(groups * _ROWS, -1)


def _scales(form: _Format, before_RSB: torch.Tensor, after_RTB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and minima of every group: float32 (rows, groups of columns)."""
    d_RSO = _halves(before_RSB, 0)
    m_RSO = _halves(before_RSB, 1) if form.minimum else None
    if not form.bytes_scale:
        scale = d_RSO
        minimum = -form.offset * scale if m_RSO is None else -scale * m_RSO if form.minimum == "zero" else m_RSO
        return _by_row(scale), _by_row(minimum)
    first_RTO, second_RTO = after_RTB[..., :_ROWS], after_RTB[..., _ROWS : 2 * _ROWS]
    d_RTO = d_RSO.repeat_interleave(form.shared, 1)
    if m_RSO is not None:
        return _by_row(d_RTO * first_RTO), _by_row(-m_RSO.repeat_interleave(form.shared, 1) * second_RTO)
    # Two signed bytes a tile, one for each half of it.
    both_RT2O = torch.stack((first_RTO, second_RTO), 2).view(torch.int8)
    scale = _by_row((d_RTO.unsqueeze(2) * both_RT2O).flatten(1, 2))
    return scale, -form.offset * scale


def _halves(bytes_RSB: torch.Tensor, number: int) -> torch.Tensor:
    """Numbers in half precision of 16 rows: float32 (R, S, 16)."""
    size = 2 * _ROWS
    return bytes_RSB[..., number * size : (number + 1) * size].contiguous().view(torch.float16).float()


def _by_row(scale_RGO: torch.Tensor) -> torch.Tensor:
    return scale_RGO.transpose(1, 2).reshape(-1, scale_RGO.shape[1])
