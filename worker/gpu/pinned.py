"""Host memory that a GPU copies from while it computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class PinnedMemory:
    """Runs of bytes, about `total` in all; in few allocations, because torch rounds each up to a power of 2."""

    def __init__(self, total: int, device: torch.device) -> None:
        """Plain memory where the device is none that copies."""
        self._left, self._pinned = total, device.type == "cuda"
        self._slab_B, self._end = torch.empty(0, dtype=torch.uint8), 0

    def take(self, size: int) -> torch.Tensor:
        """So many bytes, uint8.

        Raises:
            RuntimeError: torch has none left.
        """
        if self._end + size > len(self._slab_B):
            slab = _slab_bytes(size, self._left)
            self._slab_B, self._end = torch.empty(slab, dtype=torch.uint8, pin_memory=self._pinned), 0
        begin, self._end = self._end, self._end + size
        self._left -= size
        return self._slab_B[begin : self._end]


def pinned_bytes(sizes: Sequence[int]) -> int:
    """Bytes that tensors of these sizes take, one after the other."""
    taken, room, left = 0, 0, sum(sizes)
    for size in sizes:
        if size > room:
            room = _slab_bytes(size, left)
            taken += room
        room, left = room - size, left - size
    return taken


def _slab_bytes(size: int, left: int) -> int:
    """A power of 2 that holds this size, and most of what is left."""
    return int(max(1 << (size - 1).bit_length(), 1 << (max(1, left).bit_length() - 1)))
