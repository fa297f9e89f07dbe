"""Root mean square norm on a GPU, alone or together with the addition to the residual stream before it.

T = packed rows, D = width. A program per row: rows are short enough to stay in registers between sum and product.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from potluck.kernels.gpu.launch import warps


@triton.jit
def norm_kernel(
    x_TD: tl.tensor,
    added_TD: tl.tensor,
    weight_D: tl.tensor,
    out_TD: tl.tensor,
    width: int,
    eps: float,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A row of x, with `added` added in place where ADD is set, normed into `out`."""
    columns_D = tl.arange(0, BLOCK)
    inside_D = columns_D < width
    at_D = tl.program_id(0).to(tl.int64) * width + columns_D
    x = tl.load(x_TD + at_D, mask=inside_D, other=0.0)
    if ADD:
        x += tl.load(added_TD + at_D, mask=inside_D, other=0.0).to(tl.float32)
        tl.store(x_TD + at_D, x, mask=inside_D)
    factor = tl.rsqrt(tl.sum(x * x, 0) / width + eps)
    weight = tl.load(weight_D + columns_D, mask=inside_D, other=0.0)
    tl.store(out_TD + at_D, (x * factor * weight).to(out_TD.dtype.element_ty), mask=inside_D)


def rms_norm(x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in float32, returned in `dtype`.

    x and the weight are float32, x has contiguous rows.
    """
    return _launch(x_TD, None, weight_D, eps, dtype)


def add_rms_norm(
    x_TD: torch.Tensor, added_TD: torch.Tensor, weight_D: torch.Tensor, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    """The same of x + added, which is stored in x; `added` may have any float type."""
    if added_TD.shape != x_TD.shape:
        raise ValueError(f"{tuple(added_TD.shape)} cannot be added to {tuple(x_TD.shape)}")
    return _launch(x_TD, added_TD.contiguous(), weight_D, eps, dtype)


def _launch(
    x_TD: torch.Tensor, added_TD: torch.Tensor | None, weight_D: torch.Tensor, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    if x_TD.dtype != torch.float32 or not x_TD.is_contiguous():
        raise ValueError("the residual stream is contiguous and float32")
    rows, width = x_TD.shape
    out_TD = torch.empty(x_TD.shape, dtype=dtype, device=x_TD.device)
    block = triton.next_power_of_2(width)
    added = x_TD if added_TD is None else added_TD
    norm_kernel[(rows,)](
        x_TD, added, weight_D, out_TD, width, eps, ADD=added_TD is not None, BLOCK=block, num_warps=warps(block)
    )
    return out_TD
