"""What the API asks of the engine and what it gets: one generation per choice, a stream of drawn tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from potluck.proto.step import Sampling, TokenScore

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One sequence to generate.

    Attributes:
        prompt: token ids, at least one.
        max_tokens: most tokens to draw; 0 only scores the prompt.
        end_ids: tokens that end it; they are drawn but end the stream with finish `stop`.
        score_prompt: report log-probabilities of the prompt's tokens.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    end_ids: frozenset[int]
    score_prompt: bool = False


@dataclass(frozen=True, slots=True)
class Drawn:
    """One drawn token, or the end, or the prompt's scores (first, where asked).

    `token` is None in a message that carries no token. `finish` is set in the last message; an end token itself is
    delivered together with finish `stop`.
    """

    token: int | None = None
    score: TokenScore | None = None
    prompt: Sequence[TokenScore] = field(default=())
    finish: Finish | None = None


class GenerationError(Exception):
    """A request ended without an answer; one line for the user, and the HTTP status it deserves."""

    def __init__(self, message: str, status: int = 503, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.retry_after = retry_after


class TokenStream(Protocol):
    """The tokens of one generation. Iterating raises GenerationError when it cannot go on."""

    def __aiter__(self) -> AsyncIterator[Drawn]: ...

    def cancel(self) -> None:
        """Stop and free its KV; safe to call at any time, from the event loop."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What one node did since the last look: fractions of the time spent computing, waiting and transferring.

    `sums`: in sums with other members of groups, waiting for those included; it is no part of the others.
    """

    node: str
    alive: bool
    compute: float
    wait: float
    transfer: float
    sums: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A look at the engine, for /health, /metrics and the status line."""

    ready: bool
    reason: str
    running: int
    waiting: int
    kv_used: float
    tokens_per_second: float
    nodes: Sequence[NodeStatus]


class Engine(Protocol):
    """What the API needs of the serving engine."""

    model: str
    context: int

    def submit(self, generations: Sequence[Generation]) -> list[TokenStream]:
        """Queue the choices of one request; choices with equal prompts share the prompt's KV.

        Raises:
            GenerationError: 400 where the prompt can never fit, 429 where the queue is full, 503 where no plan is
                in force (with `retry_after`).
        """

    def status(self) -> EngineStatus:
        """A consistent look; cheap enough for every second."""

    def link_counts(self) -> Mapping[tuple[str, str], tuple[int, int, int]]:
        """(source, target) -> frames, payload bytes, header bytes since the start."""
