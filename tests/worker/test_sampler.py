"""The sampler over steps; its logits are the hidden rows themselves."""

import math

import pytest
import torch

from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.draw import Draw, draw, uniform
from potluck.worker.sampler import Sampler

VOCAB = 50
GREEDY = Sampling(temperature=0.0)


@pytest.fixture
def sampler():
    return Sampler(VOCAB, lambda x: x)


def rows(count, seed=0):
    return torch.randn(count, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def run(sequence, sampling=GREEDY, tokens=(1,), position=0, outputs=Outputs.LAST, **options):
    return Run(sequence, position, list(tokens), [], outputs, sampling, **options)


def only(outcomes):
    [outcome] = outcomes
    assert not outcome.error
    return outcome


def test_greedy_takes_the_best(sampler):
    x = rows(3)
    outcomes = sampler.sample(Step(1, [run(i) for i in (4, 2, 9)]), x)
    assert [outcome.sequence for outcome in outcomes] == [4, 2, 9]
    assert [outcome.token for outcome in outcomes] == x.argmax(-1).tolist()
    assert all(outcome.score is None and not outcome.prompt for outcome in outcomes)


def test_of_equal_logits_the_first_is_taken(sampler):
    x = torch.full((2, VOCAB), -1.0)
    x[0, [7, 8, 40]], x[1, [3, 49]] = 2.0, -0.5
    assert [outcome.token for outcome in sampler.sample(Step(1, [run(1), run(2)]), x)] == [7, 3]


def test_a_chunk_in_the_middle_has_no_outcome_but_is_remembered(sampler):
    sampling = Sampling(temperature=0.0, repetition_penalty=1e6)
    x = torch.full((1, VOCAB), 1.0)
    x[0, 3] = 2.0
    assert sampler.sample(Step(1, [run(1, sampling, [3], outputs=Outputs.NONE)]), x[:0]) == []
    assert only(sampler.sample(Step(2, [run(1, None, [8], position=1)]), x)).token not in (3, 8)


def test_draws_are_keyed_by_seed_stream_and_position(sampler):
    x = rows(1)
    sampling = Sampling(seed=5, stream=2, temperature=1.3)
    outcome = only(sampler.sample(Step(1, [run(1, sampling, [1, 2], position=0)]), x))
    assert [outcome.token] == draw(x, [Draw(1.3, 0, 1.0, 0.0, uniform(5, 2, 2))])


def test_a_replay_draws_the_same_tokens_in_any_company():
    samplings = [Sampling(seed=i, temperature=1.0, top_k=9 * (i % 2), top_p=1 - 0.3 * (i // 2)) for i in range(4)]
    logits = [rows(1, seed) for seed in range(20)]

    def play(sequences, chunked):
        sampler, tokens, number = Sampler(VOCAB, lambda x: x), {sequence: [] for sequence in sequences}, 1
        if chunked:
            sampler.sample(Step(number, [run(s, samplings[s], [0], outputs=Outputs.NONE) for s in sequences]), rows(0))
        for position in range(20):
            number += 1
            first = None if chunked or position else True
            runs = [run(s, samplings[s] if first else None, [7], position + chunked) for s in sequences]
            for outcome in sampler.sample(Step(number, runs), logits[position].expand(len(runs), -1)):
                tokens[outcome.sequence].append(outcome.token)
        return tokens

    together = play([0, 1, 2, 3], False)
    assert all(play([s], False)[s] == together[s] for s in range(4))
    assert len({tuple(tokens) for tokens in together.values()}) == 4
    # One more token before: every position, and so every draw, is another.
    assert play([0], True)[0] != together[0]


def test_logprobs_are_of_the_untouched_distribution(sampler):
    x = rows(1)
    best = int(x.argmax())
    sampling = Sampling(temperature=0.0, logit_bias={best: -100.0}, logprobs=3)
    outcome = only(sampler.sample(Step(1, [run(1, sampling)]), x))
    wanted = x[0].double().log_softmax(-1)
    assert outcome.token != best
    assert outcome.score.logprob == pytest.approx(float(wanted[outcome.token]), abs=1e-5)
    assert [token for token, _ in outcome.score.top] == wanted.topk(3).indices.tolist()
    assert [logprob for _, logprob in outcome.score.top] == pytest.approx(wanted.topk(3).values.tolist(), abs=1e-5)


def test_rows_may_ask_for_different_numbers_of_alternatives(sampler):
    samplings = [Sampling(temperature=0.0, logprobs=n) for n in (0, 5, None, VOCAB + 7)]
    outcomes = sampler.sample(Step(1, [run(i, sampling) for i, sampling in enumerate(samplings)]), rows(4))
    assert [outcome.score and len(outcome.score.top) for outcome in outcomes] == [0, 5, None, VOCAB]


@pytest.mark.parametrize("follows", [-1, 9])
@pytest.mark.parametrize("at_once", [VOCAB, 3 * VOCAB, 1 << 20])
def test_prompt_scores(sampler, follows, at_once, monkeypatch):
    monkeypatch.setattr("potluck.worker.sampler._LOGITS_AT_ONCE", at_once)
    x, tokens = rows(8), [4, 8, 15, 16, 23, 42]
    wanted = x.double().log_softmax(-1)
    scored = run(1, Sampling(temperature=0.0, logprobs=2), tokens, outputs=Outputs.ALL, follows=follows)
    first, outcome, last = sampler.sample(Step(1, [run(7), scored, run(8)]), x)
    following = [*tokens[1:], follows] if follows >= 0 else tokens[1:]
    expected = [float(wanted[1 + i, token]) for i, token in enumerate(following)]
    assert [score.logprob for score in outcome.prompt] == pytest.approx(expected, abs=1e-5)
    for i, score in enumerate(outcome.prompt):
        assert [token for token, _ in score.top] == wanted[1 + i].topk(2).indices.tolist()
    assert outcome.token == (-1 if follows >= 0 else int(x[6].argmax()))
    assert (outcome.score is None) == (follows >= 0)
    assert (first.token, last.token) == (int(x[0].argmax()), int(x[7].argmax()))


def test_a_prompt_is_scored_without_any_sampling(sampler):
    outcome = only(sampler.sample(Step(1, [run(1, None, [4], outputs=Outputs.ALL, follows=3)]), rows(1)))
    assert math.exp(outcome.prompt[0].logprob) < 1
    assert outcome.prompt[0].top == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error_of_that_sequence_alone(sampler, bad, temperature):
    x = rows(3)
    x[1, 7] = bad
    sampling = Sampling(temperature=temperature, logprobs=1)
    outcomes = sampler.sample(Step(1, [run(i, sampling) for i in range(3)]), x)
    assert "not finite" in outcomes[1].error
    assert outcomes[1].token == -1 and outcomes[1].score is None
    assert not outcomes[0].error and not outcomes[2].error


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(banned=list(range(VOCAB))), "every token is banned"),
        (Sampling(banned=[VOCAB]), f"token {VOCAB} in logit_bias"),
        (Sampling(logit_bias={-1: 1.0}), "token -1 in logit_bias"),
        (None, "never said how to sample"),
    ],
)
def test_what_cannot_be_sampled_is_an_error_of_that_sequence_alone(sampler, sampling, message):
    bad, good = sampler.sample(Step(1, [run(1, sampling), run(2)]), rows(2))
    assert message in bad.error and bad.token == -1
    assert good.token >= 0 and not good.error


def test_a_token_to_score_outside_the_vocabulary(sampler):
    [outcome] = sampler.sample(Step(1, [run(1, GREEDY, [4], outputs=Outputs.ALL, follows=VOCAB)]), rows(1))
    assert "not in the vocabulary" in outcome.error


def test_an_exclusive_bias(sampler):
    sampling = Sampling(temperature=1.0, logit_bias={13: 100.0})
    assert only(sampler.sample(Step(1, [run(1, sampling)]), rows(1))).token == 13
