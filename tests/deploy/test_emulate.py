"""The arithmetic of emulated fleets: ratios stay true whatever the machine."""

import json

import pytest

from potluck.deploy.emulate import Machine, emulate, time_scale
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName


def fleet(*gflops: float, latency: float = 1e-3, bandwidth: float = 1e8) -> Fleet:
    nodes = tuple(Node(NodeName(f"n{i}"), (Device("cpu", speed * 1e9, 1e10, 2**30),)) for i, speed in enumerate(gflops))
    return Fleet(nodes, nodes[0].name, Link(latency, bandwidth))


def test_slow_nodes_run_in_real_time() -> None:
    machine = Machine(core_flops=100e9, cores=2)
    small = fleet(50, 25)
    assert time_scale(small, machine) == 1.0
    assert [e.slow_down for e in emulate(small, machine).values()] == [2.0, 4.0]


def test_a_node_faster_than_a_core_stretches_time() -> None:
    machine = Machine(core_flops=100e9, cores=4)
    assert time_scale(fleet(300, 50), machine) == 3.0


def test_more_work_than_cores_stretches_time() -> None:
    machine = Machine(core_flops=100e9, cores=2)
    assert time_scale(fleet(100, 100, 100, 100), machine) == 2.0


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_ratios_between_compute_and_links_are_the_description(cores: int) -> None:
    machine, home = Machine(core_flops=80e9, cores=cores), fleet(120, 40, 10)
    scale = time_scale(home, machine)
    for node in home.nodes:
        emulation = emulate(home, machine)[node.name]
        second_of_work = emulation.slow_down * node.device.flops / machine.core_flops
        assert second_of_work == pytest.approx(scale)
        for latency, bandwidth in emulation.links.values():
            assert (latency / scale, bandwidth * scale) == pytest.approx((1e-3, 1e8))


def test_the_flag_is_json_the_worker_reads() -> None:
    emulation = emulate(fleet(50, 25), Machine(100e9, 2))[NodeName("n1")]
    assert json.loads(emulation.to_json()) == {"slow_down": 4.0, "links": {"n0": [1e-3, 1e8]}, "disk": 0.0}
