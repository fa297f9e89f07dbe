"""A small real engine for the API's tests: one shard of a tiny random model in this process, all requests batched.

Whole prompts at once, blocks given out as needed, no queue: the scheduler is tested elsewhere.
"""

import asyncio
import hashlib
import math
from dataclasses import dataclass, field

import torch

from potluck.coordinator.generation import Drawn, EngineStatus, Generation, NodeStatus
from potluck.models.checkpoint import TensorEntry
from potluck.models.mapped_checkpoint import needed_keys
from potluck.models.roles import shape_of
from potluck.models.spec import LayerSpec, ModelSpec, Rope
from potluck.proto.step import Outputs, Run, Step
from potluck.worker.packing import Packer
from potluck.worker.pieces import pieces_of
from potluck.worker.shard import Shard, ShardConfig, Window
from potluck.worker.weight_source import InMemory

BLOCK, BLOCKS = 16, 1024


def tiny_spec(vocab):
    """Two layers over a real vocabulary."""
    layers = (LayerSpec(Rope(10000.0)),) * 2
    return ModelSpec("tiny", "llama", layers, vocab, 32, 64, 2, 1, 16, 512, 1e-5, 0.25, tied_head=True)


def tensor(spec, key):
    """Random weights that depend on nothing but the tensor's name."""
    seed = int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:4], "big")
    values = torch.randn(shape_of(spec, key.role), generator=torch.Generator().manual_seed(seed))
    return values.abs() if values.dim() == 1 else values * 0.3


class Random:
    """A checkpoint of such weights."""

    def __init__(self, spec):
        self.spec = spec
        shapes = {key: shape_of(spec, key.role) for key in needed_keys(spec)}
        self.entries = {key: TensorEntry(key, "F32", shape, 4 * math.prod(shape)) for key, shape in shapes.items()}

    def raw(self, key):
        return memoryview(tensor(self.spec, key).numpy()).cast("B")


@dataclass(eq=False)
class Sequence:
    """One generation underway; also the stream of its tokens."""

    engine: object
    number: int
    generation: Generation
    position: int = 0
    blocks: list[int] = field(default_factory=list)
    count: int = 0
    queue: asyncio.Queue = field(default_factory=asyncio.Queue)

    async def __aiter__(self):
        while True:
            drawn = await self.queue.get()
            yield drawn
            if drawn.finish:
                return

    def cancel(self):
        self.engine.cancelled.add(self)


class ShardEngine:
    """The engine. `run()` must run beside the server."""

    model = "tests/tiny"
    context = 512

    def __init__(self, vocab):
        spec = tiny_spec(vocab)
        config = ShardConfig(torch.float32, BLOCKS, BLOCK, 8192, torch.device("cpu"))
        self.shard = Shard(spec, [Window(0, True, range(2), True)], config)
        packer = Packer(spec, Random(spec))
        self.shard.load(InMemory(lambda unit: packer.place(pieces_of(spec, unit, config.form))))
        self.free = list(range(BLOCKS))
        self.active = {}
        self.cancelled = set()
        self.steps = self.numbers = 0
        self.tokens = {}
        self.work = asyncio.Event()

    def submit(self, generations):
        made = []
        for generation in generations:
            self.numbers += 1
            made.append(Sequence(self, self.numbers, generation))
            self.active[self.numbers] = made[-1]
            self.tokens[self.numbers] = list(generation.prompt)
        self.work.set()
        return made

    async def run(self):
        while True:
            await self.work.wait()
            dropped = self.drop()
            if not self.active and not dropped:
                self.work.clear()
                continue
            self.steps += 1
            step = Step(self.steps, [self.next_run(one) for one in self.active.values()], dropped)
            for outcome in await asyncio.to_thread(self.shard.run, 0, step, None):
                self.deliver(self.active[outcome.sequence], outcome)

    def next_run(self, one):
        tokens = self.tokens[one.number]
        new = [self.free.pop() for _ in range(-(-len(tokens) // BLOCK) - len(one.blocks))]
        one.blocks += new
        first = one.position == 0
        outputs = Outputs.ALL if first and one.generation.score_prompt else Outputs.LAST
        sampling = one.generation.sampling if first else None
        run = Run(one.number, one.position, tokens[one.position :], new, outputs, sampling)
        one.position = len(tokens)
        return run

    def deliver(self, one, outcome):
        if outcome.prompt:
            one.queue.put_nowait(Drawn(prompt=outcome.prompt))
        if one.generation.max_tokens == 0:
            self.finish(one, Drawn(finish="length"))
            return
        one.count += 1
        self.tokens[one.number].append(outcome.token)
        ended = outcome.token in one.generation.end_ids
        last = ended or one.count == one.generation.max_tokens
        finish = ("stop" if ended else "length") if last else None
        drawn = Drawn(outcome.token, outcome.score, finish=finish)
        if finish:
            self.finish(one, drawn)
        else:
            one.queue.put_nowait(drawn)

    def finish(self, one, drawn):
        one.queue.put_nowait(drawn)
        self.cancelled.add(one)

    def drop(self):
        gone = [one.number for one in self.cancelled if self.active.pop(one.number, None)]
        for one in self.cancelled:
            self.free += one.blocks
            one.blocks = []
        self.cancelled.clear()
        return gone

    def status(self):
        used = 1 - len(self.free) / BLOCKS
        return EngineStatus(True, "", len(self.active), 0, used, 0.0, [NodeStatus("here", True, 0.0, 0.0, 0.0)])

    def link_counts(self):
        return {}
