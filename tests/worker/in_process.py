"""A whole pipeline in one process: shards chained by hand, blocks given out, steps packed.

Test modules reach it through the fixture `in_process`.
"""

import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from msgspec import structs

from potluck.models.open import open_checkpoint, read_spec
from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.packing import Packer
from potluck.worker.pieces import pieces_of
from potluck.worker.shard import Shard, ShardConfig, Window
from potluck.worker.weight_source import InMemory
from potluck.worker.windows import GpuOptions

GREEDY = Sampling(temperature=0.0)


def device_of(kernels):
    """The GPU for its kernels if there is one; else they are interpreted, on CPU tensors."""
    return torch.device("cuda" if kernels == "gpu" and torch.cuda.is_available() else "cpu")


def in_memory(packer, config):
    """Weights of a checkpoint that no file holds."""
    return InMemory(lambda unit: packer.place(pieces_of(packer.spec, unit, config.form)))


@dataclass(frozen=True)
class Placement:
    """`owners[i]` runs the layers from `cuts[i-1]` to `cuts[i]`; `head_alone` gives the head a stage on owner 0."""

    owners: tuple[int, ...] = (0,)
    cuts: tuple[int, ...] = ()
    head_alone: bool = False

    def windows(self, layers: int) -> list[tuple[int, Window]]:
        """(node, window) in order of the route."""
        bounds = [0, *self.cuts, layers]
        route = [
            (owner, Window(stage, stage == 0, range(bounds[stage], bounds[stage + 1]), False))
            for stage, owner in enumerate(self.owners)
        ]
        owner, last = route[-1]
        if self.head_alone:
            route[-1] = (owner, replace(last, next_wants_sampled=True))
            route.append((0, Window(len(route), False, range(0), True)))
        else:
            route[-1] = (owner, replace(last, head=True))
        return route


def spread(layers: int, nodes: int, rounds: int = 1, head_alone: bool = False) -> Placement:
    """A ring of `nodes` that comes round `rounds` times, with windows as uneven as the layers make them."""
    stages = nodes * rounds
    cuts = tuple(round(layers * stage / stages) for stage in range(1, stages))
    return Placement(tuple(stage % nodes for stage in range(stages)), cuts, head_alone)


@dataclass
class Request:
    """One generation of the pipeline."""

    prompt: list[int]
    sampling: Sampling = GREEDY
    tokens: list[int] = field(default_factory=list)
    position: int = 0
    blocks: int = 0


class Pipeline:
    """Shards of one model chained in one process. Block numbers are handed out in random order."""

    def __init__(
        self,
        path: Path,
        placement=None,
        dtype=torch.float32,
        block_size=4,
        tokens=512,
        change=None,
        kept=None,
        spec=None,
        kernels="cpu",
        gpu=None,
        half=False,
    ):
        """`change(key, tensor)` may replace a tensor as it is loaded; `kept`: "quantized" or "weight-only"; `gpu`: a
        GpuOptions; `half`: as for float16."""
        self.spec = spec or read_spec(path)
        self.block_size = block_size
        self.total = tokens // block_size
        self.free = list(range(self.total))
        random.Random(0).shuffle(self.free)
        self.route = (placement or Placement()).windows(len(self.spec.layers))
        config = ShardConfig(dtype, tokens // block_size, block_size, 512, device_of(kernels), kernels=kernels)
        config = replace(
            config, quantized=kept is not None, exact=kept == "weight-only", half=half, gpu=gpu or GpuOptions()
        )
        self.shards = {}
        checkpoint = open_checkpoint(path)

        for node in {node for node, _ in self.route}:
            windows = [window for owner, window in self.route if owner == node]
            self.shards[node] = Shard(self.spec, windows, config)
            self.shards[node].load(in_memory(Packer(self.spec, checkpoint, change), config))
        self.number = 0

    def step(self, runs, dropped=()):
        """Outcomes by sequence."""
        self.number += 1
        step, x = Step(self.number, list(runs), list(dropped)), None
        for node, window in self.route:
            x = self.shards[node].run(window.stage, step, x)
        return {outcome.sequence: outcome for outcome in x}

    def blocks_for(self, tokens, held=0):
        """New block numbers, so that `tokens` fit in all when `held` blocks are there."""
        return [self.free.pop() for _ in range(-(-tokens // self.block_size) - held)]

    def scores(self, tokens, chunks, alternatives):
        """Prompt scores of a sequence, fed in chunks of these sizes."""
        scores, position = [], 0
        sampling = structs.replace(GREEDY, logprobs=alternatives)
        held = 0
        for size in chunks:
            end = min(position + size, len(tokens))
            blocks = self.blocks_for(end, held)
            held += len(blocks)
            follows = tokens[end] if end < len(tokens) else -1
            run = Run(999, position, tokens[position:end], blocks, Outputs.ALL, None if position else sampling)
            outcome = self.step([structs.replace(run, follows=follows)])[999]
            assert not outcome.error
            scores += outcome.prompt
            if end == len(tokens):
                break
            position = end
        self.forget([999])
        return scores

    def generate(self, requests, count, chunk=512):
        """Draw `count` tokens for every request, all of them in flight together."""
        while any(len(request.tokens) < count for request in requests):
            runs = [self._run(i, request, chunk) for i, request in enumerate(requests) if len(request.tokens) < count]
            for i, outcome in self.step(runs).items():
                assert not outcome.error
                requests[i].tokens.append(outcome.token)
        self.forget(range(len(requests)))
        return [request.tokens for request in requests]

    def forget(self, sequences):
        """Drop sequences and take back all blocks."""
        self.step([], dropped=sequences)
        self.free = list(range(self.total))
        random.Random(self.number).shuffle(self.free)

    def _run(self, sequence, request, chunk):
        known = request.prompt + request.tokens
        tokens = known[request.position :][:chunk]
        start, end = request.position, request.position + len(tokens)
        blocks = self.blocks_for(end, request.blocks)
        request.blocks += len(blocks)
        request.position = end
        outputs = Outputs.LAST if end == len(known) else Outputs.NONE
        return Run(sequence, start, tokens, blocks, outputs, request.sampling if start == 0 else None)
