"""The C++ extension, where this installation has it. Its functions take addresses: callers check shapes first."""

from __future__ import annotations

import struct
from functools import lru_cache

import torch

from potluck.kernels.native_module import native

__all__ = ["FLOATS", "float_bits", "native", "takes"]

FLOATS = frozenset({torch.float32, torch.bfloat16})
_TYPES = FLOATS | {torch.int64}


def takes(*tensors: torch.Tensor) -> bool:
    """Whether the extension can work on these: float32, bfloat16 or int64, in one piece, on the CPU."""
    for tensor in tensors:  # a plain loop: this runs several times per layer and token
        if not (tensor.is_cpu and tensor.is_contiguous() and tensor.dtype in _TYPES):
            return False
    return native is not None


@lru_cache(maxsize=64)
def float_bits(value: float) -> int:
    """A float32 as the integer that the extension takes it by."""
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return bits
