"""Shards of GPTQ and AWQ checkpoints, and of full-precision ones kept in fewer bits."""

import pytest
import torch
from gguf import GGMLQuantizationType, quants

from potluck.kernels import packed
from potluck.models.open import read_spec
from potluck.models.quantize import with_quantization
from potluck.models.sizes import weight_bytes
from potluck.worker.shard import ShardConfig, Window
from potluck.worker.shard_memory import ShardMemory

pytestmark = pytest.mark.skipif(not packed.available(), reason="Potluck was installed without its C++ extension")

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
CONFIGS = {
    "GPTQ": (GPTQ, {}),
    "GPTQ act-order": (GPTQ | {"desc_act": True}, {"act_order": True}),
    "GPTQ of 8 bits in groups of 128": (GPTQ | {"bits": 8, "group_size": 128}, {}),
    "AWQ": ({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}, {}),
}
PROMPT = [5, 9, 17, 33, 2, 8, 101, 44, 7, 3, 60, 12]


def scores(pipeline):
    """Log-probabilities of a prompt's tokens."""
    return torch.tensor([score.logprob for score in pipeline.scores(PROMPT, [5, 7], 0)])


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request, tiny_model, grouped_models, tmp_path_factory):
    config, how = CONFIGS[request.param]
    source = tiny_model("qwen2", 3, hidden_size=128, intermediate_size=256)
    target = tmp_path_factory.mktemp("grouped") / "model"
    grouped_models.quantise_folder(source, target, config, **how)
    return target


@pytest.fixture
def unrounded():
    """Products in float32: random models are so sharp that bfloat16 changes a log-probability by 0.3 nats."""
    packed.backend("generic")
    yield
    packed.backend()


def test_kept_as_stored_it_scores_as_decoded(folder, in_process, unrounded):
    assert len(read_spec(folder).encodings) == 3 * 7
    wanted = scores(in_process.Pipeline(folder))
    exact = scores(in_process.Pipeline(folder, kept="weight-only"))
    rounded = scores(in_process.Pipeline(folder, kept="quantized"))
    assert (exact - wanted).abs().max() < 0.01
    assert 0.01 < (rounded - wanted).abs().max() < 2


def test_every_backend_multiplies_it(folder, in_process):
    wanted, found = in_process.Pipeline(folder), in_process.Pipeline(folder, kept="weight-only")
    prompts = [in_process.Request(PROMPT[:size]) for size in (3, 7, 12)]
    again = [in_process.Request(PROMPT[:size]) for size in (3, 7, 12)]
    agree = [a == b for a, b in zip(wanted.generate(prompts, 4), found.generate(again, 4), strict=True)]
    assert sum(agree) >= 2


def test_a_shard_of_it_takes_the_bytes_planned(folder):
    spec, windows = read_spec(folder), [Window(0, False, range(1, 3), False)]
    config = ShardConfig(torch.bfloat16, 8, 16, 64, torch.device("cpu"), quantized=True)
    parts = [part for part in spec.parts() if part.layer in (1, 2)]
    orders = 8 * 2 * sum((128, 128, 128, 128, 128, 128, 256))
    taken = ShardMemory(spec, tuple(windows), config).weights
    assert taken == weight_bytes(spec, parts, "quantized") + orders
    assert taken < 0.7 * weight_bytes(spec, parts, "bfloat16")


def rounded(spec):
    """Replaces decoded matrices by what their formats make of them, with the gguf package."""

    def change(key, tensor):
        if str(key) not in spec.encodings:
            return tensor
        kind = GGMLQuantizationType[spec.encodings[str(key)]]
        return torch.from_numpy(quants.dequantize(quants.quantize(tensor.numpy(), kind), kind).copy())

    return change


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_fewer_bits_than_the_checkpoint_has(tiny_model, in_process, unrounded, bits):
    path = tiny_model("qwen3", 3, hidden_size=128, intermediate_size=256)
    spec = with_quantization(read_spec(path), bits)
    wanted = scores(in_process.Pipeline(path, change=rounded(spec)))
    found = scores(in_process.Pipeline(path, kept="weight-only", spec=spec))
    assert (found - wanted).abs().max() < 0.01
    assert weight_bytes(spec, list(spec.parts()), "quantized") < {"int8": 0.56, "int4": 0.5}[bits] * weight_bytes(
        read_spec(path), list(spec.parts()), "bfloat16"
    )


def test_what_is_quantised_is_not_quantised_again(folder):
    with pytest.raises(ValueError, match=r"is stored in INT[48]_G"):
        with_quantization(read_spec(folder), "int4")
    with pytest.raises(ValueError, match="int3 is not known"):
        with_quantization(read_spec(folder), "int3")
