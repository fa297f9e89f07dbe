"""The gate of a gated FFN (arXiv 2002.05202)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from potluck.kernels.extension import native, takes

Activation = Literal["silu", "gelu_tanh"]


def gated(gate_up_TF: torch.Tensor, activation: Activation) -> torch.Tensor:
    """activation(gate) * up, where gate is the first half of the last axis and up the second.

    T = packed rows, F = twice the FFN width.
    """
    if native is None or not takes(gate_up_TF):
        return gated_reference(gate_up_TF, activation)
    rows, width = gate_up_TF.shape[0], gate_up_TF.shape[1] // 2
    out = torch.empty((rows, width), dtype=gate_up_TF.dtype)
    half, gelu = out.dtype == torch.bfloat16, activation == "gelu_tanh"
    native.gate(gate_up_TF.data_ptr(), rows, width, gelu, out.data_ptr(), half)
    return out


def gated_reference(gate_up_TF: torch.Tensor, activation: Activation) -> torch.Tensor:
    """The same in plain torch."""
    gate, up = gate_up_TF.chunk(2, -1)
    active = F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")
    return active.mul_(up)
