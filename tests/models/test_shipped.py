"""Configurations that ship: their shapes give the numbers of parameters that the models' publishers state."""

import pytest

from potluck.models.quantize import with_quantization
from potluck.models.shipped import shipped_models, shipped_spec
from potluck.models.spec import Part, PartKind

# Millions, from the models' pages (safetensors' count where it is shown); Gemma 3 without its vision tower, from table
# 1 of its report (arXiv 2503.19786).
PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134.5,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 361.8,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1711,
    "Qwen/Qwen2.5-0.5B-Instruct": 494,
    "Qwen/Qwen2.5-1.5B-Instruct": 1544,
    "Qwen/Qwen2.5-3B-Instruct": 3086,
    "Qwen/Qwen2.5-7B-Instruct": 7616,
    "Qwen/Qwen2.5-14B-Instruct": 14770,
    "Qwen/Qwen2.5-32B-Instruct": 32764,
    "Qwen/Qwen2.5-72B-Instruct": 72706,
    "Qwen/Qwen3-0.6B": 596,
    "Qwen/Qwen3-1.7B": 1721,
    "Qwen/Qwen3-4B": 4022,
    "Qwen/Qwen3-8B": 8191,
    "Qwen/Qwen3-14B": 14768,
    "Qwen/Qwen3-32B": 32762,
    "google/gemma-3-1b-it": 302 + 698,
    "google/gemma-3-4b-it": 675 + 3209,
    "google/gemma-3-12b-it": 1012 + 10759,
    "google/gemma-3-27b-it": 1416 + 25600,
    "meta-llama/Llama-3.1-8B-Instruct": 8030,
    "meta-llama/Llama-3.1-70B-Instruct": 70554,
    "meta-llama/Llama-3.2-1B-Instruct": 1236,
    "meta-llama/Llama-3.2-3B-Instruct": 3213,
    "meta-llama/Llama-3.3-70B-Instruct": 70554,
    "mistralai/Mistral-7B-Instruct-v0.3": 7248,
}


def test_each_has_a_published_number():
    assert shipped_models() == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_number(name):
    spec = shipped_spec(name)
    tied = spec.parameters(Part(PartKind.EMBEDDING)) if spec.tied_head else 0
    counted = sum(spec.parameters(part) for part in spec.parts()) - tied
    assert counted == pytest.approx(PUBLISHED[name] * 1e6, rel=0.01)
    assert with_quantization(spec, "int4").encodings, "planned for with --quantize, too"


def test_names_are_found_in_any_case_and_for_models_of_the_same_shape():
    assert shipped_spec("QWEN/qwen3-8b").hidden == 4096
    assert shipped_spec("Qwen/Qwen2.5-7B").ffn == shipped_spec("Qwen/Qwen2.5-7B-Instruct").ffn
    assert shipped_spec("deepseek-ai/DeepSeek-R1-Distill-Llama-70B").name == "deepseek-ai/DeepSeek-R1-Distill-Llama-70B"
    assert shipped_spec("Qwen/Qwen9-8B") is None
    assert shipped_spec("../fields") is None


def test_gemma_slides_over_five_layers_of_six():
    windows = [layer.window for layer in shipped_spec("google/gemma-3-4b-it").layers]
    assert windows[:6] == [1024] * 5 + [None]
