"""The arithmetic of emulated fleets: ratios stay true whatever the machine."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.deploy.emulate import Machine, emulate, stretched, time_scale
from potluck.models.costs import FormatSpeed
from potluck.models.quantize import with_quantization
from potluck.models.spec import LayerSpec, ModelSpec, Rope
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.goal import Goal
from potluck.planner.predict import predict
from potluck.planner.software import NONE
from potluck.planner.solve import solve
from potluck.worker.emulation import read_emulation

SPEC = ModelSpec(
    *("tiny", "llama", (LayerSpec(Rope(1e4), None),) * 4),
    *(3200, 640, 960, 4, 2, 160, 512),
    norm_eps=1e-5,
    attention_scale=0.25,
)
MODEL = SPEC, "float32"


def fleet(*speeds: tuple[float, float], latency: float = 1e-3, bandwidth: float = 1e8) -> Fleet:
    """Nodes of so many (GFLOPS, GB/s)."""
    nodes = tuple(
        Node(NodeName(f"n{i}"), (Device("cpu", flops * 1e9, memory * 1e9, 2**30),), disk_bandwidth=1e9)
        for i, (flops, memory) in enumerate(speeds)
    )
    return Fleet(nodes, nodes[0].name, Link(latency, bandwidth))


def test_slow_nodes_run_in_real_time() -> None:
    machine = Machine(flops=100e9, memory_bandwidth=20e9, cores=2)
    assert time_scale(fleet((50, 10), (25, 5)), machine, MODEL, 256) == 1.0


@pytest.mark.parametrize("speeds", [(300, 20), (100, 60)])
def test_a_node_faster_than_a_core_stretches_time(speeds: tuple[float, float]) -> None:
    machine = Machine(flops=100e9, memory_bandwidth=20e9, cores=4)
    # What passes through memory between products is stretched with memory alone.
    assert time_scale(fleet(speeds, (5, 1)), machine, MODEL, 256) == pytest.approx(3 * 1.1, rel=0.1)


def test_more_work_than_cores_stretches_time() -> None:
    machine = Machine(flops=100e9, memory_bandwidth=20e9, cores=2)
    assert time_scale(fleet(*[(100, 20)] * 4), machine, MODEL, 256) == pytest.approx(2 * 1.1)


def test_a_format_that_is_slow_here_stretches_time() -> None:
    spec = with_quantization(SPEC, "int4")
    machine = Machine(100e9, 20e9, 4, {name: FormatSpeed(100e9, 4e9) for name in spec.encodings.values()})
    assert time_scale(fleet((50, 10)), machine, (spec, "bfloat16"), 8) == 1.0
    assert time_scale(fleet((50, 10)), machine, (spec, "quantized"), 8) == pytest.approx(10 / 4 * 1.1, rel=0.04)


@given(st.floats(1, 50), st.sampled_from(["float32", "bfloat16"]), st.integers(1, 400))
def test_predictions_of_the_stretched_fleet_are_stretched(scale: float, dtype: str, prompt: int) -> None:
    home = fleet((60, 20), (30, 10), (15, 5))
    goal = Goal(dtype=dtype, kv_tokens=512, prompt=prompt, context=prompt + 100, software=NONE)
    plan = solve(home, SPEC, goal)
    one, other = (predict(plan, where, SPEC, goal) for where in (home, stretched(home, scale)))
    assert other.time_per_token == pytest.approx(one.time_per_token * scale)
    assert other.time_to_first_token == pytest.approx(one.time_to_first_token * scale)


def test_the_flag_is_what_the_worker_reads() -> None:
    home = fleet((50, 10), (25, 5))
    node = replace(home.nodes[1].devices[0], formats={"Q4_0": FormatSpeed(3e10, 4e9)})
    home = replace(home, nodes=(home.nodes[0], replace(home.nodes[1], devices=(node,))))
    text = emulate(home, 2.0)[NodeName("n1")].to_json()
    read = read_emulation(text)
    assert read.device is not None
    assert (read.device.flops, read.device.memory_bandwidth, read.disk) == (12.5e9, 2.5e9, 5e8)
    assert read.device.formats == {"Q4_0": FormatSpeed(1.5e10, 2e9)}
    assert (read.link("n0").latency, read.link("n0").bandwidth) == (2e-3, 5e7)
    assert json.loads(text)["device"]["kind"] == "cpu"
