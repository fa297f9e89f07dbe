"""How fast one process decodes: milliseconds per step for batches of 1 and 8, prompt tokens per second.

Run: python bench/decoder.py MODEL.gguf [--dtype bfloat16] [--threads 1] [--context 128] [--json]
Steps are measured in turns, batch 1 and 8 alternating, and the median is told, so that a ratio between them is of
one machine in one state.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from potluck.models.decode import decode
from potluck.models.open import open_checkpoint, read_spec
from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.shard import Shard, ShardConfig, Window

BLOCK = 16


class Bench:
    """One shard with the whole model, driven step by step."""

    def __init__(self, path: Path, dtype: torch.dtype, kv_tokens: int) -> None:
        self.spec = read_spec(path)
        checkpoint = open_checkpoint(path)
        config = ShardConfig(dtype, kv_tokens // BLOCK, BLOCK, 512, torch.device("cpu"))
        self.shard = Shard(self.spec, [Window(0, True, range(len(self.spec.layers)), True)], config)
        self.shard.load(lambda key: decode(checkpoint.entries[key], checkpoint.raw(key)), lambda key: None)
        self.number = 0

    def step(self, runs: list[Run], dropped: list[int] | None = None) -> float:
        """Seconds that one step takes."""
        self.number += 1
        begin = time.perf_counter()
        self.shard.run(0, Step(self.number, runs, dropped or []), None)
        return time.perf_counter() - begin

    def prompt(self, sequence: int, tokens: int, blocks: range) -> float:
        """Seconds that one whole prompt takes, as one chunk."""
        ids = [100 + (sequence * 31 + i * 7) % 5000 for i in range(tokens)]
        return self.step([Run(sequence, 0, ids, list(blocks), Outputs.LAST, Sampling(temperature=0.0))])


def measure(bench: Bench, context: int, rounds: int) -> dict[str, float]:
    """All numbers of one dtype."""
    per_sequence = (context + 2 * rounds) // BLOCK + 2
    for sequence in range(8):
        bench.prompt(sequence, context, range(sequence * per_sequence, (sequence + 1) * per_sequence))
    lengths = [context] * 8
    seconds: dict[int, list[float]] = {1: [], 8: []}
    for _ in range(rounds):
        for batch, taken in seconds.items():
            runs = [Run(i, lengths[i], [100 + i], [], Outputs.LAST) for i in range(batch)]
            taken.append(bench.step(runs))
            for i in range(batch):
                lengths[i] += 1
    result = {f"step_ms_batch{batch}": statistics.median(taken) * 1e3 for batch, taken in seconds.items()}
    result["batch8_over_1"] = 8 * result["step_ms_batch1"] / result["step_ms_batch8"]
    bench.step([], dropped=list(range(8)))
    return result | {f"prefill{tokens}_tokens_per_s": prefill(bench, tokens) for tokens in (128, 512)}


def prefill(bench: Bench, tokens: int) -> float:
    """Prompt tokens per second, median of three."""
    taken = []
    for _ in range(3):
        taken.append(bench.prompt(0, tokens, range(tokens // BLOCK)))
        bench.step([], dropped=[0])
    return tokens / statistics.median(taken)


def main() -> None:
    """Measure both compute types and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {}
    for dtype in options.dtype or ["bfloat16", "float32"]:
        kv_tokens = 8 * (options.context + 2 * options.rounds + 3 * BLOCK) + 512
        results[dtype] = measure(
            Bench(options.model, getattr(torch, dtype), kv_tokens), options.context, options.rounds
        )
    if options.json:
        print(json.dumps(results))
        return
    for dtype, numbers in results.items():
        print(dtype, *(f"{name}={value:.2f}" for name, value in numbers.items()), sep="  ")


if __name__ == "__main__":
    main()
