"""Captured decode steps against the same steps launched: on the GPU if there is one, else through the interpreter."""

import pytest
import torch

pytest.importorskip("triton")

from potluck.kernels.gpu import attention
from potluck.kernels.gpu.graphs import CudaCapture, call_again
from potluck.models.spec import LayerSpec, Rope
from potluck.proto.step import Outputs, Run, Sampling
from potluck.worker.gpu import layers as gpu_layers
from potluck.worker.gpu.places import StepPlaces
from potluck.worker.layers import Layers
from potluck.worker.windows import GpuOptions, ShardConfig

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GREEDY = Sampling(temperature=0.0, logprobs=2)
# Nats: a batch that is filled up may be added up in another order.
TOLERANCE = 1e-4
# Interpreted kernels take as long as there are heads.
FEW_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
# Rows that each sequence brings, and who leaves: prompts, decodes of 1 to 5, both; blocks go from hand to hand.
STEPS = [
    ({1: 5}, ()),
    ({1: 1, 2: 3}, ()),
    ({1: 1, 2: 1}, ()),
    ({3: 1, 1: 1, 2: 1}, ()),
    ({3: 1, 2: 1}, (1,)),
    ({3: 1, 2: 1, 4: 7}, ()),
    ({2: 1, 3: 1, 4: 1, 5: 1, 6: 1}, ()),
    ({6: 1, 4: 1, 3: 1}, (5, 2)),
    ({7: 2, 6: 1}, (3,)),
    ({7: 1}, (4, 6)),
    ({7: 1}, ()),
]


def played(pipeline):
    """Runs STEPS; per step, what each sequence drew and how likely it and the next best were."""
    positions, held, results = {}, {}, []
    for counts, leaving in STEPS:
        for sequence in leaving:
            pipeline.free += held.pop(sequence)
        runs = []
        for sequence, count in counts.items():
            position = positions.get(sequence, 0)
            tokens = [(sequence * 31 + p * 7) % 300 for p in range(position, position + count)]
            positions[sequence] = position + count
            had = held.setdefault(sequence, [])
            blocks = pipeline.blocks_for(position + count, len(had))
            had += blocks
            runs.append(Run(sequence, position, tokens, blocks, Outputs.LAST, None if position else GREEDY))
        results.append(pipeline.step(runs, leaving))
    return results


def compare(found, wanted):
    for step, expected in zip(found, wanted, strict=True):
        assert step.keys() == expected.keys()
        for sequence, outcome in step.items():
            other = expected[sequence]
            assert not outcome.error and outcome.token == other.token
            assert abs(outcome.score.logprob - other.score.logprob) < TOLERANCE


@pytest.fixture
def captures(monkeypatch):
    """Rows of every captured step, in order."""
    taken = []

    def counting(step):
        replay, out = (CudaCapture() if DEVICE.type == "cuda" else call_again)(step)
        taken.append(len(out))
        return replay, out

    monkeypatch.setattr(gpu_layers, "CudaCapture", lambda: counting)
    monkeypatch.setattr(gpu_layers, "call_again", counting)
    return taken


def test_captured_steps_give_the_same(tiny_model, in_process, captures):
    """Gemma 3 has layers with and without a window, of two ropes."""
    made = {"kernels": "gpu", "block_size": 2, "tokens": 64}
    path = tiny_model("gemma3", 2, **FEW_HEADS)
    launched = played(in_process.Pipeline(path, gpu=GpuOptions(captured=False), **made))
    assert captures == []
    compare(played(in_process.Pipeline(path, **made)), launched)
    assert captures == [2, 4, 8, 1]


def test_every_range_of_layers_is_captured_and_pieces_of_attention_are_chosen(
    tiny_model, in_process, captures, monkeypatch
):
    monkeypatch.setattr(attention, "_LEAST_SLOTS", 2)
    made = {"kernels": "gpu", "block_size": 2, "tokens": 64}
    path = tiny_model("qwen3", 3, **FEW_HEADS)
    wanted = played(in_process.Pipeline(path, block_size=2, tokens=64))
    ring = in_process.Placement((0, 1, 0), (1, 2))
    compare(played(in_process.Pipeline(path, ring, **made)), wanted)
    # Three ranges; a lone row that sees 4 slots or more is cut in two.
    assert sorted(set(captures)) == [1, 2, 4, 8] and len(captures) > 3 * 4


def test_a_row_that_fills_a_batch_up_touches_nothing(tiny_model, in_process):
    pipeline = in_process.Pipeline(tiny_model("qwen3", 2), kernels="gpu", block_size=2, tokens=16)
    [shard] = pipeline.shards.values()
    layer = shard._layers.resident[1]
    places = StepPlaces(pipeline.spec, pipeline.spec.layers, shard._config)
    x_TD, batch = places.idle()
    with torch.inference_mode():
        layer._pool_NS2KE.fill_(float("nan"))
        out_TD = layer.forward(x_TD, batch)
    assert out_TD.isfinite().all() and not x_TD.any()
    assert layer._pool_NS2KE.isnan().all()


def test_places_are_for_few_rows_and_hold_the_harmless_ones(in_process, tiny_model):
    pipeline = in_process.Pipeline(tiny_model("qwen3", 2), kernels="gpu", block_size=2, tokens=16)
    layers = [LayerSpec(Rope(1e4), None), LayerSpec(Rope(1e4), 8), LayerSpec(Rope(1e6), 8)]
    config = ShardConfig(torch.bfloat16, 9, 4, 4096, DEVICE, kernels="gpu")
    places = StepPlaces(pipeline.spec, layers, config)
    assert places.most == 64
    assert {name: len(buffer.rows) for name, buffer in places.buffers.items()} == dict.fromkeys(
        ["x", "slots", "cos0", "sin0", "cos1", "sin1", "low0", "high0", "low1", "high1", "tables"], 64
    )
    assert (places.buffers["slots"].rows == -1).all() and not places.buffers["high1"].rows.any()


@pytest.mark.parametrize(
    ("layers", "replayed"), [(range(2), True), (range(1, 2), True), (range(3), False), (range(2, 2), False)]
)
def test_only_layers_that_stay_and_are_computed_alone_are_replayed(layers, replayed):
    """Sums of a group go over the network, which no graph contains."""

    class Plus:
        def forward(self, x, batch):
            return x + 1

    class Captured:
        def takes(self, batch):
            return True

        def run(self, key, body, x, batch):
            return body(x, batch) + 100

    ran = Layers(dict.fromkeys(range(3), Plus()), None, Captured(), frozenset({0, 1})).run(layers, 0, None)
    assert ran == len(layers) + 100 * replayed
