"""When streamed layers are in memory: the window of `worker/streaming.py`, worked out instead of run.

A node reads its layers one after the other, round and round, each as soon as there is room for it beside those that
are there; a layer that was used makes room. So with C layers in a window, layer j is read no earlier than

    read(j) = max(read(j - 1) + s(j - 1) / disk, used(j - C)),    ready(j) = read(j) + s(j) / disk

and a step waits for what is not ready. While others compute and talk, reading goes on: a step takes as long as its
compute and hops where ready(j) comes first (TPI-LLM's steady state, arXiv 2410.00531, propositions 3 and 4), and never
less than one node's bytes / disk. Before a request there is time enough: the window is full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_DECIMALS = 9


@dataclass(slots=True)
class _Held:
    index: int
    ready: float


class Window:
    """One node's streamed layers, in the order in which every step needs them. Times are seconds and never go back."""

    def __init__(self, sizes: Sequence[int], budget: int, disk: float) -> None:
        """Bytes of each layer; bytes that they may take at once; bytes per second."""
        self._sizes, self._budget, self._disk = sizes, budget, disk
        self._all_fit = sum(sizes) <= budget
        self._held: deque[_Held] = deque()
        self._taken = self._next = 0
        self._free_at = float("-inf")
        self._read(float("-inf"))
        for held in self._held:
            held.ready = float("-inf")
        self._free_at = float("-inf")

    def reach(self, now: float) -> float:
        """When the next layer that is needed can be computed with, asked for at `now`."""
        return max(now, self._held[0].ready)

    def leave(self, now: float) -> None:
        """That layer was used: it goes, and the disk goes on with what there is room for."""
        held = self._held.popleft()
        if self._all_fit:
            self._held.append(held)
            return
        self._taken -= self._sizes[held.index]
        self._read(now)

    def lags(self, now: float, scale: float) -> tuple[object, ...]:
        """How far reading is behind `now`, in units of `scale` seconds: equal lags go on equally."""
        times = (round(max(0.0, held.ready - now) / scale, _DECIMALS) for held in self._held)
        return (self._next, round(max(0.0, self._free_at - now) / scale, _DECIMALS), *times)

    def _read(self, room_at: float) -> None:
        while len(self._held) < len(self._sizes):
            size = self._sizes[self._next]
            # One always fits, so that a window smaller than a layer still turns.
            if self._held and self._taken + size > self._budget:
                return
            self._free_at = max(self._free_at, room_at) + size / self._disk
            self._held.append(_Held(self._next, self._free_at))
            self._taken += size
            self._next = (self._next + 1) % len(self._sizes)
