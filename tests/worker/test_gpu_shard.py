"""Whole models with the GPU's operations: on the GPU if there is one, else on CPU tensors, through the interpreter."""

import pytest
import torch

pytest.importorskip("triton")

from potluck.kernels import packed
from potluck.models.open import open_checkpoint, read_spec
from potluck.worker.packing import Packer
from potluck.worker.pieces import Unit, pieces_of
from potluck.worker.residence import DeviceMemory
from potluck.worker.shard import ShardConfig
from potluck.worker.weights import Assembly

quantized = pytest.mark.skipif(not packed.available(), reason="Potluck was installed without its C++ extension")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SCORED = [5, 9, 17, 33, 2, 8, 101, 44, 7, 3, 60, 12]
PROMPTS = [[11, 250, 3, 90, 2], [40, 41, 7]]
# Nats. Both sides compute in float32 and add up in another order: at most 3e-5 through the interpreter.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def measured(in_process):
    """measured(path, kernels) -> prompt scores in two chunks, and what two requests in flight together draw."""

    def run(path, kernels, scored=SCORED, **options):
        pipeline = in_process.Pipeline(path, kernels=kernels, **options)
        scores = [score.logprob for score in pipeline.scores(scored, [3, len(scored)], 0)]
        requests = [in_process.Request(list(prompt)) for prompt in PROMPTS]
        return torch.tensor(scores), pipeline.generate(requests, 3, chunk=4)

    return run


@pytest.mark.parametrize("family", ["llama3", "qwen3", "gemma3"])
def test_float32_is_as_on_the_cpu(tiny_model, measured, family):
    path = tiny_model(family, 2)
    (wanted, tokens), (found, drawn) = measured(path, "cpu"), measured(path, "gpu")
    assert drawn == tokens
    assert (found - wanted).abs().max() < TOLERANCE


@quantized
@pytest.mark.parametrize(
    ("family", "encoding", "config"),
    [("llama3", "Q4_0", {}), ("qwen3", "Q8_0", {}), ("gemma3", "Q4_K", {"head_dim": 64})],
)
def test_quantised_weights_are_as_in_weight_only(tiny_gguf, measured, family, encoding, config):
    path = tiny_gguf(family, encoding, **config)
    assert set(read_spec(path).encodings.values()) == {encoding}
    # The other backends may round activations to bfloat16.
    packed.backend("generic")
    try:
        wanted, tokens = measured(path, "cpu", SCORED[:6], kept="weight-only")
    finally:
        packed.backend()
    found, drawn = measured(path, "gpu", SCORED[:6], kept="weight-only")
    assert drawn == tokens
    assert (found - wanted).abs().max() < TOLERANCE


def test_bfloat16_over_two_nodes(tiny_model, in_process):
    """Hidden rows and the sampled ones alone go from node to node; random models are sharp in bfloat16."""

    def scores(kernels, dtype):
        placement = in_process.spread(2, 2, head_alone=True)
        pipeline = in_process.Pipeline(tiny_model("llama3", 2), placement, dtype, kernels=kernels)
        return torch.tensor([score.logprob for score in pipeline.scores(SCORED, [5, 7], 0)])

    exact, wanted = scores("cpu", torch.float32), scores("cpu", torch.bfloat16)
    found = scores("gpu", torch.bfloat16)
    assert (found - exact).abs().mean() < 1.5 * (wanted - exact).abs().mean()


@quantized
@pytest.mark.parametrize("encoding", ["F32", "Q4_0", "Q4_K", "Q6_K"])
def test_the_bytes_that_are_said_are_taken(tiny_gguf, encoding):
    path = tiny_gguf("llama3", encoding)
    spec, packer = read_spec(path), Packer(read_spec(path), open_checkpoint(path))
    config = ShardConfig(torch.bfloat16, 1, 4, 8, DEVICE, quantized=True, kernels="gpu")
    unit, residence = Unit("layer", 0), config.residence
    for piece in pieces_of(spec, unit, config.form):
        placed = packer.place([piece])[piece.name]
        shape = piece.shape
        made = residence.plain(placed) if piece.is_plain else residence.quantized(piece.encoding, shape, placed)
        assert made.nbytes == residence.nbytes(piece)


def test_a_tied_matrix_lies_on_the_device_once(tiny_model, monkeypatch):
    path = tiny_model("qwen3", 2)
    spec, made = read_spec(path), []
    plain = DeviceMemory.plain
    monkeypatch.setattr(DeviceMemory, "plain", lambda self, stored: made.append(stored.shape) or plain(self, stored))
    config = ShardConfig(torch.float32, 1, 4, 8, DEVICE, kernels="gpu")
    packer = Packer(spec, open_checkpoint(path))
    units = {
        unit: packer.place(pieces_of(spec, unit, config.form)) for unit in (Unit("embedding"), Unit("output_norm"))
    }
    assembly = Assembly(spec, config.form, config.residence)
    assembly.embedding(Unit("embedding"), units[Unit("embedding")])
    assembly.head(units[Unit("output_norm")], Unit("embedding"), units[Unit("embedding")])
    assert made.count((spec.vocab, spec.hidden)) == 1


def test_kernels_for_the_cpu_are_refused_another_device():
    with pytest.raises(ValueError, match="cannot compute on cuda"):
        ShardConfig(torch.float32, 1, 4, 8, torch.device("cuda"))
