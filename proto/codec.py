"""Steps and results as msgpack: positional arrays, since a decode step's header rides on every frame."""

from __future__ import annotations

import math

from potluck.proto.errors import FrameError
from potluck.proto.fields import LARGEST, array, fields, integer, integers, name, number, pack, unpack
from potluck.proto.step import Outcome, Outputs, Result, Run, Sampling, StageTime, Step, TokenScore

MAX_ROWS = 1 << 16
MAX_RUNS = 1 << 12
MAX_STAGES = 1 << 12
MAX_HISTORY = 1 << 18
MAX_TOKEN = 2**31 - 1
INFINITY = math.inf
_FINITE = 1e30
_MAX_TEXT = 1000


def pack_step(step: Step) -> bytes:
    """A step as bytes."""
    return pack([step.number, [_from_run(run) for run in step.runs], step.dropped])


def unpack_step(data: bytes | memoryview) -> Step:
    """The step in bytes that anyone may have made.

    Raises:
        FrameError: not a step; the message says which field.
    """
    number_, runs, dropped = fields(unpack(data, "step"), 3, "step")
    step = Step(
        integer(number_, 1, LARGEST, "step number"),
        [_to_run(run) for run in array(runs, MAX_RUNS, "runs")],
        integers(dropped, MAX_ROWS, LARGEST, "dropped sequences"),
    )
    if step.rows > MAX_ROWS:
        raise FrameError(f"step of {step.rows} rows exceeds {MAX_ROWS}")
    return step


def pack_result(result: Result) -> bytes:
    """A result as bytes."""
    outcomes = [_from_outcome(outcome) for outcome in result.outcomes]
    return pack([result.number, outcomes, from_times(result.times)])


def unpack_result(data: bytes | memoryview) -> Result:
    """The result in bytes that anyone may have made.

    Raises:
        FrameError: not a result; the message says which field.
    """
    number_, outcomes, times = fields(unpack(data, "result"), 3, "result")
    return Result(
        integer(number_, 1, LARGEST, "step number"),
        [_to_outcome(outcome) for outcome in array(outcomes, MAX_RUNS, "outcomes")],
        to_times(times),
    )


def from_times(times: list[StageTime]) -> list[object]:
    """Stage times as plain arrays."""
    return [[time.node, time.stage, time.wait, time.compute] for time in times]


def to_times(value: object) -> list[StageTime]:
    """Stage times from plain arrays.

    Raises:
        FrameError: they are something else.
    """
    return [_to_time(item) for item in array(value, MAX_STAGES, "stage times")]


def _to_time(value: object) -> StageTime:
    node, stage, wait, compute = fields(value, 4, "stage time")
    return StageTime(
        name(node, "stage time's node"),
        integer(stage, 0, MAX_STAGES, "stage time's stage"),
        number(wait, 0.0, _FINITE, "wait"),
        number(compute, 0.0, _FINITE, "compute"),
    )


def _from_run(run: Run) -> list[object]:
    sampling = None if run.sampling is None else _from_sampling(run.sampling)
    outputs = int(run.outputs)
    return [run.sequence, run.position, run.tokens, run.blocks, outputs, sampling, run.history, run.follows]


def _to_run(value: object) -> Run:
    sequence, position, tokens, blocks, outputs, sampling, history, follows = fields(value, 8, "run")
    run = Run(
        sequence=integer(sequence, 0, LARGEST, "sequence"),
        position=integer(position, 0, MAX_TOKEN, "position"),
        tokens=integers(tokens, MAX_ROWS, MAX_TOKEN, "tokens"),
        blocks=integers(blocks, MAX_HISTORY, MAX_TOKEN, "blocks"),
        outputs=Outputs(integer(outputs, 0, 2, "outputs")),
        sampling=None if sampling is None else _to_sampling(sampling),
        history=integers(history, MAX_HISTORY, MAX_TOKEN, "history"),
        follows=integer(follows, -1, MAX_TOKEN, "follows"),
    )
    if not run.tokens:
        raise FrameError(f"the run of sequence {run.sequence} has no tokens")
    return run


def _from_sampling(sampling: Sampling) -> list[object]:
    return [
        sampling.seed,
        sampling.stream,
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
        sampling.min_p,
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
        list(sampling.logit_bias.items()),
        sampling.logprobs,
        sampling.prompt_tokens,
        sampling.banned,
    ]


def _to_sampling(value: object) -> Sampling:
    seed, stream, heat, top_k, top_p, min_p, repeat, presence, frequency, bias, logprobs, prompt, banned = fields(
        value, 13, "sampling"
    )
    return Sampling(
        seed=integer(seed, -(2**63), 2**64 - 1, "seed"),
        stream=integer(stream, 0, LARGEST, "stream"),
        temperature=number(heat, 0.0, _FINITE, "temperature"),
        top_k=integer(top_k, 0, MAX_TOKEN, "top_k"),
        top_p=number(top_p, 0.0, 1.0, "top_p"),
        min_p=number(min_p, 0.0, 1.0, "min_p"),
        repetition_penalty=number(repeat, 0.0, _FINITE, "repetition_penalty"),
        presence_penalty=number(presence, -_FINITE, _FINITE, "presence_penalty"),
        frequency_penalty=number(frequency, -_FINITE, _FINITE, "frequency_penalty"),
        logit_bias=dict(_to_pair(pair, _FINITE, "logit_bias") for pair in array(bias, MAX_ROWS, "logit_bias")),
        logprobs=None if logprobs is None else integer(logprobs, 0, MAX_ROWS, "logprobs"),
        prompt_tokens=integer(prompt, 0, MAX_TOKEN, "prompt_tokens"),
        banned=integers(banned, MAX_ROWS, MAX_TOKEN, "banned"),
    )


def _from_outcome(outcome: Outcome) -> list[object]:
    score = None if outcome.score is None else _from_score(outcome.score)
    return [
        outcome.sequence,
        outcome.token,
        outcome.accepted,
        score,
        [_from_score(item) for item in outcome.prompt],
        outcome.error,
    ]


def _to_outcome(value: object) -> Outcome:
    sequence, token, accepted, score, prompt, error = fields(value, 6, "outcome")
    return Outcome(
        sequence=integer(sequence, 0, LARGEST, "sequence"),
        token=integer(token, -1, MAX_TOKEN, "token"),
        accepted=integer(accepted, 0, MAX_ROWS, "accepted"),
        score=None if score is None else _to_score(score),
        prompt=[_to_score(item) for item in array(prompt, MAX_ROWS, "prompt scores")],
        error=_text(error),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise FrameError("the outcome's error is not a short text")
    return value


def _from_score(score: TokenScore) -> list[object]:
    return [score.logprob, score.top]


def _to_score(value: object) -> TokenScore:
    logprob, top = fields(value, 2, "score")
    return TokenScore(
        number(logprob, -INFINITY, _FINITE, "logprob"),
        [_to_pair(pair, INFINITY, "alternatives") for pair in array(top, MAX_ROWS, "alternatives")],
    )


def _to_pair(value: object, span: float, what: str) -> tuple[int, float]:
    token, amount = fields(value, 2, what)
    return integer(token, 0, MAX_TOKEN, what), number(amount, -span, span, what)
