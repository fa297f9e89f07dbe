"""A product by some columns of a matrix, for a member whose input has more numbers than those, or fewer."""

from __future__ import annotations

import torch

from potluck.models.roles import shape_of
from potluck.models.spec import ModelSpec
from potluck.worker.cut import Cut, Range, local_spec
from potluck.worker.pieces import Piece
from potluck.worker.residence import Product
from potluck.worker.takes import length, own_inputs, widened


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


def of_own_inputs(spec: ModelSpec, cut: Cut, piece: Piece, product: Product) -> Product:
    """The product by a piece for what a member computes; the product itself where that is all its columns."""
    role = piece.keys[0].role
    take, own = piece.taken[0], own_inputs(spec, role, cut)
    if take.inputs is not None:
        # The order of its columns names the number after x's own where a column counts for nothing.
        return OwnInputs(product, own, 0, length(own) + 1)
    if take.columns is None or own == (0, shape_of(local_spec(spec, cut), role)[1]) == (0, piece.shape[1]):
        return product
    return OwnInputs(product, own, take.columns[0] - widened(piece.encoding, take.columns)[0], piece.shape[1])
