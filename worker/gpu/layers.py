"""Where the layers of a shard lie that computes on a GPU, decided while it loads."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from potluck.kernels.gpu.graphs import CudaCapture, call_again
from potluck.kernels.gpu.stream_plan import LayerCosts, StreamPlan, choose_held, plan_stream
from potluck.worker import probe
from potluck.worker.device import device_memory, wait_for
from potluck.worker.gpu.coming import CopiedLayers, MadeLayers
from potluck.worker.gpu.decode import CapturedDecode
from potluck.worker.gpu.flat import FlatLayer, flatten, weights_over
from potluck.worker.gpu.pinned import PinnedMemory, pinned_bytes
from potluck.worker.gpu.places import StepPlaces
from potluck.worker.layers import ComingLayers, LayerMaker, Layers
from potluck.worker.shard_manifest import ShardFileError
from potluck.worker.streaming import Streamer, StreamError
from potluck.worker.windows import ShardConfig

_ROUNDS = 3
_LOG = logging.getLogger("potluck.worker")


@dataclass(frozen=True, slots=True)
class _Streamed:
    """Layers that the device may not hold, in the order in which a step needs them."""

    makers: Sequence[LayerMaker]
    streamer: Streamer
    config: ShardConfig
    places: StepPlaces


def on_gpu(
    makers: Sequence[LayerMaker], streamed: Sequence[int], streamer: Streamer | None, config: ShardConfig
) -> Layers:
    """The layers of a shard on its device, but for the `streamed` ones, which come as steps need them.

    Raises:
        ShardFileError: a streamed layer cannot be read.
        RuntimeError: torch has no memory left.
    """
    if not makers:
        return Layers()
    comers = [maker for maker in makers if streamer is not None and maker.number in streamed]
    alone = [maker for maker in makers if not maker.in_group]
    away = {maker.number for maker in comers}
    resident = {maker.number: maker.made() for maker in makers if maker.number not in away}
    spec = (alone or makers)[0].spec
    places = StepPlaces(spec, [spec.layers[maker.number] for maker in makers], config)
    coming = _coming(_Streamed(comers, streamer, config, places)) if streamer is not None and comers else None
    capture = CudaCapture() if config.device.type == "cuda" else call_again
    captured = CapturedDecode(places, capture) if config.gpu.captured else None
    # What goes over the network cannot be part of a graph: a group's layers would have to be cut at their sums.
    return Layers(resident, coming, captured, frozenset(maker.number for maker in alone) - away)


def _coming(these: _Streamed) -> ComingLayers:
    config, makers = these.config, these.makers
    sizes = [maker.nbytes for maker in makers]
    needed, allowed = pinned_bytes(sizes), probe.free_memory(config.gpu.host_bytes)
    if needed > allowed:
        _LOG.warning(
            "%d MiB of host memory for the streamed layers, %d MiB are free: they are laid out anew for every step",
            *(needed >> 20, allowed >> 20),
        )
        return MadeLayers(makers, these.streamer, config.device)
    flats = _flattened(these, sum(sizes))
    return CopiedLayers(makers, flats, _plan(these, flats), config.device)


def _flattened(these: _Streamed, total: int) -> list[FlatLayer]:
    """The layers in pinned host memory; nothing is read from their files any more."""
    memory, flats = PinnedMemory(total, these.config.device), []
    try:
        for maker in these.makers:
            with these.streamer.here(maker.unit):
                # Laid out on the device, which is quicker at it, and copied back.
                flats.append(flatten(maker.weights(), memory.take))
    except StreamError as error:
        raise ShardFileError(str(error)) from None
    these.streamer.close()
    return flats


def _plan(these: _Streamed, flats: Sequence[FlatLayer]) -> StreamPlan:
    """How many of the layers the device holds: as was asked for, or as is fastest within the budget."""
    device, held = these.config.device, these.config.gpu.held
    costs = _measured(these, flats[0])
    largest = max(len(flat.data_B) for flat in flats)
    if held is None:
        budget = these.streamer.budget
        free = min(budget, device_memory(device)[0]) if device.type == "cuda" else budget
        # One layer at a time is what the least budget means.
        held = choose_held(len(flats), costs, largest, max(free, largest))
    _LOG.info(
        "%d of %d streamed layers on the device at once: a copy takes %.2f ms, computing one row %.2f ms",
        *(min(held, len(flats)), len(flats), costs.copy_seconds * 1e3, costs.compute_seconds * 1e3),
    )
    return plan_stream(len(flats), held, costs)


def _measured(these: _Streamed, flat: FlatLayer) -> LayerCosts:
    device, first = these.config.device, these.makers[0]
    slot_B = torch.empty_like(flat.data_B, device=device)
    # The other members of a group do not compute now: nothing is summed.
    layer = replace(first, operations=replace(first.operations, sum=_as_it_is)).layer(weights_over(flat.form, slot_B))
    x_TD, batch = these.places.idle()
    return LayerCosts(
        _seconds(lambda: slot_B.copy_(flat.data_B, non_blocking=True), device),
        _seconds(lambda: layer.forward(x_TD, batch), device),
    )


def _as_it_is(part_TD: torch.Tensor) -> torch.Tensor:
    return part_TD


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The least of a few calls, after one that compiles what there is to compile."""
    times = []
    for _ in range(1 + _ROUNDS):
        begun = time.perf_counter()
        call()
        wait_for(device)
        times.append(time.perf_counter() - begun)
    return min(times[1:])
