"""The layers of a shard: where each is when a step comes to it, and what runs through them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch

from potluck.models.spec import ModelSpec
from potluck.worker.batch import Batch
from potluck.worker.decode_window import DecodeWindow
from potluck.worker.decoder import Layer
from potluck.worker.operations import Operations
from potluck.worker.pace import Pace
from potluck.worker.pieces import Unit
from potluck.worker.streaming import Streamer
from potluck.worker.weights import LayerWeights

Body = Callable[[torch.Tensor, Batch], torch.Tensor]


class ComingLayers(Protocol):
    """Layers that are not where they are computed all the time."""

    def layer(self, number: int) -> AbstractContextManager[Layer]:
        """A layer, for as long as it is computed."""

    @property
    def stall_seconds(self) -> float:
        """Seconds that computing waited for them."""

    @property
    def brought_bytes(self) -> int:
        """Bytes that were brought for steps."""


class CapturedSteps(Protocol):
    """Runs what was captured once instead of launching it again."""

    def takes(self, batch: Batch) -> bool:
        """Whether steps like this one are captured."""

    def run(self, key: Hashable, body: Body, x_TD: torch.Tensor, batch: Batch) -> torch.Tensor:
        """What `body` gives for these rows. A key always comes with the same body, which changes none of its inputs."""


@dataclass(frozen=True, slots=True)
class LayerMaker:
    """Puts a layer together.

    Attributes:
        spec: of what this node holds of it.
        pool_NS2KE: its KV.
        weights: takes its weights from where they are stored.
        nbytes: what they take where they are computed with.
        in_group: whether its sums go over the network.
    """

    unit: Unit
    spec: ModelSpec
    operations: Operations
    pool_NS2KE: torch.Tensor
    weights: Callable[[], LayerWeights]
    nbytes: int
    in_group: bool = False

    @property
    def number(self) -> int:
        """The layer's."""
        return self.unit.layer or 0

    def made(self) -> Layer:
        """The layer with weights as they are stored."""
        return self.layer(self.weights())

    def layer(self, weights: LayerWeights) -> Layer:
        """The layer with these weights."""
        return Layer(self.spec, self.spec.layers[self.number], weights, self.pool_NS2KE, self.operations)


@dataclass(frozen=True, slots=True)
class Layers:
    """Runs windows. `resident` layers stay, others are `coming`; `captured` runs steps through `replayed` ones."""

    resident: Mapping[int, Layer] = field(default_factory=dict)
    coming: ComingLayers | None = None
    captured: CapturedSteps | None = None
    replayed: frozenset[int] = frozenset()
    _whole: dict[range, DecodeWindow | None] = field(default_factory=dict)

    def run(self, layers: range, x_TD: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The output of some layers, one after the other, float32 in and out."""
        captured = self.captured
        if captured is None:
            whole = self._in_one(layers) if batch.decode else None
            out_TD = None if whole is None else whole.run(x_TD, batch)
            return self._through(layers, x_TD, batch) if out_TD is None else out_TD
        if not layers or not self.replayed.issuperset(layers) or not captured.takes(batch):
            return self._through(layers, x_TD, batch)
        return captured.run(layers, partial(self._through, layers), x_TD, batch)

    def _in_one(self, layers: range) -> DecodeWindow | None:
        if layers not in self._whole:
            here = [self.resident[number] for number in layers if number in self.resident]
            self._whole[layers] = DecodeWindow(here) if here and len(here) == len(layers) else None
        return self._whole[layers]

    def _through(self, layers: range, x_TD: torch.Tensor, batch: Batch) -> torch.Tensor:
        for number in layers:
            if self.coming is None or number in self.resident:
                x_TD = self.resident[number].forward(x_TD, batch)
                continue
            with self.coming.layer(number) as layer:
                x_TD = layer.forward(x_TD, batch)
        return x_TD


class MappedLayers:
    """Layers in mapped files, whose pages come and go."""

    def __init__(self, layers: Mapping[int, tuple[Unit, Layer]], streamer: Streamer, pace: Pace | None = None) -> None:
        self._layers, self._streamer, self._pace = layers, streamer, pace

    @contextmanager
    def layer(self, number: int) -> Iterator[Layer]:
        """A layer, once its pages are there."""
        (unit, layer), pace = self._layers[number], self._pace
        with ExitStack() as held:
            with pace.aside() if pace else nullcontext():
                held.enter_context(self._streamer.here(unit))
            yield layer
            if pace:
                # Its memory is free for the next one when the described node is done with it.
                pace.pay()

    @property
    def stall_seconds(self) -> float:
        """Seconds that computing waited for reads."""
        return self._streamer.stall_seconds

    @property
    def brought_bytes(self) -> int:
        """Bytes read."""
        return self._streamer.bytes_read


def on_host(
    makers: Sequence[LayerMaker], streamed: Sequence[int], streamer: Streamer | None, pace: Pace | None = None
) -> Layers:
    """Layers that are computed where they are stored, the `streamed` ones as the streamer brings them in."""
    layers = {maker.number: maker.made() for maker in makers}
    if streamer is None:
        return Layers(layers)
    coming = {maker.number: (maker.unit, layers.pop(maker.number)) for maker in makers if maker.number in streamed}
    return Layers(layers, MappedLayers(coming, streamer, pace))
