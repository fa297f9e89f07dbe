"""Which layers of a model too large for its device stay there, and how the others take turns: pure functions.

All layers are computed in order, pass after pass, so the layer needed next is always known, and the one just computed
is needed last: layers that stay must be chosen once, not by what was used lately.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """Seconds to copy one layer to the device, and to compute it there, as measured."""

    copy_seconds: float
    compute_seconds: float


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What of `layers` is copied in every pass, in order, into which of `ring` slots; all others stay.

    Copies are numbered from 0 and never end: the next pass's first follows the last of this one.
    """

    layers: int
    streamed: tuple[int, ...]
    ring: int

    @property
    def resident(self) -> tuple[int, ...]:
        """Layers that stay on the device."""
        return tuple(sorted(set(range(self.layers)) - set(self.streamed)))

    def layer(self, copy: int) -> int:
        """The layer that a copy brings."""
        return self.streamed[copy % len(self.streamed)]

    def slot(self, copy: int) -> int:
        """The slot it goes to, free once copy - ring was computed."""
        return copy % self.ring


def plan_stream(layers: int, held: int, costs: LayerCosts) -> StreamPlan:
    """Keep `held` of the layers on the device, the slots of the streamed ones included.

    The streamed ones are spread evenly, so that each is copied while layers before it are computed. A second slot
    lets a copy run while the layer before it is computed; but it is one more layer copied in every pass, which is
    dearer where copying a layer takes longer than computing all those that are not held.

    Raises:
        ValueError: no layer is held, or there are none.
    """
    if layers < 1 or held < 1:
        raise ValueError(f"{held} of {layers} layers held")
    if held >= layers:
        return StreamPlan(layers, (), 0)
    ring = min(_rings(held), key=lambda ring: _pass_seconds(layers, held, ring, costs))
    count = layers - held + ring
    return StreamPlan(layers, tuple((2 * i + 1) * layers // (2 * count) for i in range(count)), ring)


def pass_seconds(layers: int, held: int, costs: LayerCosts) -> float:
    """Seconds that a pass through all layers takes, once going: a bound that uneven gaps miss by a few layers' time."""
    if held >= layers:
        return layers * costs.compute_seconds
    return min(_pass_seconds(layers, held, ring, costs) for ring in _rings(held))


def choose_held(layers: int, costs: LayerCosts, layer_bytes: int, free_bytes: int) -> int:
    """The fewest layers with which a pass is as fast as with all that fit; what they leave is free for KV.

    Raises:
        ValueError: not one layer fits.
    """
    most = min(layers, free_bytes // layer_bytes)
    if most < 1:
        raise ValueError(f"a layer takes {layer_bytes} bytes, {free_bytes} are free")
    seconds = [pass_seconds(layers, held, costs) for held in range(1, most + 1)]
    best = min(seconds)
    # Sums of the same seconds in another order differ by their rounding.
    return 1 + next(i for i, taken in enumerate(seconds) if taken <= best * (1 + 1e-9))


def _rings(held: int) -> tuple[int, ...]:
    # Two first, for ties: uneven gaps cost less with a slot to spare.
    return (2, 1) if held > 1 else (1,)


def _pass_seconds(layers: int, held: int, ring: int, costs: LayerCosts) -> float:
    streamed = layers - held + ring
    # With one slot a layer's copy waits until the one before it is computed.
    per_copy = costs.copy_seconds + (costs.compute_seconds if ring == 1 else 0.0)
    return max(layers * costs.compute_seconds, streamed * per_copy)
