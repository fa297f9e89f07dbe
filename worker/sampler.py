"""The end of the model: from hidden rows to drawn tokens and scores.

Log-probabilities are those of the model's own distribution: log-softmax of the logits before temperature, penalties
and bias, so that they do not depend on how a token was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from potluck.proto.step import Outcome, Outputs, Run, Sampling, Step, TokenScore
from potluck.worker.draw import Draw, draw, uniform
from potluck.worker.penalties import adjust, adjusts
from potluck.worker.sampling_state import SamplingStates, SequenceState

# Logits handled at a time: 32 MiB in float32, and about five times that in passing. 512 rows of a vocabulary of
# 262144 at once would take 2.5 GB.
_LOGITS_AT_ONCE = 1 << 23


@dataclass(slots=True)
class _Row:
    """One sampled row: `follows` is the known next token to score, None where the next token is drawn."""

    run: Run
    position: int
    follows: int | None
    sampling: Sampling | None
    state: SequenceState

    @property
    def top(self) -> int:
        """How many alternatives to report."""
        return (self.sampling.logprobs or 0) if self.sampling else 0

    @property
    def scored(self) -> bool:
        return self.follows is not None or (self.sampling is not None and self.sampling.logprobs is not None)


@dataclass(slots=True)
class _Answer:
    """What the rows of one run gave so far."""

    token: int = -1
    score: TokenScore | None = None
    prompt: list[TokenScore] = field(default_factory=list)
    error: str = ""


class Sampler:
    """Samples the runs of each step; keeps per sequence what that needs."""

    def __init__(self, vocab: int, logits: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """`logits` maps hidden rows (R, D) to float32 logits (R, vocab).

        `drawn` is what the last step drew, by sequence; -1 where it could not.
        """
        self._vocab = vocab
        self._logits = logits
        self._states = SamplingStates()
        self.drawn: dict[int, int] = {}

    def sample(self, step: Step, x_RD: torch.Tensor) -> list[Outcome]:
        """One outcome per run with outputs, in order; x holds the step's sampled rows."""
        self._states.apply(step)
        rows = [row for run in step.runs for row in self._rows(run)]
        answers = {run.sequence: _Answer() for run in step.runs if run.outputs != Outputs.NONE}
        for row in rows:
            answers[row.run.sequence].error = self._refusal(row) or answers[row.run.sequence].error
        for some in self.at_once(len(rows)):
            self._answer(rows[some], self._logits(x_RD[some]), answers)
        self.drawn = {sequence: answer.token for sequence, answer in answers.items()}
        return [_outcome(sequence, answer) for sequence, answer in answers.items()]

    def at_once(self, rows: int) -> list[slice]:
        """Rows whose logits are asked for together; the members of a group must know, because each brings a part."""
        size = max(1, _LOGITS_AT_ONCE // self._vocab)
        return [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]

    def _rows(self, run: Run) -> list[_Row]:
        if run.outputs == Outputs.NONE:
            return []
        state = self._states[run.sequence]
        end = run.position + len(run.tokens)
        last = _Row(
            run, end, None if run.outputs == Outputs.LAST or run.follows < 0 else run.follows, state.sampling, state
        )
        if run.outputs == Outputs.LAST:
            return [last]
        scored = [replace(last, position=run.position + 1 + i, follows=token) for i, token in enumerate(run.tokens[1:])]
        return [*scored, last]

    def _refusal(self, row: _Row) -> str:
        """Why a row cannot be handled as asked, or nothing."""
        if row.follows is not None:
            return "" if row.follows < self._vocab else f"token {row.follows} to score is not in the vocabulary"
        if row.sampling is None:
            return "it was never said how to sample this sequence; its first run must carry its sampling"
        outside = [t for t in (*row.sampling.logit_bias, *row.sampling.banned) if not 0 <= t < self._vocab]
        return f"token {outside[0]} in logit_bias or banned is not in the vocabulary" if outside else ""

    def _answer(self, rows: list[_Row], logits_RV: torch.Tensor, answers: dict[int, _Answer]) -> None:
        finite_R, greedy_R = _likeliest(logits_RV)
        for row, finite in zip(rows, finite_R, strict=True):
            if not finite:
                answers[
                    row.run.sequence
                ].error = "the model's logits are not finite numbers; its weights may be damaged"
        good = [i for i, row in enumerate(rows) if not answers[row.run.sequence].error]
        nexts = self._next_tokens(rows, good, (logits_RV, greedy_R), answers)
        scored = [i for i in nexts if rows[i].scored]
        scores = _scores(logits_RV, scored, [nexts[i] for i in scored], [rows[i].top for i in scored])
        for i, token in nexts.items():
            answer = answers[rows[i].run.sequence]
            if rows[i].follows is None:
                answer.token, answer.score = token, scores.get(i)
            else:
                answer.prompt.append(scores[i])

    def _next_tokens(
        self, rows: list[_Row], good: list[int], found: tuple[torch.Tensor, list[int]], answers: dict[int, _Answer]
    ) -> dict[int, int]:
        """The token after each good row: known, the likeliest, or drawn."""
        logits_RV, greedy = found
        nexts: dict[int, int] = {}
        other: list[int] = []
        for i in good:
            row = rows[i]
            if row.follows is not None:
                nexts[i] = row.follows
            elif row.sampling is None or (row.sampling.temperature <= 0 and not adjusts(row.sampling)):
                nexts[i] = greedy[i]
            else:
                other.append(i)
        if other:
            chosen = _choose([rows[i] for i in other], logits_RV[other])
            for i, token in zip(other, chosen, strict=True):
                nexts[i] = token
                if token < 0:
                    answers[rows[i].run.sequence].error = "every token is banned by logit_bias and banned"
        # In order of rows: prompt scores are appended as they come.
        return {i: nexts[i] for i in good if nexts[i] >= 0}


def _choose(rows: list[_Row], logits_RV: torch.Tensor) -> list[int]:
    """Tokens of rows that are adjusted or drawn at random; -1 where no token is left. Overwrites the logits."""
    samplings = [row.sampling or Sampling() for row in rows]
    for row, sampling, logits_V in zip(rows, samplings, logits_RV, strict=True):
        if adjusts(sampling):
            adjust(logits_V, sampling, row.state)
    possible, greedy = _likeliest(logits_RV)
    tokens = [token if fine else -1 for token, fine in zip(greedy, possible, strict=True)]
    drawn = [i for i, sampling in enumerate(samplings) if sampling.temperature > 0 and possible[i]]
    if drawn:
        part_RV = logits_RV if len(drawn) == len(rows) else logits_RV[drawn]
        draws = [_draw_of(samplings[i], rows[i].position) for i in drawn]
        for i, token in zip(drawn, draw(part_RV, draws), strict=True):
            tokens[i] = token
    return tokens


def _likeliest(logits_RV: torch.Tensor) -> tuple[list[bool], list[int]]:
    """Whether each row's largest logit is a finite number (a NaN counts as largest), and the first token that has it.

    By numpy: of a row of 128256 in 6 us, where torch's max takes 66.
    """
    numbers_RV = logits_RV.numpy()
    tokens_R = numbers_RV.argmax(-1)
    return np.isfinite(numbers_RV[np.arange(len(tokens_R)), tokens_R]).tolist(), tokens_R.tolist()


def _draw_of(sampling: Sampling, position: int) -> Draw:
    number = uniform(sampling.seed, sampling.stream, position)
    return Draw(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, number)


def _scores(logits_RV: torch.Tensor, rows: Sequence[int], tokens: list[int], tops: list[int]) -> dict[int, TokenScore]:
    """Scores of one token of each listed row, with its `tops` likeliest alternatives."""
    if not rows:
        return {}
    part_RV = logits_RV if len(rows) == len(logits_RV) else logits_RV[list(rows)]
    sums_R1 = part_RV.logsumexp(-1, keepdim=True)
    tokens_R1 = torch.tensor(tokens, device=part_RV.device).unsqueeze(1)
    logprobs = (part_RV.gather(1, tokens_R1) - sums_R1).squeeze(1).tolist()
    values_RC, ids_RC = part_RV.topk(min(max(tops), part_RV.shape[1]), dim=-1)
    values, ids = (values_RC - sums_R1).tolist(), ids_RC.tolist()
    return {
        row: TokenScore(logprobs[i], list(zip(ids[i][: tops[i]], values[i][: tops[i]], strict=True)))
        for i, row in enumerate(rows)
    }


def _outcome(sequence: int, answer: _Answer) -> Outcome:
    if answer.error:
        return Outcome(sequence, -1, accepted=0, error=answer.error)
    return Outcome(sequence, answer.token, score=answer.score, prompt=answer.prompt)
