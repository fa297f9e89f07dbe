"""Decode steps of a whole shard: captured against launched, and with some of its layers copied for every step.

Weights are zeros: no kernel is quicker for that. Nothing is read from disk.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from potluck.models.roles import keys_of, shape_of
from potluck.models.spec import LayerSpec, ModelSpec, Rope
from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.device import wait_for
from potluck.worker.pieces import Unit, pieces_of
from potluck.worker.shard import Shard, ShardConfig, Window
from potluck.worker.windows import GpuOptions

BLOCK, SEQUENCES, WARM_UPS = 16, 16, 4


@dataclass(frozen=True)
class Timing:
    """Seconds of one step, and of that the seconds that computing waited for layers."""

    step: float
    stall: float


class Zeros:
    """Weights of zeros that are always there: a WeightSource and its streamer."""

    stall_seconds, bytes_read = 0.0, 0

    def __init__(self, spec: ModelSpec, config: ShardConfig, budget: int) -> None:
        self._spec, self._config, self.budget = spec, config, budget
        self.streamer = self

    def place(self, unit: Unit) -> dict[str, torch.Tensor]:
        """A unit's pieces."""
        pieces = pieces_of(self._spec, unit, self._config.form)
        return {piece.name: torch.zeros(piece.nbytes, dtype=torch.uint8, device="cpu") for piece in pieces}

    @contextmanager
    def here(self, unit: Unit) -> Iterator[None]:
        """It is."""
        yield

    def check(self) -> None:
        """Nothing goes."""

    def close(self) -> None:
        """Nothing ends."""


def model(layers: int, hidden: int = 4096, encoding: str = "Q4_0") -> ModelSpec:
    """Layers of an 8B model, or smaller ones of its shape, with matrices in a format."""
    shape = {"vocab": 32000, "hidden": hidden, "ffn": hidden * 7 // 2, "heads": hidden // 128, "head_dim": 128}
    spec = ModelSpec(
        "zeros", "llama", (LayerSpec(Rope(5e5)),) * layers, **shape, kv_heads=max(1, hidden // 512), context=8192,
        norm_eps=1e-5, attention_scale=128**-0.5,
    )  # fmt: skip
    keys = {key for part in spec.parts() for key in keys_of(spec, part)}
    return replace(spec, encodings={str(key): encoding for key in keys if len(shape_of(spec, key.role)) == 2})


def loaded(spec: ModelSpec, device: torch.device, options: GpuOptions, streamed: bool = False) -> Shard:
    """A shard of the whole model, with KV for 512 tokens of every sequence."""
    gc.collect()  # a shard's parts refer to one another, and the last one's memory is wanted now
    blocks = SEQUENCES * 512 // BLOCK
    config = ShardConfig(torch.bfloat16, blocks, BLOCK, 512, device, quantized=True, kernels="gpu", gpu=options)
    shard = Shard(spec, [Window(0, True, range(len(spec.layers)), True, streamed=streamed)], config)
    shard.load(Zeros(spec, config, 1 << 50))
    return shard


def timed(shard: Shard, device: torch.device, batch: int, steps: int) -> Timing:
    """The median of steps that decode a batch, after some that compile and capture."""
    seconds, stalled = [], 0.0
    for number in range(1, WARM_UPS + steps + 1):
        if number == WARM_UPS + 1:
            stalled = shard.stall_seconds
        begun = time.perf_counter()
        shard.run(0, Step(number, list(_runs(batch, number - 1)), []), None)
        wait_for(device)
        seconds.append(time.perf_counter() - begun)
    return Timing(statistics.median(seconds[WARM_UPS:]), (shard.stall_seconds - stalled) / steps)


def _runs(batch: int, position: int) -> Iterator[Run]:
    for sequence in range(batch):
        blocks = [sequence * 512 // BLOCK + position // BLOCK] if position % BLOCK == 0 else []
        sampling = None if position else Sampling(temperature=0.0)
        yield Run(sequence, position, [1], blocks, Outputs.LAST, sampling)


def captured(spec: ModelSpec, device: torch.device, batches: Sequence[int], steps: int) -> Iterator[str]:
    """A line for each batch: launched and captured."""
    for batch in batches:
        launched, replayed = (
            timed(loaded(spec, device, GpuOptions(captured=on)), device, batch, steps).step for on in (False, True)
        )
        yield (
            f"decode, {len(spec.layers)} layers, batch {batch:2}: launched {launched * 1e3:7.2f} ms, "
            f"captured {replayed * 1e3:7.2f} ms, {launched / replayed:.2f} times as fast"
        )


def streamed(spec: ModelSpec, device: torch.device, steps: int) -> Iterator[str]:
    """A line for each number of layers held on the device, the last for what is chosen from the measurements."""
    layers = len(spec.layers)
    for held in (*range(1, layers + 1), None):
        shard = loaded(spec, device, GpuOptions(held=held), streamed=True)
        timing = timed(shard, device, 1, steps)
        brought = shard.brought_bytes / (WARM_UPS + steps)
        rate = brought / timing.step / 1e9
        yield (
            f"streamed, {'chosen' if held is None else f'{held:2} of {layers}'} held: {timing.step * 1e3:8.2f} ms a "
            f"step, {timing.stall * 1e3:8.2f} ms of it waiting, {rate:5.1f} GB/s copied"
        )
