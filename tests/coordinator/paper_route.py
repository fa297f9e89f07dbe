"""A route on paper: takes steps as the workers do, but its KV holds tokens, and the next token is a checksum of them.

Every read and write is checked, so that a scheduler that gives a block to two sequences, reuses one too early or sends
a token twice is caught at once. Test modules reach it through the fixture `paper`.
"""

import zlib
from dataclasses import dataclass, field

from potluck.coordinator.generation import Generation
from potluck.proto.codec import pack_step, unpack_step
from potluck.proto.step import Outcome, Outputs, Result, Sampling, TokenScore
from potluck.worker.kv import BlockTables, KvShape

VOCAB = 50
END = 7


def generation(prompt, max_tokens=4, stream=0, score=False, ends=()):
    """A generation whose `stream` only tells it apart."""
    sampling = Sampling(temperature=0.0, stream=stream, prompt_tokens=len(prompt))
    return Generation(tuple(prompt), sampling, max_tokens, frozenset(ends), score)


def next_token(tokens, stream):
    """What the paper model draws after these tokens."""
    return zlib.crc32(repr((list(tokens), stream)).encode()) % VOCAB


def continuation(asked):
    """Everything a generation must draw, and why it ends."""
    tokens = list(asked.prompt)
    for _ in range(asked.max_tokens):
        tokens.append(next_token(tokens, asked.sampling.stream))
        if tokens[-1] in asked.end_ids:
            break
    drawn = tokens[len(asked.prompt) :]
    return drawn, "stop" if drawn and drawn[-1] in asked.end_ids else "length"


@dataclass
class Held:
    """What the route knows of a sequence."""

    sampling: Sampling
    history: list
    blocks: list = field(default_factory=list)
    length: int = 0


class PaperRoute:
    """Runs steps one after the other."""

    def __init__(self, limits):
        self.limits = limits
        self.slots = {}
        self.held = {}
        self.number = 0
        self.drawn = {}
        # What the real workers check, beside the stricter checks here.
        self.tables = BlockTables(KvShape(limits.kv_blocks, limits.block_size))

    def run(self, step, failing=()):
        """The result of a step; sequences in `failing` cannot be sampled."""
        self.number += 1
        assert step.number == self.number, "steps have a gap"
        assert step.rows <= self.limits.max_rows
        assert len({run.sequence for run in step.runs}) == len(step.runs), "two runs of one sequence in a step"
        for sequence in step.dropped:
            assert self.held.pop(sequence, None) is not None, f"sequence {sequence} was dropped twice"
        assert unpack_step(pack_step(step)) == step, "a worker would read another step"
        self.tables.apply(step)
        assert self.limits.ahead or not step.open_runs, "a token was sent before it was drawn"
        step = step.filled([self.drawn[step.runs[place].sequence] for place in step.open_runs])
        for run in step.runs:
            self._write(run)
        assert len(self.tables) == len(self.held)
        outcomes = [self._outcome(run, failing) for run in step.runs if run.outputs]
        self.drawn = {outcome.sequence: max(0, outcome.token) for outcome in outcomes}
        return Result(step.number, outcomes, [])

    def _write(self, run):
        if run.sequence not in self.held:
            assert run.sampling is not None, "the first run brings no sampling"
            self.held[run.sequence] = Held(run.sampling, run.history, length=run.position)
            assert len(run.history) == run.position
        else:
            assert run.sampling is None
        held = self.held[run.sequence]
        assert run.tokens and run.position == held.length, "a token is missing or computed twice"
        held.blocks += run.blocks
        assert len(set(held.blocks)) == len(held.blocks)
        others = {block for number, other in self.held.items() if number != run.sequence for block in other.blocks}
        for position, token in enumerate(run.tokens, run.position):
            block = held.blocks[position // self.limits.block_size]
            assert 0 <= block < self.limits.kv_blocks
            assert block not in others, f"block {block} is written while another sequence reads it"
            self.slots[block, position % self.limits.block_size] = token
        held.length += len(run.tokens)

    def _outcome(self, run, failing):
        held = self.held[run.sequence]
        size = self.limits.block_size
        tokens = [self.slots[held.blocks[position // size], position % size] for position in range(held.length)]
        assert tokens[: len(held.history)] == held.history, "shared blocks hold another prompt"
        scored = [*run.tokens[1:], run.follows] if run.outputs is Outputs.ALL else []
        scores = [TokenScore(-float(token), []) for token in scored if token >= 0]
        if run.outputs is Outputs.ALL and run.follows >= 0:
            return Outcome(run.sequence, -1, prompt=scores)
        if run.sequence in failing:
            return Outcome(run.sequence, -1, prompt=scores, error="its logits are not numbers")
        return Outcome(run.sequence, next_token(tokens, held.sampling.stream), prompt=scores)
