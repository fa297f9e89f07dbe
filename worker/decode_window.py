"""The layers of a window that a few single rows go through in one call of the extension."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from potluck.kernels.decode_layers import in_order
from potluck.worker.batch import Batch
from potluck.worker.decoder import Layer


class DecodeWindow:
    """Layers that stay where they are, in order, with the same sums."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers, self._kinds = layers, list({layer.kind: None for layer in layers})
        halves = [layer.halves(self._kinds.index(layer.kind)) for layer in layers]
        known = [one for one in halves if one is not None]
        self._decode = in_order(known) if known and len(known) == len(layers) else None

    def run(self, x_TD: torch.Tensor, batch: Batch) -> torch.Tensor | None:
        """What the last layer gives, float32 (T, D) in and out; None where layers have to be called one by one."""
        if self._decode is None or not batch.decode or not len(x_TD):
            return None
        total = self._layers[0].in_one(x_TD.numel())
        if total is None:
            return None
        for layer in self._layers:
            layer.clear(batch)
        with total as call:
            return self._decode.run(x_TD, [batch.decode[kind] for kind in self._kinds], call)
