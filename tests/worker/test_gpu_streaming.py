"""Layers that a GPU's memory does not hold: on the GPU if there is one, else through the interpreter."""

import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from potluck.kernels import packed
from potluck.models.open import open_checkpoint, read_spec
from potluck.worker import __main__ as command_line
from potluck.worker.gpu import layers as gpu_layers
from potluck.worker.gpu.coming import CopiedLayers, MadeLayers
from potluck.worker.gpu.flat import flatten, weights_over
from potluck.worker.gpu.pinned import PinnedMemory, pinned_bytes
from potluck.worker.packing import Packer
from potluck.worker.pieces import Unit, pieces_of
from potluck.worker.shard import Shard, ShardConfig, Window
from potluck.worker.shard_manifest import ShardFileError
from potluck.worker.streaming import StreamError
from potluck.worker.weight_source import InMemory
from potluck.worker.weights import Assembly
from potluck.worker.windows import GpuOptions

quantized = pytest.mark.skipif(not packed.available(), reason="Potluck was installed without its C++ extension")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SCORED = [5, 9, 17, 33, 2]
CHUNKS = [2, 1, 1, 1]
RESIDENT_FIRST = [Window(0, True, range(1), False), Window(1, False, range(1, 4), True, streamed=True)]


class Coming(InMemory):
    """Layers that are there only while the shard says that it is taking from them."""

    stall_seconds, bytes_read = 0.25, 77

    def __init__(self, packer, form, budget=0):
        super().__init__(self._placed)
        self.streamer, self.budget, self.used, self.over, self._layers = self, budget, [], False, {}
        self._make = lambda unit: packer.place(pieces_of(packer.spec, unit, form))

    def _placed(self, unit):
        made = self._make(unit)
        if unit.layer:
            self._layers[unit] = made, {name: data.clone() for name, data in made.items()}
            self._end(unit)
        return made

    @contextmanager
    def here(self, unit):
        assert not self.over
        self.used.append(unit.layer)
        there, whole = self._layers[unit]
        for name, data in whole.items():
            there[name].copy_(data)
        yield
        self._end(unit)

    def _end(self, unit):
        for data in self._layers[unit][0].values():
            data.zero_()

    def close(self):
        self.over = True


@pytest.fixture(scope="module")
def streamed(in_process):
    """streamed(path, options, kept, budget) -> a pipeline whose last three layers are streamed, and their source."""

    def make(path, options=None, kept=None, budget=0):
        pipeline = in_process.Pipeline(path, kept=kept, kernels="gpu")
        config = ShardConfig(torch.float32, 128, 4, 512, DEVICE, kept is not None, exact=kept is not None)
        config = replace(config, kernels="gpu", gpu=options or GpuOptions())
        source = Coming(Packer(pipeline.spec, open_checkpoint(path)), config.form, budget)
        shard = Shard(pipeline.spec, RESIDENT_FIRST, config)
        shard.load(source)
        pipeline.route, pipeline.shards = [(0, window) for window in RESIDENT_FIRST], {0: shard}
        return pipeline, source

    return make


def flat_of(path):
    """Weights of a layer on the device, and the spec of its model."""
    config = ShardConfig(torch.float32, 1, 4, 8, DEVICE, quantized=True, exact=True, kernels="gpu")
    packer, unit = Packer(read_spec(path), open_checkpoint(path)), Unit("layer", 1)
    placed = packer.place(pieces_of(packer.spec, unit, config.form))
    return Assembly(packer.spec, config.form, config.residence).layer(unit, placed), packer.spec


def empty(count):
    return torch.empty(count, dtype=torch.uint8)


@pytest.fixture(scope="module")
def wanted(tiny_model, in_process):
    return in_process.Pipeline(tiny_model("qwen3"), kernels="gpu").scores(SCORED, CHUNKS, 0)


@pytest.mark.parametrize("held", [1, 2, 3, 9])
def test_copied_layers_give_the_same_and_are_laid_out_once(tiny_model, streamed, wanted, held):
    pipeline, source = streamed(tiny_model("qwen3"), GpuOptions(held=held))
    shard, before = pipeline.shards[0], source.used.copy()
    assert pipeline.scores(SCORED, CHUNKS, 0) == wanted
    assert source.used == before == [1, 2, 3] and source.over
    coming = shard._layers.coming
    assert isinstance(coming, CopiedLayers) and len(coming.plan.resident) + coming.plan.ring == min(held, 3)
    assert (shard.stall_seconds > 0) == (shard.brought_bytes > 0) == (held < 3)


