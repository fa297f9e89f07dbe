"""What a step asks for and what it answers: the messages every stage reads, as positional arrays over msgpack.

The ranges in the types are checked where a message is read (`potluck.proto.codec`), not where one is made.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct, field
from msgspec.structs import replace

MAX_ROWS = 1 << 16
MAX_RUNS = 1 << 12
MAX_STAGES = 1 << 12
MAX_HISTORY = 1 << 18
MAX_TOKEN = 2**31 - 1
MAX_NAME = 256
LARGEST = 2**63 - 1
DRAWN = -1  # in place of a token: the one that the step before drew for the sequence
_FINITE = 1e30

Token = Annotated[int, Meta(ge=0, le=MAX_TOKEN)]
TokenOrNone = Annotated[int, Meta(ge=-1, le=MAX_TOKEN)]
Count = Annotated[int, Meta(ge=0, le=MAX_ROWS)]
SequenceNumber = Annotated[int, Meta(ge=0, le=LARGEST)]
StepNumber = Annotated[int, Meta(ge=1, le=LARGEST)]
StageNumber = Annotated[int, Meta(ge=0, le=MAX_STAGES)]
Name = Annotated[str, Meta(max_length=MAX_NAME)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(ge=0.0, le=_FINITE)]
Real = Annotated[float, Meta(ge=-_FINITE, le=_FINITE)]
LogProbability = Annotated[float, Meta(le=_FINITE)]  # minus infinity is one, not-a-number is none
Tokens = Annotated[list[Token], Meta(max_length=MAX_ROWS)]
History = Annotated[list[Token], Meta(max_length=MAX_HISTORY)]


class Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One positional array of msgpack."""


class Outputs(IntEnum):
    """Which rows of a run go to the head: none (a prefill chunk in the middle), the last, or all (prompt logprobs)."""

    NONE = 0
    LAST = 1
    ALL = 2


class Sampling(Message, frozen=True, gc=False):
    """How one request's tokens are drawn; sent once, with the run that first samples.

    `stream` tells the choices of one request apart (n > 1): randomness is a function of (seed, stream, position).
    `prompt_tokens` is where the generated tokens begin, for the penalties. `logprobs` is how many alternatives to
    report, None for none at all.
    """

    seed: int = 0
    stream: SequenceNumber = 0
    temperature: Positive = 1.0
    top_k: Token = 0
    top_p: Share = 1.0
    min_p: Share = 0.0
    repetition_penalty: Positive = 1.0
    presence_penalty: Real = 0.0
    frequency_penalty: Real = 0.0
    logit_bias: Annotated[dict[Token, Real], Meta(max_length=MAX_ROWS)] = field(default_factory=dict)
    logprobs: Count | None = None
    prompt_tokens: Token = 0
    banned: Tokens = field(default_factory=list)


class Run(Message, frozen=True, gc=False):
    """Consecutive tokens of one sequence in a step.

    Attributes:
        sequence: number of the sequence, unique within a deployment.
        position: position of the first token.
        tokens: the token ids, at position, position + 1, ...; or `DRAWN` alone, where one stage runs the whole model.
        blocks: KV blocks newly given to the sequence, appended to its block table.
        outputs: which rows are sampled (or scored).
        sampling: present in the first run of a sequence.
        history: tokens before `position` that the sampler must know though this worker never saw them (a sequence
            that starts on another's KV blocks); empty otherwise.
        follows: the token after the run's last, where it is known already (a prompt chunk scored across its end),
            else -1.
    """

    sequence: SequenceNumber
    position: Token
    tokens: Annotated[list[TokenOrNone], Meta(min_length=1, max_length=MAX_ROWS)]
    blocks: History
    outputs: Outputs
    sampling: Sampling | None = None
    history: History = field(default_factory=list)
    follows: TokenOrNone = -1


class Step(Message, frozen=True, gc=False):
    """One forward pass over a packed batch. `dropped` are sequences whose KV is forgotten before the runs.

    Steps are numbered from 1 within an epoch and reach every stage in that order. A step may have no runs: it only
    drops.
    """

    number: StepNumber
    runs: Annotated[list[Run], Meta(max_length=MAX_RUNS)]
    dropped: Annotated[list[SequenceNumber], Meta(max_length=MAX_ROWS)] = field(default_factory=list)

    @property
    def open_runs(self) -> list[int]:
        """Places of the runs whose token the step before draws: this one was sent before that was known."""
        return [place for place, run in enumerate(self.runs) if run.tokens == [DRAWN]]

    def filled(self, tokens: list[int]) -> Step:
        """The step with the tokens of its open runs, in their order."""
        runs = list(self.runs)
        for place, token in zip(self.open_runs, tokens, strict=True):
            runs[place] = replace(runs[place], tokens=[token])
        return replace(self, runs=runs)

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


class TokenScore(Message, frozen=True, gc=False):
    """Log-probability of one token and of the likeliest alternatives, in nats."""

    logprob: LogProbability
    top: Annotated[list[tuple[Token, LogProbability]], Meta(max_length=MAX_ROWS)]


class Outcome(Message, frozen=True, gc=False):
    """What a step gave one sequence: the sampled token, and scores where asked.

    `prompt` scores, for every row of an ALL run, the token that follows it (the last row: `Run.follows`, where known).
    `token` is -1 where nothing was sampled (an ALL run whose `follows` is known). `error` says in one line why a
    sequence could not be sampled (its logits are not numbers, every token banned); its token is then -1.
    """

    sequence: SequenceNumber
    token: TokenOrNone
    accepted: Count = 1
    score: TokenScore | None = None
    prompt: Annotated[list[TokenScore], Meta(max_length=MAX_ROWS)] = field(default_factory=list)
    error: Annotated[str, Meta(max_length=1000)] = ""


class StageTime(Message, frozen=True, gc=False):
    """What one stage spent on one step, in seconds: waiting for other work of the node, and computing."""

    node: Name
    stage: StageNumber
    wait: Positive
    compute: Positive


class Result(Message, frozen=True, gc=False):
    """The answer to a step, from the stage that holds the head."""

    number: StepNumber
    outcomes: Annotated[list[Outcome], Meta(max_length=MAX_RUNS)]
    times: Annotated[list[StageTime], Meta(max_length=MAX_STAGES)]
