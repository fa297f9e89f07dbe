"""Shards whose weights stay as the checkpoint stores them."""

from dataclasses import replace

import pytest
import torch

from potluck.kernels import packed
from potluck.kernels.packed import PackedMatrix
from potluck.models.checkpoint import CheckpointError
from potluck.models.decode import decode, stored_rows
from potluck.models.open import open_checkpoint, read_spec
from potluck.models.sizes import weight_bytes
from potluck.worker.packing import Packer, WeightError
from potluck.worker.pieces import pieces_of
from potluck.worker.shard import Shard, ShardConfig, Window
from potluck.worker.weight_source import InMemory

pytestmark = pytest.mark.skipif(not packed.available(), reason="Potluck was installed without its C++ extension")

CONFIG = ShardConfig(torch.bfloat16, 8, 16, 64, torch.device("cpu"), quantized=True)


def loaded(path, windows, config=CONFIG, checkpoint=None):
    spec = read_spec(path)
    packer, shard = Packer(spec, checkpoint or open_checkpoint(path)), Shard(spec, windows, config)
    shard.load(InMemory(lambda unit: packer.place(pieces_of(spec, unit, config.form))))
    return shard


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_stored_rows_are_the_decoded_numbers(request, name):
    path = request.getfixturevalue(f"{name}_path")
    spec, checkpoint = read_spec(path), open_checkpoint(path)
    seen = set()
    for key, entry in checkpoint.entries.items():
        if str(key) not in spec.encodings or (entry.encoding, key.role) in seen:
            continue
        seen.add((entry.encoding, key.role))
        matrix = PackedMatrix.pack(entry.encoding, stored_rows(entry, checkpoint.raw(key)), entry.shape[1])
        rows = torch.arange(min(matrix.rows, 2000))
        assert torch.equal(matrix.select(rows), decode(entry, checkpoint.raw(key))[: len(rows)])
    assert len(seen) >= 7


def test_a_shard_takes_the_bytes_that_were_planned(smollm2_path):
    spec = read_spec(smollm2_path)
    windows = [Window(0, True, range(2), False), Window(2, False, range(28, 30), True)]
    shard = loaded(smollm2_path, windows)
    parts = [part for part in spec.parts() if part.layer is None or part.layer in (0, 1, 28, 29)]
    assert shard.memory.weights == weight_bytes(spec, parts, "quantized")
    assert shard.memory.weights < 0.5 * weight_bytes(spec, parts, "bfloat16")


class Other:
    """A checkpoint that stores its matrices otherwise than its spec says."""

    def __init__(self, checkpoint):
        self.entries = {
            key: replace(entry, encoding="Q4_0") if entry.encoding == "Q4_1" else entry
            for key, entry in checkpoint.entries.items()
        }
        self.raw = checkpoint.raw


def test_another_format_than_planned_is_refused(smollm2_path):
    with pytest.raises(WeightError, match="another format than the plan was made for"):
        loaded(smollm2_path, [Window(0, True, range(1), False)], checkpoint=Other(open_checkpoint(smollm2_path)))


def test_a_damaged_scale_is_found(smollm2_path):
    checkpoint = open_checkpoint(smollm2_path)
    key = next(key for key, entry in checkpoint.entries.items() if entry.encoding == "Q4_1")
    raw = bytearray(checkpoint.raw(key))
    raw[20:22] = b"\x00\x7c"
    with pytest.raises(CheckpointError, match="a scale is not finite"):
        stored_rows(checkpoint.entries[key], bytes(raw))
    with pytest.raises(CheckpointError, match="takes"):
        stored_rows(checkpoint.entries[key], bytes(raw[:-1]))


def test_what_is_not_quantised_is_as_in_bfloat16(tiny_model):
    path = tiny_model("llama3", 2)
    spec = read_spec(path)
    assert spec.encodings == {}
    shard = loaded(path, [Window(0, True, range(2), True)])
    assert shard.memory.weights == weight_bytes(spec, list(spec.parts()), "bfloat16")


FORMATS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
PROMPT = [5, 9, 17, 33, 2, 8, 101, 44, 7, 3, 60, 12]


@pytest.mark.parametrize("encoding", FORMATS)
@pytest.mark.parametrize("family", ["llama3", "gemma3"])
def test_every_format_scores_as_its_decoded_weights(tiny_gguf, in_process, family, encoding):
    """In float32: random models are too sharp for bfloat16 (which weight-only uses where it is faster)."""
    path = tiny_gguf(family, encoding, **({"head_dim": 64} if family == "gemma3" else {}))
    assert set(read_spec(path).encodings.values()) == {encoding}

    def scores(kept):
        found = in_process.Pipeline(path, kept=kept).scores(PROMPT, [5, 7], 0)
        return torch.tensor([score.logprob for score in found])

    packed.backend("generic")
    try:
        wanted = scores(None)
        assert (scores("weight-only") - wanted).abs().max() < 0.01
        assert (scores("quantized") - wanted).abs().max() < 1.5
    finally:
        packed.backend()
