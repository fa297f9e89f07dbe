"""Layers for a few rows in one call of the extension, one after the other, with a group's sums between their halves.

Between products that read all of the weights, every line of Python comes from memory, too: layer by layer it is some 20
to 50 us a layer. The operations are those of the halves, in their order, so the bits are the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from potluck.kernels.extension import float_bits, native, takes
from potluck.kernels.halves import DecodeStep, Half


class SumCall(NamedTuple):
    """A function of C, int (void *context, float *part, int64_t count), that makes a part the sum of a group's.

    It returns 0, or something else with Python's error set. It is called without the GIL.
    """

    address: int
    context: int


NO_SUM = SumCall(0, 0)


class LayerHalves(NamedTuple):
    """A layer as one call reads it; norms (D) of what a half gives, where the model has them. `kind`: of its step."""

    attention: Half
    after_attention: torch.Tensor | None
    ffn: Half
    after_ffn: torch.Tensor | None
    eps: float
    kind: int


class DecodeLayers:
    """Some layers, in order. Made by `in_order`."""

    def __init__(self, call: Callable[..., None], layers: Sequence[LayerHalves]) -> None:
        self._call = call
        self._numbers = array("q", [number for layer in layers for number in _numbers(layer)])
        self._count, self._kept = len(layers), tuple(layers)

    def run(self, x_TD: torch.Tensor, steps: Sequence[DecodeStep], total: SumCall = NO_SUM) -> torch.Tensor:
        """Float32 (T, D) in and out, fresh memory. `steps` by kind; attention writes the rows' keys and values.

        Raises:
            whatever `total` does.
        """
        out_TD = x_TD.clone(memory_format=torch.contiguous_format)
        held = array("q", [step.address for step in steps])
        self._call(
            self._numbers.buffer_info()[0],
            self._count,
            held.buffer_info()[0],
            out_TD.data_ptr(),
            out_TD.shape[1],
            total.address,
            total.context,
        )
        return out_TD


def in_order(layers: Sequence[LayerHalves]) -> DecodeLayers | None:
    """The layers, or None where there is no extension."""
    return None if native is None else DecodeLayers(native.layers, layers)


def takes_norm(weight_D: torch.Tensor | None) -> bool:
    """Whether the extension norms what a half gives with these weights."""
    return weight_D is None or (weight_D.dtype == torch.float32 and takes(weight_D))


def _numbers(layer: LayerHalves) -> list[int]:
    after = [0 if norm is None else norm.data_ptr() for norm in (layer.after_attention, layer.after_ffn)]
    return [layer.attention.address, layer.kind, after[0], layer.ffn.address, after[1], float_bits(layer.eps)]
