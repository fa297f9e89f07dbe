"""Specs read from config.json agree with what transformers makes of the same file."""

import json
import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from potluck.models.checkpoint import CheckpointError
from potluck.models.config_hf import spec_from_config
from potluck.models.families import UnsupportedModel
from potluck.models.open import read_spec
from potluck.models.rope import inverse_frequencies

FAMILIES = ["llama2", "llama3", "linear", "yarn", "mistral", "qwen2", "qwen3", "gemma3"]
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}
# The shapes are those of published models; the layouts are the point: transformers 4's, with fields left out.
PUBLISHED = {
    "llama-3.1-8b": {
        **{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
        **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "rms_norm_eps": 1e-05},
        **{"max_position_embeddings": 131072, "rope_theta": 500000.0, "tie_word_embeddings": False},
        **{"attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "pretraining_tp": 1},
        "rope_scaling": {
            **{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"},
            **{"original_max_position_embeddings": 8192},
        },
    },
    "mistral-7b-v0.1": {
        **{"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
        **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "rms_norm_eps": 1e-05},
        **{"max_position_embeddings": 32768, "rope_theta": 10000.0, "sliding_window": 4096, "hidden_act": "silu"},
    },
    "mistral-7b-v0.3": {
        **{"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
        **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32768, "rms_norm_eps": 1e-05},
        **{"max_position_embeddings": 32768, "rope_theta": 1000000.0, "sliding_window": None},
    },
    "qwen2.5-7b-yarn": {
        **{"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28},
        **{"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "rms_norm_eps": 1e-06},
        **{"max_position_embeddings": 32768, "rope_theta": 1000000.0, "sliding_window": 131072},
        **{"use_sliding_window": False, "max_window_layers": 28, "tie_word_embeddings": False},
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    },
    "qwen2-sliding": {
        **{"model_type": "qwen2", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 2048},
        **{"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 4},
    },
    "qwen3-0.6b": {
        **{"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28},
        **{"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
        **{"max_position_embeddings": 40960, "rope_theta": 1000000, "rms_norm_eps": 1e-06, "rope_scaling": None},
        **{"sliding_window": None, "use_sliding_window": False, "max_window_layers": 28, "tie_word_embeddings": True},
        "attention_bias": False,
    },
    "gemma-3-1b": {
        **{"model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26},
        **{"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144},
        **{"max_position_embeddings": 32768, "rope_theta": 1000000, "rope_local_base_freq": 10000},
        **{"query_pre_attn_scalar": 256, "sliding_window": 512, "sliding_window_pattern": 6, "rope_scaling": None},
        **{"hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-06, "attn_logit_softcapping": None},
    },
    "gemma-3-4b": {
        **{"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
        **{"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
    },
}


def assert_is(spec, config):
    """The spec says what transformers' config says, each number by transformers' own meaning."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert (spec.vocab, spec.hidden, spec.ffn) == (config.vocab_size, config.hidden_size, config.intermediate_size)
    assert (spec.heads, spec.kv_heads) == (config.num_attention_heads, config.num_key_value_heads)
    assert (spec.head_dim, spec.context) == (head_dim, config.max_position_embeddings)
    assert spec.norm_eps == config.rms_norm_eps
    assert spec.tied_head == config.tie_word_embeddings
    assert spec.attention_scale == pytest.approx(getattr(config, "query_pre_attn_scalar", head_dim) ** -0.5)
    default = "sliding_attention" if config.model_type == "mistral" and config.sliding_window else "full_attention"
    kinds = getattr(config, "layer_types", None) or [default] * config.num_hidden_layers
    assert [layer.window for layer in spec.layers] == [
        config.sliding_window if kind == "sliding_attention" else None for kind in kinds
    ]
    for layer, kind in zip(spec.layers, kinds, strict=True):
        frequencies, factor = inverse_frequencies(layer.rope, head_dim)
        expected, expected_factor = transformers_rope(config, kind, head_dim)
        torch.testing.assert_close(torch.tensor(frequencies), expected, rtol=3e-6, atol=0)
        assert factor == pytest.approx(expected_factor)


def transformers_rope(config, kind, head_dim):
    nested = kind in config.rope_parameters
    parameters = config.rope_parameters[kind] if nested else config.rope_parameters
    if parameters["rope_type"] == "default":
        return 1.0 / parameters["rope_theta"] ** (torch.arange(0, head_dim, 2) / head_dim), 1.0
    initialise = ROPE_INIT_FUNCTIONS[parameters["rope_type"]]
    return initialise(config, torch.device("cpu"), layer_type=kind if nested else None)


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_models_as_saved_by_transformers_5(tiny_model, family):
    folder = tiny_model(family)
    spec = read_spec(folder)
    assert_is(spec, AutoConfig.from_pretrained(folder))
    assert spec.name == folder.name


@pytest.mark.parametrize("family", ["llama3", "qwen2", "qwen3", "gemma3"])
def test_flags_are_those_of_the_real_modules(tiny_model, family):
    folder = tiny_model(family)
    spec = read_spec(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    layer = model.model.layers[0]
    assert spec.qkv_bias == (layer.self_attn.q_proj.bias is not None)
    assert spec.output_bias == (layer.self_attn.o_proj.bias is not None)
    assert spec.qk_norm == hasattr(layer.self_attn, "q_norm")
    assert spec.post_norms == hasattr(layer, "post_feedforward_layernorm")
    assert spec.attention_scale == pytest.approx(layer.self_attn.scaling)
    activate = {
        "silu": torch.nn.functional.silu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    }
    values = torch.linspace(-3, 3, 13)
    torch.testing.assert_close(activate[spec.activation](values), layer.mlp.act_fn(values))
    row = model.model.embed_tokens(torch.tensor([5]))[0] / model.model.embed_tokens.weight[5]
    torch.testing.assert_close(row, torch.full_like(row, spec.embedding_scale))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_layouts(name):
    config = PUBLISHED[name]
    spec = spec_from_config(config, "config.json", name)
    data = {key: value for key, value in config.items() if key != "model_type"}
    assert_is(spec, AutoConfig.for_model(config["model_type"], **json.loads(json.dumps(data))))


def test_gemma_3_with_vision_is_read_for_its_text():
    wrapped = {"model_type": "gemma3", "text_config": PUBLISHED["gemma-3-4b"], "vision_config": {"hidden_size": 1152}}
    spec = spec_from_config(wrapped, "config.json", "x")
    assert spec == spec_from_config(PUBLISHED["gemma-3-4b"], "config.json", "x")
    assert spec.tied_head
    assert spec.embedding_scale == math.sqrt(2560)


def test_quantised_gemma_with_vision_is_refused():
    wrapped = {"model_type": "gemma3", "text_config": PUBLISHED["gemma-3-4b"], "quantization_config": {"bits": 4}}
    with pytest.raises(UnsupportedModel, match="quantised with quant_method 'None'"):
        spec_from_config(wrapped, "config.json", "x")


def test_attention_bias_of_llama_is_on_all_four_projections():
    spec = spec_from_config({**LLAMA, "attention_bias": True}, "config.json", "x")
    assert spec.qkv_bias
    assert spec.output_bias


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, r"the architecture 'mamba' is not supported; Potluck runs Llama 2/3.*Gemma 3"),
        ({"model_type": "qwen3_moe"}, "qwen3_moe"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "softcapping"),
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"hidden_act": "relu"}, "the activation 'relu'"),
        ({"mlp_bias": True}, "bias in the FFN"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope scaling 'dynamic'"),
        ({"rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]}}, "mrope"),
        ({"partial_rotary_factor": 0.5}, "part of a head"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised with quant_method 'fp8'.*GPTQ of 4 or 8 bits"),
        ({"model_type": "qwen2", "layer_types": ["linear_attention"] * 2}, "linear_attention"),
    ],
)
def test_what_is_not_supported_is_named(change, message):
    with pytest.raises(UnsupportedModel, match=message):
        spec_from_config({**LLAMA, **change}, "x/config.json", "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "x/config.json: the field 'hidden_size' is missing"),
        ({"hidden_size": "64"}, "'hidden_size' is '64'"),
        ({"hidden_size": True}, "'hidden_size'"),
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is '1000000000'"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers'"),
        ({"num_attention_heads": 5}, "a divisor of hidden_size"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"head_dim": 7}, "even"),
        ({"rms_norm_eps": float("nan")}, "'rms_norm_eps'"),
        ({"rope_theta": -1}, "'rope_theta'"),
        ({"rope_scaling": "linear"}, "'rope_scaling'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: the field 'factor' is missing"),
        ({"model_type": 3}, "'model_type'"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"]}, "a list of 2 texts"),
        ({"tie_word_embeddings": "no"}, "true or false"),
    ],
)
def test_malformed_fields_are_named_in_one_line(change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        spec_from_config({**LLAMA, **change}, "x/config.json", "x")
    assert "\n" not in str(caught.value)
