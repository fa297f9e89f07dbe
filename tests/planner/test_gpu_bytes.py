"""Plans for GPUs count the bytes that weights take there."""

from dataclasses import replace

import pytest
import torch

from potluck.models.costs import Pass, seconds
from potluck.models.encodings import GROUPED, PACKED
from potluck.models.roles import keys_of, shape_of
from potluck.models.sizes import layer_parts, weight_bytes
from potluck.planner.goal import Goal
from potluck.planner.memory import NODE_OVERHEAD, node_bytes
from potluck.planner.offers import Request
from potluck.planner.solve import DoesNotFit, solve
from potluck.planner.validate import PlanError, validate
from potluck.worker.shard import ShardConfig, Window
from potluck.worker.shard_memory import ShardMemory

pytest.importorskip("triton")
MATRICES = 2 * 7 + 2  # of two layers, the embedding and the head


def quantised(homes, encoding, layers=2):
    """A model 256 wide whose layers and embedding are kept in a format."""
    spec = homes.model(layers, hidden=256, ffn=256, heads=4, kv_heads=2, head_dim=64, vocab=330)
    keys = [str(key) for part in spec.parts() for key in _matrices(spec, part)]
    return replace(spec, encodings=dict.fromkeys(keys, encoding))


def _matrices(spec, part):
    return [key for key in keys_of(spec, part) if len(shape_of(spec, key.role)) == 2]


def with_gpu(node):
    return replace(node, devices=(replace(node.device, kind="cuda"),))


def whole(homes, name="a"):
    return homes.stage(name, homes.EMBEDDING, range(2), homes.HEAD)


@pytest.mark.parametrize("encoding", [*GROUPED, None])
@pytest.mark.parametrize("dtype", ["weight-only", "float32"])
def test_planned_bytes_are_those_that_a_gpus_worker_allocates(homes, encoding, dtype):
    spec = quantised(homes, encoding) if encoding else homes.model(2, hidden=72, vocab=330)
    exact, kept = dtype == "float32", dtype == "weight-only"
    config = ShardConfig(torch.float32 if exact else torch.bfloat16, 3, 16, 8, torch.device("cpu"), kept, kernels="gpu")
    memory = ShardMemory(spec, (Window(0, True, range(2), True),), config)
    weights, kv = memory.weights, memory.kv
    # The order of a matrix's columns, 8 bytes each, is not there for every matrix and left out of plans.
    orders = 8 * 256 * MATRICES if kept and encoding and encoding.startswith("INT") else 0
    plan = homes.plan(whole(homes), dtype=dtype, kv_tokens=48)
    planned = node_bytes(plan, spec, {"a": "cuda"})["a"]
    assert (planned.weights, planned.kv) == (weights - orders, kv)


def test_on_a_gpu_a_format_of_six_bits_takes_twelve(homes):
    spec = quantised(homes, "Q6_K")
    cpu, gpu = (weight_bytes(spec, layer_parts([0]), "quantized", kind) for kind in ("cpu", "cuda"))
    norms = 2 * 4 * 256
    assert (gpu - norms) / (cpu - norms) == GROUPED["Q6_K"] / PACKED["Q6_K"]
    device = homes.node("a").device
    work = Pass(1, 1, 1)
    times = [seconds(spec, layer_parts([0]), work, (replace(device, kind=k), "quantized")) for k in ("cpu", "cuda")]
    assert times[1] > 1.7 * times[0]


def test_a_gpu_is_given_the_layers_that_fit_it_and_a_plan_shows_its_bytes(homes):
    spec, goal = quantised(homes, "Q6_K", 8), Goal(kv_tokens=64, dtype="quantized", streaming=False)
    request = Request(spec, goal)
    memory = NODE_OVERHEAD + request.ends_bytes + 8 * request.layer_bytes
    on_cpu = homes.node("attic", memory=memory)
    assert solve(homes.fleet(on_cpu), spec, goal).nodes == ("attic",)
    with pytest.raises(DoesNotFit):
        solve(homes.fleet(with_gpu(on_cpu)), spec, goal)
    home = homes.fleet(with_gpu(on_cpu), homes.node("cellar", gflops=1.0, memory=memory))
    plan = solve(home, spec, goal)
    layers = {stage.node: len(stage.layers) for stage in plan.routes[0].stages}
    assert layers["cellar"] > 0
    sizes = node_bytes(plan, spec, home.kinds)
    assert plan.prediction.weight_bytes["attic"] == sizes["attic"].weights > node_bytes(plan, spec)["attic"].weights
    assert all(size.total <= memory for size in sizes.values())


def test_a_plan_by_hand_that_a_gpu_does_not_hold_is_refused(homes):
    spec = quantised(homes, "Q5_0")
    plan = homes.plan(whole(homes), dtype="quantized")
    fits = homes.node("a", memory=node_bytes(plan, spec)["a"].total)
    validate(plan, homes.fleet(fits), spec)
    with pytest.raises(PlanError, match="needs"):
        validate(plan, homes.fleet(with_gpu(fits)), spec)
