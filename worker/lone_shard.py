"""A whole model in one shard of this process, driven step by step: what measures the kernels without a fleet."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from potluck.models.open import open_checkpoint
from potluck.models.spec import ModelSpec
from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.packing import Packer
from potluck.worker.pieces import pieces_of
from potluck.worker.shard import Shard, ShardConfig, Window
from potluck.worker.weights import InMemory

BLOCK = 16


class LoneShard:
    """All parts of a model, its weights in memory."""

    def __init__(self, path: Path, spec: ModelSpec, config: ShardConfig) -> None:
        """Load the model of a path.

        Raises:
            CheckpointError, WeightError: it is damaged.
        """
        packer = Packer(spec, open_checkpoint(path))
        self.blocks = config.kv_blocks
        self.shard = Shard(spec, [Window(0, True, range(len(spec.layers)), True)], config)
        self.shard.load(InMemory(lambda unit: packer.place(pieces_of(spec, unit, config.form))))
        self._number = 0

    def generate(self, prompts: list[list[int]], tokens: int) -> tuple[float, float]:
        """Seconds of all prompts, one step each, and of `tokens` steps that decode all of them together."""
        per_sequence, drawn = self.blocks // len(prompts), []
        begun = time.perf_counter()
        for number, prompt in enumerate(prompts):
            blocks = list(range(number * per_sequence, (number + 1) * per_sequence))
            drawn += self.step([Run(number, 0, prompt, blocks, Outputs.LAST, Sampling(temperature=0.0))])
        middle = time.perf_counter()
        for position in range(tokens):
            drawn = self.step(
                [Run(n, len(prompts[n]) + position, [token], [], Outputs.LAST) for n, token in enumerate(drawn)]
            )
        ended = time.perf_counter()
        self.step([], list(range(len(prompts))))
        return middle - begun, ended - middle

    def step(self, runs: list[Run], dropped: list[int] | None = None) -> list[int]:
        """The tokens that one step draws."""
        self._number += 1
        outcomes = self.shard.run(0, Step(self._number, runs, dropped or []), None)
        assert not isinstance(outcomes, torch.Tensor)
        return [outcome.token for outcome in outcomes] if runs else []


def whole_model(kv_tokens: int, dtype: str) -> ShardConfig:
    """The configuration of a lone shard: dtype as in `--dtype`, never auto."""
    kept = dtype in ("quantized", "weight-only")
    compute = torch.float32 if dtype == "float32" else torch.bfloat16
    return ShardConfig(compute, kv_tokens // BLOCK, BLOCK, 512, torch.device("cpu"), kept, dtype == "weight-only")
