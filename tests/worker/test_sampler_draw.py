import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from potluck.worker.draw import Draw, draw, uniform

COUNT = 8000


def distribution(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """What should be drawn, by sorting and filtering one probability at a time."""
    probabilities = (logits.double() / temperature).softmax(0)
    order = sorted(range(len(logits)), key=lambda token: -float(probabilities[token]))
    kept = order[:top_k] if top_k else order
    total = sum(float(probabilities[token]) for token in kept)
    summed, nucleus = 0.0, []
    for token in kept:
        nucleus.append(token)
        summed += float(probabilities[token]) / total
        if summed >= top_p:
            break
    best = float(probabilities[order[0]])
    final = [token for token in nucleus if float(probabilities[token]) >= min_p * best]
    result = torch.zeros(len(logits)).double()
    result[final] = probabilities[final]
    return result / result.sum()


def drawn(logits, **options):
    filters = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | options
    draws = [Draw(**filters, uniform=uniform(11, 3, position)) for position in range(COUNT)]
    return draw(logits.expand(COUNT, -1), draws)


CASES = [
    {},
    {"temperature": 0.4},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 1000},
    {"top_p": 0.7},
    {"top_p": 0.0},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 8, "top_p": 0.8, "min_p": 0.1, "temperature": 1.7},
    {"top_p": 0.9, "min_p": 0.3},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("vocabulary", [2, 40])
def test_frequencies_are_those_of_the_distribution(options, vocabulary):
    torch.manual_seed(5)
    logits = torch.randn(vocabulary) * 2
    counts = torch.bincount(torch.tensor(drawn(logits, **options)), minlength=vocabulary).double()
    wanted = distribution(logits, **options) * COUNT
    assert not counts[wanted == 0].any()
    cells = wanted > 0
    chi_square = float(((counts - wanted)[cells] ** 2 / wanted[cells]).sum())
    freedom = int(cells.sum()) - 1
    assert chi_square <= freedom + 5 * math.sqrt(2 * freedom) + 1e-6


def test_top_p_beyond_the_first_ranks():
    """A flat distribution: the nucleus is wider than what is looked at first."""
    logits = torch.arange(5000) * -1e-6
    draws = [Draw(1.0, 0, 0.5, 0.0, uniform(0, 0, position)) for position in range(300)]
    tokens = draw(logits.expand(300, -1), draws)
    assert 2400 < max(tokens) < 2510
    assert sum(token < 1250 for token in tokens) == pytest.approx(150, abs=45)


def test_mixed_rows_draw_as_alone():
    torch.manual_seed(6)
    logits = torch.randn(len(CASES), 300) * 3
    base = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    draws = [Draw(**(base | case), uniform=uniform(1, 0, i)) for i, case in enumerate(CASES)]
    together = draw(logits, draws)
    assert together == [draw(logits[i : i + 1], [one])[0] for i, one in enumerate(draws)]


@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("number", [0.0, 1.0 - 2.0**-52])
def test_the_ends_of_the_unit_interval(number, top_k):
    logits = torch.tensor([[float("-inf"), 1.0, 2.0, 0.0, float("-inf"), float("-inf")]])
    [token] = draw(logits, [Draw(1.0, top_k, 1.0, 0.0, number)])
    assert token == {(0.0, 0): 1, (0.0, 3): 2}.get((number, top_k), 3)


@pytest.mark.parametrize("top_p", [1.0, 0.9, 5e-324])
@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-39, 1e-300, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature, top_p):
    logits = torch.tensor([[3.0, 3.5, 1000.0, 999.9]])
    assert draw(logits, [Draw(temperature, 0, top_p, 0.0, 0.999)]) == [2]


@given(
    logits=st.lists(st.floats(-(2.0**127), 2.0**127, width=32) | st.just(-math.inf), min_size=2, max_size=9),
    temperature=st.floats(0, 2, exclude_min=True),
    top_k=st.integers(0, 12),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    number=st.floats(0, 1.0 - 2.0**-52),
)
def test_whatever_is_asked_a_possible_token_is_drawn(logits, temperature, top_k, top_p, min_p, number):
    assume(max(logits) > -math.inf)
    [token] = draw(torch.tensor([logits]), [Draw(temperature, top_k, top_p, min_p, number)])
    assert 0 <= token < len(logits)
    assert logits[token] > -math.inf


def test_random_numbers_depend_on_their_key_alone():
    keys = [(seed, stream, position) for seed in (0, 1, -1, 2**63) for stream in (0, 1) for position in (0, 1, 9)]
    numbers = [uniform(*key) for key in keys]
    assert numbers == [uniform(*key) for key in keys]
    assert len(set(numbers)) == len(keys)
    assert all(0 <= number < 1 for number in numbers)


def test_random_numbers_do_not_change_between_versions():
    """A replay after an upgrade must draw the same tokens."""
    assert (uniform(7, 0, 20), uniform(1, 2, 3)) == (0.2560387809145328, 0.6527702009682941)
