"""A product by some columns of a matrix, for a member whose input has more numbers than those, or fewer."""

from __future__ import annotations

import torch

from potluck.worker.cut import Range
from potluck.worker.residence import Product


class OwnInputs:
    """Gives a product what of x is the member's own, between zeros."""

    __slots__ = ("_before", "_own", "_product", "_width", "dtype")

    def __init__(self, product: Product, own: Range, before: int, width: int) -> None:
        """`product` takes rows of `width` numbers, `before` of them before the member's own; `own`: where those are in
        x, whose other columns were computed for a shared KV head's sake and count for nothing here."""
        self._product, self._own, self._before, self._width = product, own, before, width
        self.dtype = product.dtype

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        """The product for T rows."""
        own_TI = x_TI[:, self._own[0] : self._own[1]]
        if own_TI.shape[1] == self._width:
            return self._product(own_TI)
        wide_TW = x_TI.new_zeros((len(x_TI), self._width))
        wide_TW[:, self._before : self._before + own_TI.shape[1]] = own_TI
        return self._product(wide_TW)
