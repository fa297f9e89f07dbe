"""What a shard takes of memory, worked out before anything of it is loaded. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from potluck.models.spec import ModelSpec
from potluck.worker.pieces import Form, Unit, pieces_of
from potluck.worker.residence import Residence
from potluck.worker.windows import ShardConfig, Window, streamed_units, units_of_windows


@dataclass(frozen=True)
class ShardMemory:
    """Bytes of the windows of a model that one node runs."""

    spec: ModelSpec
    windows: tuple[Window, ...]
    config: ShardConfig

    @cached_property
    def weights(self) -> int:
        """Bytes of all weights, each unit once, where they are computed with."""
        return self.of_units(units_of_windows(self.spec, self.windows))

    @cached_property
    def streamed(self) -> int:
        """Bytes of weights that do not stay in memory, those in `weights`."""
        return self.of_units(streamed_units(self.windows))

    @cached_property
    def kv(self) -> int:
        """Bytes of the KV pools."""
        config = self.config
        return sum(
            len(window.layers) * config.kv_shape.bytes_per_layer(window.spec(self.spec), config.dtype)
            for window in self.windows
        )

    def held(self, stream_budget: int) -> int:
        """Bytes in memory at once, where streamed weights may take so many."""
        return self.weights - self.streamed + min(self.streamed, stream_budget) + self.kv

    def of_units(self, units: Iterable[Unit]) -> int:
        """Bytes that the pieces of some units take where they are computed with."""
        return bytes_of(self.spec, units, self.config.form, self.config.residence)


def bytes_of(spec: ModelSpec, units: Iterable[Unit], form: Form, residence: Residence) -> int:
    """Bytes that the pieces of these units take where they are computed with."""
    return sum(residence.nbytes(piece) for unit in units for piece in pieces_of(spec, unit, form))