def test_how_many_are_held_is_measured_and_bounded_by_the_budget(tiny_model, streamed, monkeypatch):
    asked = []

    def choose(layers, costs, layer_bytes, free_bytes):
        asked.append((layers, costs.copy_seconds > 0, costs.compute_seconds > 0, free_bytes // layer_bytes))
        return 2

    monkeypatch.setattr(gpu_layers, "choose_held", choose)
    path = tiny_model("qwen3")
    weights, _ = flat_of(path)
    layer = len(flatten(weights, empty).data_B)
    for budget, most in ((0, 1), (2 * layer + 1, 2), (9 * layer, 9)):
        pipeline, _ = streamed(path, budget=budget)
        assert asked.pop() == (3, True, True, most)
        plan = pipeline.shards[0]._layers.coming.plan
        assert len(plan.resident) + plan.ring == 2


def test_where_the_hosts_memory_is_short_layers_are_laid_out_for_every_step(tiny_model, streamed, wanted, caplog):
    pipeline, source = streamed(tiny_model("qwen3"), GpuOptions(host_bytes=10))
    assert pipeline.scores(SCORED, CHUNKS, 0) == wanted
    assert source.used == [1, 2, 3] * len(CHUNKS)
    shard = pipeline.shards[0]
    assert isinstance(shard._layers.coming, MadeLayers)
    assert shard.stall_seconds > source.stall_seconds and shard.brought_bytes == 77
    assert "laid out anew for every step" in caplog.text


def test_a_layer_that_cannot_be_read_is_its_files_fault(tiny_model, streamed, monkeypatch):
    @contextmanager
    def gone(self, unit):
        raise StreamError(f"{unit} cannot be read: the disk failed")
        yield

    monkeypatch.setattr(Coming, "here", gone)
    with pytest.raises(ShardFileError, match="layer-001 cannot be read"):
        streamed(tiny_model("qwen3"))


@quantized
@pytest.mark.parametrize("encoding", [None, "Q4_0", "Q6_K"])
def test_a_flat_layer_is_the_same_weights(tiny_model, tiny_gguf, encoding):
    path = tiny_gguf("qwen3", encoding, head_dim=64) if encoding else tiny_model("qwen3")
    weights, spec = flat_of(path)
    flat = flatten(weights, empty)
    again = weights_over(flat.form, flat.data_B.clone().to(DEVICE))
    x_TD = torch.randn(2, spec.hidden, device=DEVICE)
    assert torch.equal(again.attention_norm, weights.attention_norm)
    assert torch.equal(again.qk_norm_NE, weights.qk_norm_NE)
    assert again.attention_post_norm is None
    assert again.output.dtype == weights.output.dtype
    assert torch.equal(again.qkv(x_TD), weights.qkv(x_TD))


@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=40))
def test_pinned_memory_is_taken_in_few_powers_of_two(sizes):
    taken = pinned_bytes(sizes)
    assert sum(sizes) <= taken <= 2 * sum(sizes) + 2 * max(sizes)
    memory = PinnedMemory(sum(sizes), torch.device("cpu"))
    slabs = {}
    for number, size in enumerate(sizes):
        piece = memory.take(size)
        assert len(piece) == size and not piece.is_pinned()
        piece.fill_(number)
        slabs.setdefault(piece.untyped_storage().data_ptr(), []).append((number, piece))
    assert sum(pieces[0][1].untyped_storage().nbytes() for pieces in slabs.values()) == taken
    assert all((piece == number).all() for pieces in slabs.values() for number, piece in pieces)


def test_layers_of_a_usual_size_waste_little():
    layer = 150 << 20
    assert pinned_bytes([layer] * 24) < 1.2 * 24 * layer


def test_the_flag_takes_a_number_of_layers(monkeypatch, capsys):
    words = ["worker", "--node", "attic", "--cache", "/tmp", "--held-layers"]
    monkeypatch.setattr(sys, "argv", [*words, "3"])
    assert command_line._parse().held_layers == 3
    monkeypatch.setattr(sys, "argv", [*words, "0"])
    with pytest.raises(SystemExit):
        command_line._parse()
    assert "at least 1 must be there" in capsys.readouterr().err
