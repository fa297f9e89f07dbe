"""What bounds the scheduler, and the two ways in which it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from potluck.coordinator.generation import Generation


class QueueFull(Exception):
    """Too many sequences wait already."""


class NeverFits(Exception):
    """The sequence could not run even alone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the scheduler.

    Attributes:
        kv_blocks, block_size: the KV of every node of the route; tokens per block.
        context: longest sequence, in tokens.
        max_rows: most packed rows of a step.
        depth: most steps in flight.
        ahead: whether, when these are under way, one more may go out that decodes what they draw. Only where one stage
            runs the whole model, with a depth of 1: it knows the tokens first, and need not wait until they were here.
        max_waiting: most sequences in the queue.
    """

    kv_blocks: int
    block_size: int
    context: int
    max_rows: int
    depth: int
    max_waiting: int = 4096
    ahead: bool = False

    def __post_init__(self) -> None:
        """Refuse steps that would go ahead of several.

        Raises:
            ValueError: `ahead` with another depth than 1.
        """
        if self.ahead and self.depth != 1:
            raise ValueError(f"a step goes ahead of the one in flight, not of {self.depth}")

    @property
    def max_running(self) -> int:
        """Most admitted sequences: were there more, decodes could fill every step and no prompt would get on."""
        return self.max_rows * self.depth

    def blocks_needed(self, generation: Generation) -> int:
        """Blocks for the prompt and all tokens it may draw; the last one drawn is never fed back."""
        positions = len(generation.prompt) + max(0, generation.max_tokens - 1)
        return -(-positions // self.block_size)

    def check(self, generation: Generation) -> None:
        """Refuse what could not run even alone.

        Raises:
            NeverFits: it exceeds the context or all of the KV.
        """
        longest = len(generation.prompt) + generation.max_tokens
        if longest > self.context:
            raise NeverFits(f"prompt and max_tokens make {longest} tokens; the context is {self.context}")
        if self.blocks_needed(generation) > self.kv_blocks:
            room = self.kv_blocks * self.block_size
            raise NeverFits(f"prompt and max_tokens make {longest} tokens; the KV of this fleet holds {room}")
