"""Where a shard's weights lie and what multiplies them there: host memory, or a GPU's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from potluck.kernels.linear import Linear
from potluck.kernels.packed import PackedLinear, PackedMatrix
from potluck.worker.pieces import Piece


class Rows(Protocol):
    """A matrix that stays quantised."""

    def select(self, rows_N: torch.Tensor) -> torch.Tensor:
        """Some rows as float32 (N, I)."""


class Product(Protocol):
    """x @ weight.T + bias; `dtype` is the type in which it takes x and gives the result."""

    dtype: torch.dtype

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        """The product for T rows."""


Matrix = torch.Tensor | Rows
Orders = Sequence[torch.Tensor | None]


class Residence(Protocol):
    """Makes what the decoder computes with from stored pieces. They may lie in a mapped file, which may be closed."""

    def plain(self, stored: torch.Tensor) -> torch.Tensor:
        """A tensor of plain numbers."""

    def quantized(self, encoding: str, shape: tuple[int, int], stored: torch.Tensor) -> Rows:
        """A matrix in an encoding, from its packed bytes."""

    def product(self, matrices: Sequence[Matrix], bias_O: torch.Tensor | None, orders: Orders) -> Product:
        """A product by matrices one below the other; `orders` as in `PackedLinear`."""

    def nbytes(self, piece: Piece) -> int:
        """Bytes that a piece takes here."""


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Nothing is copied: weights stay where they are stored. `exact` as in `PackedLinear`."""

    exact: bool = False

    def plain(self, stored: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return stored

    def quantized(self, encoding: str, shape: tuple[int, int], stored: torch.Tensor) -> Rows:
        """The matrix as it is packed."""
        return PackedMatrix(encoding, shape, stored)

    def product(self, matrices: Sequence[Matrix], bias_O: torch.Tensor | None, orders: Orders) -> Product:
        """A product by packed matrices, or torch's."""
        packed = [matrix for matrix in matrices if isinstance(matrix, PackedMatrix)]
        return PackedLinear(packed, bias_O, self.exact, orders) if packed else _dense(matrices, bias_O)

    def nbytes(self, piece: Piece) -> int:
        """As stored."""
        return piece.nbytes


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Copies on a GPU. Activations are never rounded: there is no 8-bit product to round them for."""

    device: torch.device

    def plain(self, stored: torch.Tensor) -> torch.Tensor:
        """A copy."""
        return stored.to(self.device, copy=True)

    def quantized(self, encoding: str, shape: tuple[int, int], stored: torch.Tensor) -> Rows:
        """The matrix in groups, laid out on the device."""
        from potluck.kernels.gpu.from_packed import from_packed

        return from_packed(encoding, shape, stored.to(self.device))

    def product(self, matrices: Sequence[Matrix], bias_O: torch.Tensor | None, orders: Orders) -> Product:
        """A product by grouped matrices, or torch's."""
        from potluck.kernels.gpu.grouped import GroupedMatrix
        from potluck.kernels.gpu.linear import GpuLinear

        grouped = [matrix for matrix in matrices if isinstance(matrix, GroupedMatrix)]
        if not grouped:
            return _dense(matrices, bias_O)
        return GpuLinear(grouped, bias_O, [None if order is None else self.plain(order) for order in orders])

    def nbytes(self, piece: Piece) -> int:
        """More than stored where a format has 5 or 6 bits a weight, or scales of two levels."""
        from potluck.kernels.gpu.from_packed import grouped_bytes

        return piece.nbytes if piece.is_plain else grouped_bytes(piece.encoding, (piece.shape[0], piece.shape[1]))


def _dense(matrices: Sequence[Matrix], bias_O: torch.Tensor | None) -> Product:
    (weight_OI,) = [matrix for matrix in matrices if isinstance(matrix, torch.Tensor)]
    return Linear(weight_OI, None if bias_O is None else bias_O.to(weight_OI.dtype))
