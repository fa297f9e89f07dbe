"""Matrix product with quantised weights that lie on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from potluck.kernels.gpu.grouped import GroupedMatrix
from potluck.kernels.gpu.quantized import multiply


class GpuLinear:
    """x @ weight.T + bias, where the weight is made of matrices one below the other. Float32 in and out."""

    __slots__ = ("_bias_O", "_orders", "_pieces", "dtype")

    def __init__(
        self,
        pieces: Sequence[GroupedMatrix],
        bias_O: torch.Tensor | None = None,
        orders: Sequence[torch.Tensor | None] = (),
    ) -> None:
        """`orders` says for each piece which column of x each of its own columns multiplies, None where in order."""
        self._pieces = tuple(pieces)
        self._orders = tuple(orders) or (None,) * len(self._pieces)
        self._bias_O = None if bias_O is None else bias_O.float()
        self.dtype = torch.float32

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> GpuLinear:
        """The same with every tensor put through `move`, always in the same order."""
        pieces = [piece.moved(move) for piece in self._pieces]
        orders = [None if order_I is None else move(order_I) for order_I in self._orders]
        return GpuLinear(pieces, None if self._bias_O is None else move(self._bias_O), orders)

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        """The product for T rows: float32 (T, O)."""
        x_TI = x_TI.float()
        parts = [
            multiply(x_TI if order_I is None else x_TI.index_select(1, order_I), piece)
            for piece, order_I in zip(self._pieces, self._orders, strict=True)
        ]
        out_TO = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return out_TO if self._bias_O is None else out_TO.add_(self._bias_O)
