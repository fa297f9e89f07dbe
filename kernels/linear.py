"""Matrix product with a constant weight in the order of its rows: what runs where nothing multiplies packed ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


class Linear:
    """x @ weight.T + bias, in the weight's type."""

    __slots__ = ("_bias_O", "_weight_OI", "dtype")

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> None:
        """Take a weight of O outputs and I inputs."""
        self._weight_OI, self._bias_O = weight_OI, bias_O
        self.dtype = weight_OI.dtype

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Linear:
        """The same with every tensor put through `move`, always in the same order."""
        return Linear(move(self._weight_OI), None if self._bias_O is None else move(self._bias_O))

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        """The product for T rows."""
        return F.linear(x_TI.to(self.dtype), self._weight_OI, self._bias_O)
