"""Our rope frequencies are those that transformers computes."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from potluck.models.open import read_spec
from potluck.models.rope import check_ropes, inverse_frequencies
from potluck.models.spec import LayerSpec, Rope, RopeScaling

LLAMA3 = RopeScaling("llama3", 8.0, original_context=8192, low_freq_factor=1.0, high_freq_factor=4.0)
CASES = [
    ({"rope_type": "linear", "factor": 4.0}, RopeScaling("linear", 4.0)),
    (
        {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0}
        | {"high_freq_factor": 4.0},
        LLAMA3,
    ),
    (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096},
        RopeScaling("yarn", 4.0, original_context=4096),
    ),
    (
        {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 256, "truncate": False}
        | {"beta_fast": 20.0, "beta_slow": 2.0, "attention_factor": 1.3},
        RopeScaling("yarn", 16.0, 256, beta_fast=20.0, beta_slow=2.0, attention_factor=1.3, truncate=False),
    ),
]


@pytest.mark.parametrize(("parameters", "scaling"), CASES)
@pytest.mark.parametrize(("base", "head_dim"), [(10000.0, 64), (500000.0, 128), (1e6, 16)])
def test_scaled_frequencies_are_those_of_transformers(parameters, scaling, base, head_dim):
    config = LlamaConfig(
        hidden_size=head_dim * 2,
        num_attention_heads=2,
        max_position_embeddings=131072,
        rope_parameters={"rope_theta": base, **parameters},
    )
    expected, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))
    ours, our_factor = inverse_frequencies(Rope(base, scaling), head_dim)
    torch.testing.assert_close(torch.tensor(ours), expected, rtol=2e-6, atol=0)
    assert our_factor == pytest.approx(factor)


def test_unscaled_frequencies_are_powers_of_the_base():
    ours, factor = inverse_frequencies(Rope(10000.0), 8)
    assert ours == pytest.approx([1.0, 0.1, 0.01, 0.001])
    assert factor == 1.0


def test_explicit_factors_equal_the_llama3_scaling_they_were_made_from():
    plain, _ = inverse_frequencies(Rope(500000.0), 64)
    scaled, _ = inverse_frequencies(Rope(500000.0, LLAMA3), 64)
    factors = tuple(a / b for a, b in zip(plain, scaled, strict=True))
    ours, _ = inverse_frequencies(Rope(500000.0, RopeScaling("factors", 1.0, factors=factors)), 64)
    assert ours == pytest.approx(scaled)
    assert max(factors) == pytest.approx(8.0)
    assert math.isclose(min(factors), 1.0)


@pytest.mark.parametrize(
    "rope",
    [
        Rope(1.0, RopeScaling("yarn", 2.0, original_context=64)),
        Rope(1e4, RopeScaling("yarn", 2.0, original_context=64, beta_fast=1e308)),
        Rope(1e-300, RopeScaling("linear", 1e-300)),
    ],
)
def test_ropes_without_finite_frequencies_are_refused(tiny_model, rope):
    spec = read_spec(tiny_model("llama3"))
    check_ropes(spec)
    with pytest.raises(ValueError, match=r"impossible rope|math domain"):
        check_ropes(replace(spec, layers=(LayerSpec(rope),)))


def test_impossible_widths_are_refused():
    with pytest.raises(ValueError, match="even head width"):
        inverse_frequencies(Rope(10000.0), 7)
    with pytest.raises(ValueError, match="2 rope factors for 4"):
        inverse_frequencies(Rope(10000.0, RopeScaling("factors", 1.0, factors=(1.0, 2.0))), 8)
