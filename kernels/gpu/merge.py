"""Partial attention results over disjoint slots, merged by their lse, on a GPU.

P = parts, T = rows, H = heads, R = T x H, E = width of a head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from potluck.kernels.gpu.launch import warps


@triton.jit
def merge_kernel(
    out_PRE: tl.tensor,
    lse_PR: tl.tensor,
    merged_RE: tl.tensor,
    merged_R: tl.tensor,
    count: int,
    parts: int,
    width: int,
    BLOCK_P: tl.constexpr,
    BLOCK_E: tl.constexpr,
) -> None:
    """One head of one row: parts weigh by the power of their lse over the largest, which never overflows."""
    row = tl.program_id(0).to(tl.int64)
    parts_P, columns_E = tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_E)
    known_P = parts_P < parts
    at_P = parts_P.to(tl.int64) * count + row
    lse_P = tl.load(lse_PR + at_P, mask=known_P, other=float("-inf"))
    most = tl.max(lse_P, 0)
    saw = most > float("-inf")
    weights_P = tl.exp(lse_P - tl.where(saw, most, 0.0))
    total = tl.where(saw, tl.sum(weights_P, 0), 1.0)
    known_PE = known_P[:, None] & (columns_E < width)[None, :]
    out_PE = tl.load(out_PRE + at_P[:, None] * width + columns_E[None, :], mask=known_PE, other=0.0).to(tl.float32)
    out_E = tl.sum(out_PE * weights_P[:, None], 0) / total
    tl.store(merged_RE + row * width + columns_E, out_E.to(merged_RE.dtype.element_ty), mask=columns_E < width)
    tl.store(merged_R + row, tl.where(saw, most + tl.log(total), float("-inf")))


def merge(
    out_PTHE: torch.Tensor, lse_PTH: torch.Tensor, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """The result over all slots: (T, H, E) in `dtype` and its lse, float32 (T, H).

    `lse_PTH` is float32, in nats; minus infinity marks a part that saw nothing, whose result must be finite.
    """
    parts, rows, heads, width = out_PTHE.shape
    merged_THE = torch.empty((rows, heads, width), dtype=dtype, device=out_PTHE.device)
    merged_TH = torch.empty((rows, heads), dtype=torch.float32, device=out_PTHE.device)
    block_parts, block_width = triton.next_power_of_2(parts), triton.next_power_of_2(width)
    merge_kernel[(rows * heads,)](
        out_PTHE.contiguous(),
        lse_PTH.contiguous(),
        merged_THE,
        merged_TH,
        rows * heads,
        parts,
        width,
        BLOCK_P=block_parts,
        BLOCK_E=block_width,
        num_warps=warps(block_parts * block_width),
    )
    return merged_THE, merged_TH
