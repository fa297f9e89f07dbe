"""How fast this machine's CPU attends: to the KV of one row as in decoding, and of the rows of a prompt to each other.

Attention is neither bound as products of weights are nor written like them: rows of a prompt attend at a sixth of the
operations per second of a product in bfloat16 (AVX-512), and what a causal mask throws away is computed, too, but not
counted. So it has a speed of its own, measured on layers that are little else, as the decoder runs them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from potluck.models.costs import FormatSpeed
from potluck.models.sizes import kv_bytes_per_token
from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.layer_overhead import TINY, tiny_shard
from potluck.worker.shard import Shard
from potluck.worker.timing import Work, seconds, typical

_LAYERS = 2
_SPEC = replace(TINY, layers=TINY.layers[:_LAYERS], heads=8, kv_heads=2, context=4096)
_ROWS = 256
_NEAR, _FAR = 64, 1024  # positions that single rows attend to
_BLOCK = 16
_BUDGET = 0.1  # seconds for each of four measurements
_ROUNDS = 3
_WARM, _MOST = 3, 200


def measure_attention(dtype: torch.dtype) -> FormatSpeed:
    """Operations per second of a prompt's rows, as `models.costs` counts them; bytes of KV per second of one row."""
    return FormatSpeed(*(statistics.median(of(dtype) for _ in range(_ROUNDS)) for of in (_flops, _bandwidth)))


def _flops(dtype: torch.dtype) -> float:
    """From what a prompt takes beyond two of half its length: the same products, half the attention more."""
    half, whole = (_median(_prompts(rows, dtype)) for rows in (_ROWS // 2, _ROWS))
    counted = 4.0 * _SPEC.heads * _SPEC.head_dim * _LAYERS * _ROWS * _ROWS / 4
    return counted / max(whole - 2 * half, 0.05 * whole)


def _bandwidth(dtype: torch.dtype) -> float:
    """From what a row that attends far takes more than one that attends to little."""
    near, far = (_median(_decodes(positions, dtype)) for positions in (_NEAR, _FAR))
    nbytes = kv_bytes_per_token(_SPEC, "float32" if dtype == torch.float32 else "bfloat16") * _LAYERS * (_FAR - _NEAR)
    return nbytes / max(far - near, 0.05 * far)


def _prompts(rows: int, dtype: torch.dtype) -> Iterator[float]:
    """Seconds of one prompt after the other."""
    shard, x_TD = tiny_shard(_SPEC, dtype, 2 * _ROWS, _ROWS), torch.ones(rows, _SPEC.hidden, dtype=dtype)
    per_prompt = _ROWS // _BLOCK
    for number in range(1, _MOST):
        first = number % 2 * per_prompt
        run = _run(number, 0, rows, list(range(first, first + per_prompt)))
        yield _seconds(shard, Step(number, [run], [number - 1] if number > 1 else []), x_TD)


def _decodes(positions: int, dtype: torch.dtype) -> Iterator[float]:
    """Seconds of one row after the other of a sequence that has so many before it."""
    shard = tiny_shard(_SPEC, dtype, _FAR + _MOST, _ROWS)
    blocks = list(range((_FAR + _MOST) // _BLOCK))
    starts = range(0, positions, min(_ROWS, positions))
    for number, start in enumerate(starts, 1):
        rows = min(_ROWS, positions)
        run = _run(1, start, rows, blocks if number == 1 else [])
        _seconds(shard, Step(number, [run], []), torch.ones(rows, _SPEC.hidden, dtype=dtype))
    x_TD = torch.ones(1, _SPEC.hidden, dtype=dtype)
    for place in range(_MOST - _BLOCK):
        run = _run(1, positions + place, 1, [])
        yield _seconds(shard, Step(len(starts) + 1 + place, [run], []), x_TD)


def _run(sequence: int, position: int, rows: int, blocks: list[int]) -> Run:
    sampling = None if position else Sampling(temperature=0.0)
    return Run(sequence, position, [1] * rows, blocks, Outputs.LAST, sampling)


def _seconds(shard: Shard, step: Step, x_TD: torch.Tensor) -> float:
    shard.prepare(step)
    return seconds(Work(partial(shard.run, 0, step, x_TD)), None, x_TD.device)


def _median(samples: Iterator[float]) -> float:
    for _ in range(_WARM):
        next(samples)
    return typical(samples, _BUDGET)
