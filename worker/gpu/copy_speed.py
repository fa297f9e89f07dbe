"""How fast a GPU gets bytes from the host's memory, as streamed layers come: from pages that stay where they are."""

from __future__ import annotations

from itertools import repeat

import torch

from potluck.worker.timing import Work, seconds, typical

_COPIED = 256 << 20
_BUDGET = 0.3


def measure_copy_bandwidth(device: torch.device, size: int = _COPIED) -> float:
    """Bytes per second from the host to a device; on the CPU itself a copy within its memory."""
    host = torch.full((size,), 1, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there = torch.empty(size, dtype=torch.uint8, device=device)
    copy = Work(lambda: there.copy_(host, non_blocking=True))
    return size / typical((seconds(copy, None, device) for _ in repeat(None)), _BUDGET)
