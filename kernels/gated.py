"""The gate of a gated FFN (arXiv 2002.05202)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

Activation = Literal["silu", "gelu_tanh"]


def gated(gate_up_TF: torch.Tensor, activation: Activation) -> torch.Tensor:
    """activation(gate) * up, where gate is the first half of the last axis and up the second.

    T = packed rows, F = twice the FFN width.
    """
    gate, up = gate_up_TF.chunk(2, -1)
    active = F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")
    return active.mul_(up)
