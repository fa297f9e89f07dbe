"""Hidden rows to and from the bytes of a frame, without a copy where torch allows it."""

from __future__ import annotations

import torch

from potluck.proto.frames import Frame

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def from_payload(frame: Frame) -> torch.Tensor:
    """The tensor (rows, hidden) of a whole frame; it owns or borrows the frame's buffer."""
    if not frame.payload:
        return torch.empty(frame.shape, dtype=_DTYPES[frame.dtype])
    buffer = frame.payload if isinstance(frame.payload, bytearray) else bytearray(frame.payload)
    return torch.frombuffer(buffer, dtype=_DTYPES[frame.dtype]).view(frame.shape)


def to_payload(x_TD: torch.Tensor) -> tuple[str, memoryview]:
    """Dtype name and raw bytes of a tensor."""
    x_TD = x_TD.contiguous().cpu()
    if not x_TD.numel():
        return _NAMES[x_TD.dtype], memoryview(b"")
    return _NAMES[x_TD.dtype], x_TD.view(torch.uint8).numpy().data.cast("B")
