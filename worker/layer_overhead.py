"""What software adds to every layer of a decode step: calls, norms, rope, attention's bookkeeping; all but products.

A decoder of layers so small that their products take no time is run with few and with many of them; what a layer more
takes is what a layer of any size takes beside its products. The rest of a step is `planner/software.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from potluck.models.spec import LayerSpec, ModelSpec, Rope
from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.pieces import Unit, pieces_of
from potluck.worker.shard import Shard, ShardConfig, Window
from potluck.worker.timing import Work, seconds, typical
from potluck.worker.weight_source import InMemory

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


def measure_layer_overhead(dtype: torch.dtype) -> float:
    """Seconds that software adds to a layer of a decode step on this machine's CPU."""
    few, many = (_step_seconds(layers, dtype) for layers in (_FEW, _MANY))
    return max(0.0, many - few) / (_MANY - _FEW)


def _step_seconds(layers: int, dtype: torch.dtype) -> float:
    shard = tiny_shard(replace(TINY, layers=TINY.layers[:layers]), dtype, _STEPS, 1)
    return typical(_steps(shard, torch.ones(1, TINY.hidden, dtype=dtype)), _BUDGET)


def tiny_shard(spec: ModelSpec, dtype: torch.dtype, kv_tokens: int, rows: int) -> Shard:
    """All layers of a model, without its ends; its weights are zeros."""
    config = ShardConfig(dtype, -(-kv_tokens // _BLOCK), _BLOCK, rows, torch.device("cpu"))
    shard = Shard(spec, [Window(0, False, range(len(spec.layers)), False)], config)
    shard.load(InMemory(lambda unit: _weights(spec, unit, config)))
    return shard


def _steps(shard: Shard, x_TD: torch.Tensor) -> Iterator[float]:
    """Seconds of one decode step after the other of one sequence, the first few not counted."""
    for number in range(1, _STEPS):
        step = _step(number)
        shard.prepare(step)
        taken = seconds(Work(partial(shard.run, 0, step, x_TD)), None, x_TD.device)
        if number > _WARM:
            yield taken


def _step(number: int) -> Step:
    first = number == 1
    blocks = list(range(-(-_STEPS // _BLOCK))) if first else []
    sampling = Sampling(temperature=0.0) if first else None
    return Step(number, [Run(0, number - 1, [1], blocks, Outputs.LAST, sampling)], [])


def _weights(spec: ModelSpec, unit: Unit, config: ShardConfig) -> dict[str, torch.Tensor]:
    return {piece.name: torch.zeros(piece.nbytes, dtype=torch.uint8) for piece in pieces_of(spec, unit, config.form)}
