"""A shard's weights in mapped files: those that stay and those that are streamed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from potluck.kernels.native_module import native
from potluck.worker import pages
from potluck.worker.pieces import Unit
from potluck.worker.shard_manifest import ShardFileError
from potluck.worker.shard_store import MappedUnit
from potluck.worker.streaming import Streamer
from potluck.worker.weight_source import Placed

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Streamed:
    mapped: MappedUnit
    disk: pages.SlowDisk | None

    @property
    def unit(self) -> Unit:
        return self.mapped.unit

    @property
    def nbytes(self) -> int:
        return self.mapped.mapping.size

    def bring_in(self, going: Callable[[], bool], asked: float) -> None:
        if not self.mapped.mapping.is_unchanged:
            raise OSError(f"{self.mapped.mapping.path} was changed while in use")
        pages.bring_in(self.mapped.mapping, going, self.disk.begin(asked) if self.disk else None)

    def drop(self) -> None:
        pages.drop(self.mapped.mapping)


class MappedWeights:
    """Units of a shard, mapped (a `potluck.worker.weights.WeightSource`)."""

    def __init__(
        self, units: Mapping[Unit, MappedUnit], streamed: Sequence[Unit], budget: int, disk: float = 0.0
    ) -> None:
        """`streamed`: units that come and go within `budget` bytes, in the order in which a step needs them; `disk`:
        bytes per second at most, where a slower one is imitated.

        Raises:
            ShardFileError: a page of a unit that stays cannot be read.
        """
        self._units = dict(units)
        self._look_at = 0.0
        self._misses = native.misses() if native is not None else -1
        self.streamer: Streamer | None = None
        for unit in streamed:
            pages.read_only_what_is_touched(units[unit].mapping)
            pages.drop(units[unit].mapping)
        for unit in units.keys() - set(streamed):
            self._keep(units[unit])
        if streamed:
            slow = pages.SlowDisk(disk) if disk else None
            self.streamer = Streamer([_Streamed(units[unit], slow) for unit in streamed], budget)

    def place(self, unit: Unit) -> Placed:
        """A unit's pieces."""
        return self._units[unit].placed()

    def check(self) -> None:
        """Look whether every page that was computed with was there, and every second, whether files were changed.

        Raises:
            ShardFileError: a file was cut or changed, or its disk fails.
        """
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            self._look()
        if native is not None and native.misses() == self._misses:
            return
        for mapped in self._units.values():
            if not mapped.mapping.is_whole:
                raise ShardFileError(f"the shard file {mapped.mapping.path} was cut or cannot be read while in use")
        self._misses = native.misses() if native is not None else -1

    def _look(self) -> None:
        for mapped in self._units.values():
            if not mapped.mapping.is_unchanged:
                raise ShardFileError(f"the shard file {mapped.mapping.path} was changed while in use")

    def close(self) -> None:
        """End the streamer and the guards."""
        if self.streamer is not None:
            self.streamer.close()
        for mapped in self._units.values():
            mapped.mapping.close()

    def _keep(self, mapped: MappedUnit) -> None:
        try:
            pages.bring_in(mapped.mapping, lambda: True)
        except OSError as error:
            raise ShardFileError(f"the shard file {mapped.mapping.path} cannot be read ({error})") from None
