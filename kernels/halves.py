"""The halves of a transformer layer for a few rows, a call of the extension each: what lies between two sums.

T = packed rows, each its sequence's only one; D = width of the residual stream.

The same operations in the same order, so the same bits, as a call for each of them (`csrc/decode.hpp`). A call from
Python costs 5 to 10 us with its checks and its memory, whatever it does.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import NamedTuple

import torch

from potluck.kernels.attention import WIDTHS
from potluck.kernels.attention_inputs import HeadNorm
from potluck.kernels.attention_plan import AttentionPlan
from potluck.kernels.extension import FLOATS, float_bits, native, takes
from potluck.kernels.gated import Activation
from potluck.kernels.packed import PackedLinear

# With more rows calls cost little beside the products, and what is kept between operations would be large.
MOST_ROWS = 32


class Normed(NamedTuple):
    """The norm of the rows that go into a product: weights (D)."""

    weight_D: torch.Tensor
    eps: float


class DecodeStep:
    """A step of single rows as the extension reads it, for layers of one rope and one window."""

    __slots__ = ("_kept", "_numbers", "address")

    def __init__(self, slots_T: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], plan: AttentionPlan) -> None:
        """Take what `place_qkv` and `paged_attention` would.

        Raises:
            ValueError: the plan is not of single rows alone.
        """
        if (rows := plan.single) is None or plan.chunks:
            raise ValueError("not every row is its sequence's only one")
        self._kept = (slots_T, *rotary, rows.meta_B4, rows.blocks)
        self._numbers = array("q", [len(slots_T), *(tensor.data_ptr() for tensor in self._kept), rows.most])
        self.address = self._numbers.buffer_info()[0]


class Half:
    """From the residual stream to what attention or FFN adds to it, or to the sum of a group."""

    __slots__ = ("_call", "_kept", "address")

    def __init__(
        self, call: Callable[[int, int, int, int], None], numbers: list[int], owners: tuple[object, ...]
    ) -> None:
        """`owners` have the memory that the addresses among the numbers are of."""
        held = array("q", numbers)
        self._call, self.address, self._kept = call, held.buffer_info()[0], (held, owners)

    def __call__(self, x_TD: torch.Tensor, step: DecodeStep) -> torch.Tensor:
        """Float32 (T, D) in and out; attention writes the rows' keys and values."""
        x_TD = x_TD.contiguous()
        out_TD = torch.empty_like(x_TD)
        self._call(self.address, step.address, x_TD.data_ptr(), out_TD.data_ptr())
        return out_TD


def attention_half(
    norm: Normed, products: tuple[object, object], head_norm: HeadNorm | None, pool_NS2KE: torch.Tensor, scale: float
) -> Half | None:
    """The half whose products are that of queries, keys and values and the output's.

    None where the extension has no code for one of its operations: they are called one by one then.
    """
    block, _, kv_heads, width = pool_NS2KE.shape[1:]
    found = _numbers_of(norm, products)
    if found is None or native is None or width not in WIDTHS or not _takes_heads(pool_NS2KE, head_norm):
        return None
    (qkv, output), numbers = found
    heads = qkv.rows // width - 2 * kv_heads
    if output.columns != heads * width:
        return None
    heads_norm = [0, 0] if head_norm is None else [head_norm.weight_NE.data_ptr(), float_bits(head_norm.eps)]
    pool = [pool_NS2KE.data_ptr(), block, float_bits(scale), pool_NS2KE.dtype == torch.bfloat16]
    numbers[2:2] = [heads, kv_heads, width, *heads_norm, *pool]
    return Half(native.attention_half, numbers, (norm, products, head_norm, pool_NS2KE))


def ffn_half(norm: Normed, products: tuple[object, object], activation: Activation) -> Half | None:
    """The half whose products are that of gate and up and the one down; None as for attention."""
    found = _numbers_of(norm, products)
    if found is None or native is None:
        return None
    (gate_up, down), numbers = found
    if gate_up.rows != 2 * down.columns:
        return None
    numbers[2:2] = [activation == "gelu_tanh"]
    return Half(native.ffn_half, numbers, (norm, products))


def _numbers_of(
    norm: Normed, products: tuple[object, object]
) -> tuple[tuple[PackedLinear, PackedLinear], list[int]] | None:
    """A half's products, and the numbers of its norm and of them."""
    first, last = products
    if not isinstance(first, PackedLinear) or not isinstance(last, PackedLinear):
        return None
    numbers = first.numbers(), last.numbers()
    fits = first.columns == last.rows == len(norm.weight_D) and norm.weight_D.dtype == torch.float32
    if numbers[0] is None or numbers[1] is None or not fits or not takes(norm.weight_D):
        return None
    return (first, last), [norm.weight_D.data_ptr(), float_bits(norm.eps), *numbers[0], *numbers[1]]


def _takes_heads(pool_NS2KE: torch.Tensor, norm: HeadNorm | None) -> bool:
    if norm is not None and (norm.weight_NE.dtype != torch.float32 or not takes(norm.weight_NE)):
        return False
    return pool_NS2KE.dtype in FLOATS and takes(pool_NS2KE)
