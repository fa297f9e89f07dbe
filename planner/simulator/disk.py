"""A node's disk: reads streamed layers one after the other, as far ahead as its window allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from potluck.planner.simulator.clock import Clock
from potluck.planner.simulator.meter import Meter


class Disk:
    """The window of one node. Layers are numbered in the order in which a step needs them; at first it is full."""

    def __init__(self, name: str, sizes: Sequence[int], window: tuple[int, float], clock: Clock, meter: Meter) -> None:
        """`window` is bytes that layers may take at once, and bytes per second that are read."""
        self._name, self._sizes, self._clock, self._meter = name, sizes, clock, meter
        self._budget, self._speed = window
        self._stays = sum(sizes) <= self._budget
        self._there: set[int] = set()
        self._taken = self._next = 0
        self._reading = False
        self._waiting: tuple[int, Callable[[], None]] | None = None
        while self._has_room():
            self._there.add(self._claim())

    def need(self, layer: int, then: Callable[[], None]) -> None:
        """Call when a layer is there."""
        if layer in self._there:
            then()
        else:
            self._waiting = (layer, then)

    def release(self, layer: int) -> None:
        """A layer was used and goes, unless all of them fit."""
        if not self._stays:
            self._there.remove(layer)
            self._taken -= self._sizes[layer]
            self._read()

    def _has_room(self) -> bool:
        if len(self._there) == len(self._sizes):
            return False
        return not self._there or self._taken + self._sizes[self._next] <= self._budget

    def _claim(self) -> int:
        layer = self._next
        self._taken += self._sizes[layer]
        self._next = (layer + 1) % len(self._sizes)
        return layer

    def _read(self) -> None:
        if not self._reading and self._has_room():
            self._reading, start = True, self._clock.now
            layer = self._claim()
            self._clock.at(start + self._sizes[layer] / self._speed, lambda: self._arrived(layer, start))

    def _arrived(self, layer: int, start: float) -> None:
        self._reading = False
        self._there.add(layer)
        self._meter.use(self._name, start, self._clock.now, (None, f"read {layer + 1} of {len(self._sizes)}"))
        self._read()
        if self._waiting and self._waiting[0] == layer:
            then, self._waiting = self._waiting[1], None
            then()
