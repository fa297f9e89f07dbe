"""One sequence as the scheduler sees it: a choice of a request on its way from prompt to end."""

from __future__ import annotations

from dataclasses import dataclass, field

from potluck.coordinator.generation import Generation
from potluck.proto.step import DRAWN, Outputs, Run, TokenScore


@dataclass(slots=True, eq=False)
class Sequence:
    """State of one sequence.

    Attributes:
        tokens: prompt and drawn tokens.
        computed: positions whose KV exists or is on its way.
        flying: steps in flight that carry a run of it. Prefill chunks may follow each other before the first has
            returned, since every stage takes steps in order; a decode waits for the token it feeds, unless the step
            goes ahead (`Limits.ahead`).
        promised: blocks set aside for it and not taken yet.
        followers: choices with the same prompt, that start on this one's full prompt blocks.
    """

    number: int
    generation: Generation
    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    flying: int = 0
    promised: int = 0
    known: bool = False
    cancelled: bool = False
    followers: list[Sequence] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.generation.prompt)

    @property
    def drawn(self) -> int:
        """Tokens drawn so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def prefilling(self) -> bool:
        """Whether prompt tokens are still to be sent."""
        return self.computed < self.prompt_length

    @property
    def ready(self) -> bool:
        """Whether a run of it can go into the next step."""
        return not self.cancelled and (self.prefilling or (self.flying == 0 and self.computed < len(self.tokens)))

    @property
    def next_is_drawn(self) -> bool:
        """Whether all it needs for a run is the token that the step in flight draws, and there will be one more."""
        decoding = self.flying == 1 and self.prompt_length < self.computed == len(self.tokens)
        return decoding and not self.cancelled and self.drawn + 2 <= self.generation.max_tokens

    def run(self, rows: int, blocks: list[int]) -> Run:
        """The run of its next `rows` tokens; moves `computed` past them."""
        start, end = self.computed, self.computed + rows
        first, self.known, self.computed = not self.known, True, end
        return Run(
            self.number,
            start,
            self.tokens[start:end] or [DRAWN],
            blocks,
            self._outputs(start, end),
            self.generation.sampling if first else None,
            self.tokens[:start] if first else [],
            self.tokens[end] if end < self.prompt_length else -1,
        )

    def _outputs(self, start: int, end: int) -> Outputs:
        if self.generation.score_prompt and start < self.prompt_length:
            return Outputs.ALL
        return Outputs.LAST if end >= self.prompt_length else Outputs.NONE
