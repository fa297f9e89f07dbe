"""How fast this machine's CPU attends: to the KV of one row as in decoding, and of the rows of a prompt to each other.

Attention is neither bound as products of weights are nor written like them: rows of a prompt attend at a sixth of the
operations per second of a product in bfloat16 (AVX-512), and what a causal mask throws away is computed, too, but not
counted. So it has a speed of its own, measured on layers that are little else, as the decoder runs them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from potluck.models.costs import FormatSpeed
from potluck.models.sizes import kv_bytes_per_token
from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.emulation import DescribedDevice
from potluck.worker.layer_overhead import TINY, TinyLayers
from potluck.worker.timing import typical
from potluck.worker.windows import type_name

_LAYERS = 2
_SPEC = replace(TINY, layers=TINY.layers[:_LAYERS], heads=8, kv_heads=2, context=4096)
_ROWS = 256
_NEAR, _FAR = 64, 1024  # positions that single rows attend to
_BLOCK = 16
_BUDGET = 0.1  # seconds for each of four measurements
_ROUNDS = 3
_WARM, _MOST = 3, 200


@dataclass(frozen=True, slots=True)
class AttentionBench:
    """Measures attention in a compute type, on this machine's CPU or at the pace of the node that it imitates."""

    dtype: torch.dtype
    described: DescribedDevice | None = None

    def speed(self) -> FormatSpeed:
        """Operations per second of a prompt's rows, as `models.costs` counts them; KV bytes per second of one row."""
        # A described node takes as long at every time.
        rounds = range(1 if self.described else _ROUNDS)
        return FormatSpeed(*(statistics.median(of() for _ in rounds) for of in (self._flops, self._bandwidth)))

    def _flops(self) -> float:
        """From what a prompt takes beyond two of half its length: the same products, half the attention more."""
        half, whole = (_median(self._prompts(rows)) for rows in (_ROWS // 2, _ROWS))
        counted = 4.0 * _SPEC.heads * _SPEC.head_dim * _LAYERS * _ROWS * _ROWS / 4
        return counted / max(whole - 2 * half, 0.05 * whole)

    def _bandwidth(self) -> float:
        """From what a row that attends far takes more than one that attends to little."""
        near, far = (_median(self._decodes(positions)) for positions in (_NEAR, _FAR))
        nbytes = kv_bytes_per_token(_SPEC, type_name(self.dtype)) * _LAYERS * (_FAR - _NEAR)
        return nbytes / max(far - near, 0.05 * far)

    def _prompts(self, rows: int) -> Iterator[float]:
        """Seconds of one prompt after the other."""
        layers, per_prompt = self._layers(2 * _ROWS), _ROWS // _BLOCK
        for number in range(1, _MOST):
            first = number % 2 * per_prompt
            run = _run(number, 0, rows, list(range(first, first + per_prompt)))
            yield layers.seconds(Step(number, [run], [number - 1] if number > 1 else []))

    def _decodes(self, positions: int) -> Iterator[float]:
        """Seconds of one row after the other of a sequence that has so many before it."""
        layers, blocks = self._layers(_FAR + _MOST), list(range((_FAR + _MOST) // _BLOCK))
        rows = min(_ROWS, positions)
        starts = range(0, positions, rows)
        for number, start in enumerate(starts, 1):
            layers.seconds(Step(number, [_run(1, start, rows, blocks if number == 1 else [])], []))
        for place in range(_MOST - _BLOCK):
            yield layers.seconds(Step(len(starts) + 1 + place, [_run(1, positions + place, 1, [])], []))

    def _layers(self, kv_tokens: int) -> TinyLayers:
        # Two prompts have a described node's software twice.
        plain = replace(self.described, layer_overhead=0.0) if self.described else None
        return TinyLayers(_SPEC, self.dtype, (kv_tokens, _ROWS), plain)


def _run(sequence: int, position: int, rows: int, blocks: list[int]) -> Run:
    sampling = None if position else Sampling(temperature=0.0)
    return Run(sequence, position, [1] * rows, blocks, Outputs.LAST, sampling)


def _median(samples: Iterator[float]) -> float:
    for _ in range(_WARM):
        next(samples)
    return typical(samples, _BUDGET)
