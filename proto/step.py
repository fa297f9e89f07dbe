"""What a step asks for and what it answers: the messages every stage reads, as plain data over msgpack."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class Outputs(IntEnum):
    """Which rows of a run go to the head: none (a prefill chunk in the middle), the last, or all (prompt logprobs)."""

    NONE = 0
    LAST = 1
    ALL = 2


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request's tokens are drawn; sent once, with the run that first samples.

    `stream` tells the choices of one request apart (n > 1): randomness is a function of (seed, stream, position).
    `prompt_tokens` is where the generated tokens begin, for the penalties. `logprobs` is how many alternatives to
    report, None for none at all.
    """

    seed: int = 0
    stream: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    prompt_tokens: int = 0
    banned: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive tokens of one sequence in a step.

    Attributes:
        sequence: number of the sequence, unique within a deployment.
        position: position of the first token.
        tokens: the token ids, at position, position + 1, ...
        blocks: KV blocks newly given to the sequence, appended to its block table.
        outputs: which rows are sampled (or scored).
        sampling: present in the first run of a sequence.
        history: tokens before `position` that the sampler must know though this worker never saw them (a sequence
            that starts on another's KV blocks); empty otherwise.
        follows: the token after the run's last, where it is known already (a prompt chunk scored across its end),
            else -1.
    """

    sequence: int
    position: int
    tokens: list[int]
    blocks: list[int]
    outputs: Outputs
    sampling: Sampling | None = None
    history: list[int] = field(default_factory=list)
    follows: int = -1


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass over a packed batch. `dropped` are sequences whose KV is forgotten before the runs.

    Steps are numbered from 1 within an epoch and reach every stage in that order. A step may have no runs: it only
    drops.
    """

    number: int
    runs: list[Run]
    dropped: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Packed rows of this step."""
        return sum(len(run.tokens) for run in self.runs)

    def sampled_rows(self) -> list[int]:
        """Indices of the packed rows that go to the head, in order."""
        rows: list[int] = []
        start = 0
        for run in self.runs:
            end = start + len(run.tokens)
            if run.outputs == Outputs.ALL:
                rows.extend(range(start, end))
            elif run.outputs == Outputs.LAST:
                rows.append(end - 1)
            start = end
        return rows


@dataclass(frozen=True, slots=True)
class TokenScore:
    """Log-probability of one token and of the likeliest alternatives, in nats."""

    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step gave one sequence: the sampled token, and scores where asked.

    `prompt` scores, for every row of an ALL run, the token that follows it (the last row: `Run.follows`, where known).
    `token` is -1 where nothing was sampled (an ALL run whose `follows` is known). `error` says in one line why a
    sequence could not be sampled (its logits are not numbers, every token banned); its token is then -1.
    """

    sequence: int
    token: int
    accepted: int = 1
    score: TokenScore | None = None
    prompt: list[TokenScore] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, slots=True)
class StageTime:
    """What one stage spent on one step, in seconds: waiting for other work of the node, and computing."""

    node: str
    stage: int
    wait: float
    compute: float


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a step, from the stage that holds the head."""

    number: int
    outcomes: list[Outcome]
    times: list[StageTime]
