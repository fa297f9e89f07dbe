"""The gate of a gated FFN on a GPU (arXiv 2002.05202)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from potluck.kernels.gated import Activation

_BLOCK = 1024


@triton.jit
def gate_kernel(gate_up_TF: tl.tensor, out_TH: tl.tensor, width: int, GELU: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """activation(gate) * up for BLOCK columns of one row; `width` columns of gate, then as many of up."""
    row = tl.program_id(0).to(tl.int64)
    columns_H = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside_H = columns_H < width
    at_H = gate_up_TF + row * 2 * width + columns_H
    gate = tl.load(at_H, mask=inside_H, other=0.0).to(tl.float32)
    up = tl.load(at_H + width, mask=inside_H, other=0.0).to(tl.float32)
    turn = gate
    if GELU:
        # (1 + tanh(u)) / 2 = sigmoid(2 u), which needs no tanh; 1.59... = 2 sqrt(2 / pi).
        turn = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    # The exponential of minus the size cannot overflow, whichever sign the gate has.
    small = tl.exp(-tl.abs(turn))
    out = gate * tl.where(turn >= 0, 1.0, small) / (1.0 + small) * up
    tl.store(out_TH + row * width + columns_H, out.to(out_TH.dtype.element_ty), mask=inside_H)


def gated(gate_up_TF: torch.Tensor, activation: Activation) -> torch.Tensor:
    """activation(gate) * up, where gate is the first half of the last axis and up the second.

    T = packed rows, F = twice the FFN width H. Computed in float32, returned (T, H) in the type it came in, rounded
    once.
    """
    gate_up_TF = gate_up_TF.contiguous()
    rows, width = gate_up_TF.shape[0], gate_up_TF.shape[1] // 2
    out_TH = torch.empty((rows, width), dtype=gate_up_TF.dtype, device=gate_up_TF.device)
    grid = (rows, triton.cdiv(width, _BLOCK))
    gate_kernel[grid](gate_up_TF, out_TH, width, GELU=activation == "gelu_tanh", BLOCK=_BLOCK, num_warps=4)
    return out_TH
