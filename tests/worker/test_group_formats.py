"""Every weight format in a group, against one node in the same format: fed the same tokens, both take the same next one
wherever the best two are more than 0.25 nats apart."""

import random
import statistics

import pytest
import torch

from potluck.kernels import packed
from potluck.models.open import read_spec
from potluck.models.quantize import with_quantization

KEPT = ("quantized", "weight-only")
# Eight heads of 32 columns are one block of a K-quant; 768 FFN columns three.
WIDE = {"num_attention_heads": 8, "num_key_value_heads": 8, "hidden_size": 256, "intermediate_size": 768}
ENCODINGS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
EIGHT_BITS = GPTQ | {"bits": 8, "group_size": 128, "desc_act": True}
GROUPED = {
    "GPTQ": (GPTQ, {}),
    "GPTQ act-order": (GPTQ | {"desc_act": True}, {"act_order": True}),
    "GPTQ act-order of 8 bits": (EIGHT_BITS, {"act_order": True}),
    "AWQ": ({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}, {}),
}
# The last cuts FFN columns within blocks of 32.
PARTS = [(5, 2, 1), (1, 1, 1, 5), (4, 7)]
TOKENS = random.Random(5).sample(range(320), 160)
GAP = 0.25
# Where a cut gives columns other neighbours than they have in one node's blocks (act-order, cuts within a block), their
# activations are rounded with other scales. Random weights answer rounding with up to 2 nats, real ones with a tenth.
ROUNDED_GAP = 0.5


@pytest.fixture
def compare(in_group, in_process):
    """compare(path, spec, compute, parts, algorithm): how many places have a wide gap, at how many of those the group
    takes another token, and by how many nats the given tokens' log-probabilities differ in the mean."""
    made = []

    def scores(pipeline):
        return pipeline.scores(TOKENS, [50, 1, 1, 7, 1, 40, 60], 2)

    def run(path, spec, compute, parts, algorithm, ends="split", least=GAP):
        dtype, kept = torch.float32 if compute == "float32" else torch.bfloat16, compute if compute in KEPT else None
        half = compute == "float16"
        alone = in_process.Pipeline(path, dtype=dtype, kept=kept, spec=spec, half=half)
        changes = {"quantized": kept is not None, "exact": kept == "weight-only", "half": half}
        config = in_group.config_of(dtype, torch.device("cpu"), **changes)
        made.append(
            in_group.GroupPipeline(
                path,
                in_group.cuts_of(spec, parts),
                config=config,
                source=in_process.in_memory,
                spec=spec,
                algorithm=algorithm,
                ends=ends,
            )
        )
        pairs = list(zip(scores(alone), scores(made[-1]), strict=True))
        gaps = [one.top[0][1] - one.top[1][1] for one, _ in pairs]
        wide = [pair for gap, pair in zip(gaps, pairs, strict=True) if gap > least]
        apart = statistics.mean(abs(one.logprob - other.logprob) for one, other in pairs)
        return len(wide), sum(one.top[0][0] != other.top[0][0] for one, other in wide), apart

    yield run
    for pipeline in made:
        pipeline.close()


def needs_extension(compute):
    if compute in KEPT and not packed.available():
        pytest.skip("Potluck was installed without its C++ extension")


@pytest.mark.pairwise
@pytest.mark.parametrize("algorithm", ["star", "direct", "ring"])
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("compute", KEPT)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_gguf(tiny_gguf, compare, encoding, compute, parts, algorithm):
    needs_extension(compute)
    path = tiny_gguf("llama3", encoding, **WIDE)
    spec = read_spec(path)
    assert set(spec.encodings.values()) == {encoding}
    check(compare(path, spec, compute, parts, algorithm))


def check(compared):
    """Most places have a gap that counts, none of those differs, and there is no difference but rounding."""
    wide, wrong, apart = compared
    assert wide > len(TOKENS) // 2 and not wrong and apart < 0.15


@pytest.mark.pairwise
@pytest.mark.parametrize("ends", ["split", "lead"])
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("compute", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("encoding", ["F32", "BF16", "F16"])
def test_plain_numbers(tiny_gguf, compare, encoding, compute, parts, ends):
    path = tiny_gguf("llama3", encoding, **WIDE)
    spec = read_spec(path)
    assert not spec.encodings
    check(compare(path, spec, compute, parts, "direct", ends))


@pytest.mark.pairwise
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("compute", KEPT)
@pytest.mark.parametrize("kind", GROUPED)
def test_gptq_and_awq(tiny_model, grouped_models, compare, tmp_path, kind, compute, parts):
    needs_extension(compute)
    config, how = GROUPED[kind]
    path = tmp_path / "model"
    grouped_models.quantise_folder(tiny_model("qwen2", 2, **WIDE), path, config, **how)
    spec = read_spec(path)
    assert len(spec.encodings) == 2 * 7 and bool(spec.ordered) == ("act-order" in kind)
    check(compare(path, spec, compute, parts, "direct", least=ROUNDED_GAP if compute == "quantized" else GAP))


@pytest.mark.pairwise
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("compute", KEPT)
@pytest.mark.parametrize("bits", ["int4", "int8"])
def test_kept_in_fewer_bits(tiny_model, compare, bits, compute, parts):
    needs_extension(compute)
    path = tiny_model("qwen3", 2, **WIDE)
    least = ROUNDED_GAP if compute == "quantized" else GAP
    check(compare(path, with_quantization(read_spec(path), bits), compute, parts, "ring", least=least))


@pytest.mark.parametrize("encoding", ["Q4_K", pytest.param("Q4_0", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("parts", [(2, 1, 1), pytest.param((1, 1), marks=pytest.mark.exhaustive)])
def test_one_kv_head_in_all_members(tiny_gguf, compare, encoding, parts):
    """Each has its own query heads, 64 columns of an output matrix's only block."""
    needs_extension("quantized")
    path = tiny_gguf("gemma3", encoding, head_dim=64)
    check(compare(path, read_spec(path), "quantized", parts, "star"))
