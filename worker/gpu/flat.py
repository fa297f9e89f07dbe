"""A layer's weights in one run of bytes, as a device reads them: one copy moves them all.

B = bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from potluck.worker.weights import LayerWeights

Move = Callable[[torch.Tensor], torch.Tensor]
_ALIGNED = 256  # bytes; what CUDA's own allocations begin at, so that kernels load as wide as from those


@dataclass(frozen=True, slots=True)
class FlatLayer:
    """The bytes of a layer, and what they mean: `form` has tensors of every shape and type, but no numbers."""

    data_B: torch.Tensor
    form: LayerWeights


def weights_over(form: LayerWeights, data_B: torch.Tensor) -> LayerWeights:
    """The weights of a form that lie in some bytes; nothing is copied."""
    return moved(form, _Places(data_B))


class _Places:
    """Gives each tensor its place in a run of bytes, one behind the other."""

    def __init__(self, data_B: torch.Tensor, fill: bool = False) -> None:
        self._data_B, self._fill, self._end = data_B, fill, 0

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        begin, self._end = self._end, self._end + _aligned(tensor.nbytes)
        place = self._data_B[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        return place.copy_(tensor) if self._fill else place


def flatten(weights: LayerWeights, allocate: Callable[[int], torch.Tensor]) -> FlatLayer:
    """Copy weights into one run of bytes; `allocate` gives so many, uint8."""
    sizes: list[int] = []

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(_aligned(tensor.nbytes))
        return torch.empty_like(tensor, device="meta")

    form = moved(weights, noted)
    data_B = allocate(sum(sizes))
    moved(weights, _Places(data_B, fill=True))
    return FlatLayer(data_B, form)


def moved(weights: LayerWeights, move: Move) -> LayerWeights:
    """The same weights with every tensor put through `move`, always in the same order."""
    return replace(weights, **{part.name: _moved(getattr(weights, part.name), move) for part in fields(weights)})


def _moved(part: Any, move: Move) -> Any:
    if part is None:
        return None
    return move(part) if isinstance(part, torch.Tensor) else part.moved(move)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED
