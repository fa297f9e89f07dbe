import math

import pytest
import torch

from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.penalties import adjust, adjusts
from potluck.worker.sampling_state import SamplingStates

LOGITS = [2.0, -1.0, 0.5, 3.0, -2.0, 1.0]


def state_of(tokens, sampling, start=0):
    states = SamplingStates()
    states.apply(Step(1, [Run(1, start, tokens, [], Outputs.LAST, sampling)]))
    return states[1]


def adjusted(sampling, tokens):
    logits = torch.tensor(LOGITS)
    adjust(logits, sampling, state_of(tokens, sampling))
    return logits.tolist()


def test_repetition_counts_prompt_and_generated_once_each():
    found = adjusted(Sampling(repetition_penalty=2.0, prompt_tokens=2), [0, 1, 0, 3])
    assert found == [1.0, -2.0, 0.5, 1.5, -2.0, 1.0]


@pytest.mark.parametrize("penalty", [1e-30, 1e-46, 5e-324])
def test_a_tiny_repetition_penalty_leaves_numbers(penalty):
    found = adjusted(Sampling(repetition_penalty=penalty, prompt_tokens=2), [0, 1])
    assert found[0] > 1e5
    assert all(map(math.isfinite, found))


def test_presence_and_frequency_count_generated_tokens_only():
    found = adjusted(Sampling(presence_penalty=0.5, frequency_penalty=0.25, prompt_tokens=2), [0, 1, 3, 5, 3])
    assert found == [2.0, -1.0, 0.5, 3.0 - 2 * 0.25 - 0.5, -2.0, 1.0 - 0.25 - 0.5]


def test_negative_penalties_encourage():
    assert adjusted(Sampling(frequency_penalty=-1.0), [2, 2, 2])[2] == 3.5


def test_repetition_comes_before_frequency_and_bias():
    sampling = Sampling(repetition_penalty=2.0, frequency_penalty=0.5, logit_bias={3: 10.0, 4: -100.0})
    assert adjusted(sampling, [3])[3:5] == [3.0 / 2 - 0.5 + 10, -102.0]


def test_banned_tokens_cannot_be_biased_back():
    assert adjusted(Sampling(logit_bias={3: 100.0}, banned=[3]), [0])[3] == float("-inf")


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.0, top_k=4, logprobs=3, prompt_tokens=8)])
def test_nothing_to_adjust(sampling):
    assert not adjusts(sampling)


class TestCounting:
    SAMPLING = Sampling(frequency_penalty=1.0, prompt_tokens=3)

    def apply(self, states, position, tokens, **options):
        states.apply(Step(1, [Run(1, position, tokens, [], Outputs.LAST, **options)]))
        return states[1]

    def test_step_by_step_counts_as_at_once(self):
        states = SamplingStates()
        self.apply(states, 0, [5, 6], sampling=self.SAMPLING).generated()
        self.apply(states, 2, [7]).generated()
        self.apply(states, 3, [5]).generated()
        state = self.apply(states, 4, [5])
        assert state.generated() == {5: 2}
        assert state.seen() == {5: 3, 6: 1, 7: 1}

    def test_rejected_drafts_are_uncounted(self):
        states = SamplingStates()
        self.apply(states, 0, [5, 6, 7, 8, 9], sampling=self.SAMPLING).generated()
        assert self.apply(states, 4, [4]).generated() == {8: 1, 4: 1}

    def test_history_stands_in_for_runs_never_seen(self):
        states = SamplingStates()
        state = self.apply(states, 4, [8], sampling=self.SAMPLING, history=[5, 6, 7, 8])
        assert state.generated() == {8: 2}
        assert state.seen() == {5: 1, 6: 1, 7: 1, 8: 2}

    def test_without_history_only_later_tokens_count(self):
        assert state_of([8, 8], self.SAMPLING, start=2).generated() == {8: 1}

    def test_a_dropped_sequence_is_forgotten(self):
        states = SamplingStates()
        self.apply(states, 0, [5, 6, 7, 8], sampling=self.SAMPLING)
        states.apply(Step(2, [Run(1, 0, [1], [], Outputs.LAST, self.SAMPLING)], dropped=[1]))
        assert states[1].seen() == {1: 1}
        states.apply(Step(3, [], dropped=[1]))
        assert len(states) == 0
