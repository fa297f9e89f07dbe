"""Where the layers of a shard lie that computes on a GPU, decided while it loads."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
from potluck.worker.pieces import Unit
from potluck.worker.shard_manifest import ShardFileError
from potluck.worker.streaming import Streamer, StreamError
from potluck.worker.weights import bytes_of
from potluck.worker.windows import ShardConfig

_ROUNDS = 3
_LOG = logging.getLogger("potluck.worker")


@dataclass(frozen=True, slots=True)
class _Gpu:
    """What layers are put together with."""

    maker: LayerMaker
    config: ShardConfig
    places: StepPlaces


def on_gpu(maker: LayerMaker, streamed: Sequence[int], streamer: Streamer | None, config: ShardConfig) -> Layers:
    """The layers of a shard on its device, but for the `streamed` ones, which come as steps need them.

    Raises:
        ShardFileError: a streamed layer cannot be read.
        RuntimeError: torch has no memory left.
    """
    if not maker.weights:
        return Layers()
    kept = [number for number in maker.weights if streamer is None or number not in streamed]
    resident = {number: maker.made(number) for number in kept}
    places = StepPlaces(maker.spec, [maker.spec.layers[number] for number in maker.weights], config)
    capture = CudaCapture() if config.device.type == "cuda" else call_again
    captured = CapturedDecode(places, capture) if config.gpu.captured else None
    if streamer is None or not streamed:
        return Layers(resident, None, captured)
    return Layers(resident, _coming(_Gpu(maker, config, places), streamed, streamer), captured)


def _coming(gpu: _Gpu, streamed: Sequence[int], streamer: Streamer) -> ComingLayers:
    config = gpu.config
    sizes = [_layer_bytes(gpu, number) for number in streamed]
    needed, allowed = pinned_bytes(sizes), probe.free_memory(config.gpu.host_bytes)
    if needed > allowed:
        _LOG.warning(
            "%d MiB of host memory for the streamed layers, %d MiB are free: they are laid out anew for every step",
            *(needed >> 20, allowed >> 20),
        )
        return MadeLayers(gpu.maker, streamer, config.device)
    flats = _flattened(gpu, dict(zip(streamed, sizes, strict=True)), streamer)
    return CopiedLayers(gpu.maker, flats, _plan(gpu, flats, streamer.budget), config.device)


def _flattened(gpu: _Gpu, sizes: Mapping[int, int], streamer: Streamer) -> dict[int, FlatLayer]:
    """The layers in pinned host memory; nothing is read from their files any more."""
    memory = PinnedMemory(sum(sizes.values()), gpu.config.device)
    flats = {}
    try:
        for number in sizes:
            with streamer.here(Unit("layer", number)):
                # Laid out on the device, which is quicker at it, and copied back.
                flats[number] = flatten(gpu.maker.weights[number](), memory.take)
    except StreamError as error:
        raise ShardFileError(str(error)) from None
    streamer.close()
    return flats


def _plan(gpu: _Gpu, flats: Mapping[int, FlatLayer], budget: int) -> StreamPlan:
    """How many of the layers the device holds: as was asked for, or as is fastest within the budget."""
    device, held = gpu.config.device, gpu.config.gpu.held
    costs = _measured(gpu, *next(iter(flats.items())))
    largest = max(len(flat.data_B) for flat in flats.values())
    if held is None:
        free = min(budget, device_memory(device)[0]) if device.type == "cuda" else budget
        # One layer at a time is what the least budget means.
        held = choose_held(len(flats), costs, largest, max(free, largest))
    _LOG.info(
        "%d of %d streamed layers on the device at once: a copy takes %.2f ms, computing one row %.2f ms",
        *(min(held, len(flats)), len(flats), costs.copy_seconds * 1e3, costs.compute_seconds * 1e3),
    )
    return plan_stream(len(flats), held, costs)


def _measured(gpu: _Gpu, number: int, flat: FlatLayer) -> LayerCosts:
    device = gpu.config.device
    slot_B = torch.empty_like(flat.data_B, device=device)
    layer = gpu.maker.layer(number, weights_over(flat.form, slot_B))
    x_TD, batch = gpu.places.idle()
    return LayerCosts(
        _seconds(lambda: slot_B.copy_(flat.data_B, non_blocking=True), device),
        _seconds(lambda: layer.forward(x_TD, batch), device),
    )


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The least of a few calls, after one that compiles what there is to compile."""
    times = []
    for _ in range(1 + _ROUNDS):
        begun = time.perf_counter()
        call()
        wait_for(device)
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def _layer_bytes(gpu: _Gpu, number: int) -> int:
    return bytes_of(gpu.maker.spec, [Unit("layer", number)], gpu.config.form, gpu.config.residence)
