"""Specs read from GGUF metadata agree with those of the same model as safetensors."""

from dataclasses import replace

import pytest

from potluck.models.checkpoint import CheckpointError
from potluck.models.config_gguf import spec_from_gguf
from potluck.models.families import UnsupportedModel
from potluck.models.gguf_metadata import read_header
from potluck.models.open import read_spec
from potluck.models.rope import inverse_frequencies
from potluck.models.spec import LayerSpec, Rope

FAMILIES = ["llama2", "llama3", "linear", "yarn", "mistral", "qwen2", "qwen3", "gemma3"]


def plain(spec):
    """Without what the two formats may say differently: the names, and numbers that GGUF rounds to float32."""
    layers = tuple(LayerSpec(Rope(0.0), layer.window) for layer in spec.layers)
    return replace(spec, name="", family="", layers=layers, norm_eps=0.0, attention_scale=0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_and_safetensors_of_a_model_have_the_same_spec(tiny_model, tiny_gguf, family):
    expected, spec = read_spec(tiny_model(family, 3)), read_spec(tiny_gguf(family, layers=3))
    assert plain(spec) == plain(expected)
    assert spec.norm_eps == pytest.approx(expected.norm_eps)
    assert spec.attention_scale == pytest.approx(expected.attention_scale)
    for ours, theirs in zip(spec.layers, expected.layers, strict=True):
        frequencies, factor = inverse_frequencies(ours.rope, spec.head_dim)
        wanted, wanted_factor = inverse_frequencies(theirs.rope, spec.head_dim)
        assert frequencies == pytest.approx(wanted, rel=1e-6)
        assert factor == pytest.approx(wanted_factor)


def test_smollm2(smollm2_path):
    spec = read_spec(smollm2_path)
    assert (spec.family, len(spec.layers), spec.hidden, spec.ffn) == ("llama", 30, 576, 1536)
    assert (spec.heads, spec.kv_heads, spec.head_dim, spec.vocab) == (9, 3, 64, 49152)
    assert spec.layers[0] == LayerSpec(Rope(100_000.0))
    assert spec.tied_head
    assert not spec.qkv_bias


def test_gemma3(gemma3_path):
    spec = read_spec(gemma3_path)
    assert (spec.family, len(spec.layers), spec.hidden, spec.head_dim) == ("gemma3", 18, 640, 256)
    assert [number for number, layer in enumerate(spec.layers) if layer.window is None] == [5, 11, 17]
    assert spec.layers[0] == LayerSpec(Rope(10_000.0), 512)
    assert spec.layers[5] == LayerSpec(Rope(1_000_000.0))
    assert spec.attention_scale == 256**-0.5


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"general.architecture": "mamba"}, UnsupportedModel, "the architecture 'mamba'"),
        ({"llama.expert_count": 8}, UnsupportedModel, "mixture of experts"),
        ({"llama.rope.dimension_count": 8}, UnsupportedModel, "part of a head"),
        ({"llama.rope.scaling.type": "longrope"}, UnsupportedModel, "'longrope'"),
        ({"split.count": 3}, UnsupportedModel, "several files"),
        ({"general.architecture": None}, CheckpointError, "'general.architecture' is missing"),
        ({"llama.block_count": 1 << 31}, CheckpointError, "'block_count'"),
        ({"llama.block_count": "2"}, CheckpointError, "'block_count' is '2'"),
        ({"llama.attention.head_count_kv": 3}, CheckpointError, "do not divide"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, CheckpointError, "layer_norm_rms_epsilon' is missing"),
        ({"llama.rope.freq_base": float("inf")}, CheckpointError, "freq_base"),
    ],
)
def test_what_does_not_fit_is_named(tiny_gguf, change, error, message):
    header = read_header(tiny_gguf("llama2"))
    changed = replace(header, metadata={**header.metadata, **change})
    with pytest.raises(error, match=message):
        spec_from_gguf(changed, "x.gguf", None)
