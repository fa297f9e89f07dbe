"""A whole model in one shard of this process, driven step by step: what measures one machine without a fleet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from potluck.models.open import open_checkpoint
from potluck.models.spec import ModelSpec
from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.mapped_weights import MappedWeights
from potluck.worker.packing import Packer
from potluck.worker.pieces import pieces_of
from potluck.worker.shard import Shard, ShardConfig, Window
from potluck.worker.shard_file import OnBytes
from potluck.worker.shard_store import ShardStore

BLOCK = 16
Counter = Callable[[str, int], OnBytes]


class LoneShard:
    """All parts of a model, mapped from shard files as a worker maps them."""

    def __init__(self, path: Path, spec: ModelSpec, config: ShardConfig, cache: Path, counter: Counter) -> None:
        """Load the model of a path; `cache` keeps its shard files, `counter` is told how far that is.

        Raises:
            CheckpointError, WeightError, ShardFileError: it is damaged, or the files cannot be written.
        """
        checkpoint = open_checkpoint(path)
        self.blocks = config.kv_blocks
        self.shard = Shard(spec, [Window(0, True, range(len(spec.layers)), True)], config)
        store = ShardStore(cache, checkpoint.fingerprint, spec.name)
        pieces = {unit: pieces_of(spec, unit, config.form) for unit in self.shard.units}
        mapped = store.map_all(pieces, lambda _: Packer(spec, checkpoint), counter)
        self.shard.load(MappedWeights(mapped, [], 0))
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
        if not isinstance(outcomes, list):
            raise TypeError("a shard with the head gave hidden rows")
        return [outcome.token for outcome in outcomes] if runs else []

    def close(self) -> None:
        """Let go of the files."""
        self.shard.close()


def whole_model(kv_tokens: int, dtype: str) -> ShardConfig:
    """The configuration of a lone shard: dtype as in `--dtype`, never auto."""
    kept = dtype in ("quantized", "weight-only")
    compute = torch.float32 if dtype == "float32" else torch.bfloat16
    config = ShardConfig(compute, kv_tokens // BLOCK, BLOCK, 512, torch.device("cpu"), kept, dtype == "weight-only")
    return replace(config, half=dtype == "float16")


def prompt_of(length: int, vocab: int, salt: int = 0) -> list[int]:
    """Tokens without meaning."""
    return [(5 + salt * 31 + i * 7) % min(vocab, 1000) for i in range(length)]
