"""What software adds to every layer of a decode step: calls, norms, rope, attention's bookkeeping; all but products.

A decoder of layers so small that their products take no time is run with few and with many of them; what a layer more
takes is what a layer of any size takes beside its products. The rest of a step is `planner/software.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from potluck.models.spec import LayerSpec, ModelSpec, Rope
from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.described import Described
from potluck.worker.emulation import DescribedDevice
from potluck.worker.pace import Pace
from potluck.worker.pieces import Unit, pieces_of
from potluck.worker.shard import Shard, ShardConfig, Window
from potluck.worker.timing import Work, seconds, typical
from potluck.worker.weight_source import InMemory
from potluck.worker.windows import type_name

_FEW, _MANY = 4, 20
_BUDGET = 0.1  # seconds for each of both
_WARM = 20  # steps that are not counted: caches fill, threads wake
_STEPS = 400  # that fit the KV
_BLOCK = 16
TINY = ModelSpec(
    name="tiny",
    family="llama",
    layers=(LayerSpec(Rope(1e4), None),) * _MANY,
    vocab=32,
    hidden=64,
    ffn=64,
    heads=1,
    kv_heads=1,
    head_dim=64,
    context=2 * _STEPS,
    norm_eps=1e-5,
    attention_scale=0.125,
)


class TinyLayers:
    """All layers of a small model, without its ends; its weights are zeros."""

    def __init__(
        self, spec: ModelSpec, dtype: torch.dtype, capacity: tuple[int, int], described: DescribedDevice | None = None
    ) -> None:
        """`capacity`: tokens of KV, and most rows of a step; `described`: the node at whose pace steps are run."""
        kv_tokens, rows = capacity
        self._pace = Pace() if described else None
        window = Window(0, False, range(len(spec.layers)), False)
        config = ShardConfig(dtype, -(-kv_tokens // _BLOCK), _BLOCK, rows, torch.device("cpu"))
        self._shard = Shard(spec, [window], config, pace=self._pace)
        self._shard.load(InMemory(lambda unit: _weights(spec, unit, config)))
        self._described = Described(spec, [window], (described, type_name(dtype))) if described else None
        self._x_1D = torch.ones(1, spec.hidden, dtype=dtype)

    def seconds(self, step: Step) -> float:
        """What a step takes."""
        self._shard.prepare(step)
        x_TD = self._x_1D.repeat(step.rows, 1)
        return seconds(Work(partial(self._run, step, x_TD)), None, x_TD.device)

    def _run(self, step: Step, x_TD: torch.Tensor) -> None:
        described = self._described
        with self._pace.window(lambda: described.targets(0, step)) if self._pace and described else nullcontext():
            self._shard.run(0, step, x_TD)


def measure_layer_overhead(dtype: torch.dtype, described: DescribedDevice | None = None) -> float:
    """Seconds that software adds to a layer of a decode step on this machine's CPU, or on the node that it imitates."""
    taken = _layer_seconds(dtype, described)
    if described is None:
        return taken
    # Products that are this small take a described node time, which here they do not.
    return max(0.0, taken - _layer_seconds(dtype, replace(described, layer_overhead=0.0)))


def _layer_seconds(dtype: torch.dtype, described: DescribedDevice | None) -> float:
    few, many = (_step_seconds(layers, dtype, described) for layers in (_FEW, _MANY))
    return max(0.0, many - few) / (_MANY - _FEW)


def _step_seconds(layers: int, dtype: torch.dtype, described: DescribedDevice | None) -> float:
    tiny = TinyLayers(replace(TINY, layers=TINY.layers[:layers]), dtype, (_STEPS, 1), described)
    return typical(_steps(tiny), _BUDGET)


def _steps(tiny: TinyLayers) -> Iterator[float]:
    """Seconds of one decode step after the other of one sequence, the first few not counted."""
    for number in range(1, _STEPS):
        taken = tiny.seconds(_step(number))
        if number > _WARM:
            yield taken


def _step(number: int) -> Step:
    first = number == 1
    blocks = list(range(-(-_STEPS // _BLOCK))) if first else []
    sampling = Sampling(temperature=0.0) if first else None
    return Step(number, [Run(0, number - 1, [1], blocks, Outputs.LAST, sampling)], [])


def _weights(spec: ModelSpec, unit: Unit, config: ShardConfig) -> dict[str, torch.Tensor]:
    return {piece.name: torch.zeros(piece.nbytes, dtype=torch.uint8) for piece in pieces_of(spec, unit, config.form)}
