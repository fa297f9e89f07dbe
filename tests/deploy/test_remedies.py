"""What would help where a model does not fit: it is tried before it is told."""

from dataclasses import replace

import pytest

from potluck.deploy.fleet_files import read_catalogue, read_fleet
from potluck.deploy.remedies import missing_bytes, solved
from potluck.models.quantize import with_quantization
from potluck.models.shipped import shipped_spec
from potluck.planner.goal import Goal
from potluck.planner.solve import DoesNotFit, solve
from potluck.planner.what_if import with_machine

GIB = 2**30


def refused(fleet, spec, goal):
    with pytest.raises(DoesNotFit) as error:
        solved(fleet, spec, goal)
    assert "\n" not in str(error.value)
    return str(error.value)


def without_disks(name):
    fleet = read_fleet(name)
    return replace(fleet, nodes=tuple(replace(node, disk_bandwidth=0.0) for node in fleet.nodes))


def test_what_fits_is_solved():
    fleet, spec, goal = read_fleet("trio"), shipped_spec("Qwen/Qwen3-0.6B"), Goal(dtype="bfloat16")
    assert solved(fleet, spec, goal) == solve(fleet, spec, goal)


def test_what_costs_nothing_is_named_first():
    spec, goal = shipped_spec("Qwen/Qwen2.5-7B-Instruct"), Goal(dtype="bfloat16", streaming=False)
    assert "; enough is: leave out --no-streaming, at " in refused(read_fleet("trio"), spec, goal)


def test_fewer_bits_come_before_a_machine():
    fleet, spec = without_disks("m1-16gb"), shipped_spec("Qwen/Qwen3-8B")
    said = refused(fleet, spec, Goal(dtype="bfloat16", kv_tokens=2048))
    assert said.endswith("enough is: --quantize int8") and "are missing" in said


def test_a_machine_of_the_catalogue_that_is_enough_is_named():
    spec, goal = with_quantization(shipped_spec("Qwen/Qwen3-32B"), "int4"), Goal(dtype="quantized", streaming=False)
    goal = replace(goal, kv_tokens=2048)
    fleet = without_disks("rtx3060-12gb")
    machine = refused(fleet, spec, goal).rpartition("enough is: --add ")[2]
    larger = with_machine(fleet, machine, read_catalogue())
    assert solve(larger, spec, goal)
    assert larger.nodes[-1].device.memory > missing_bytes(fleet, spec, goal) > 8 * GIB


def test_where_nothing_is_enough_nothing_is_promised():
    """Nobody's catalogue has a machine for this; a pinned node that is too small is not helped by another one."""
    fleet, spec = read_fleet("trio"), with_quantization(shipped_spec("Qwen/Qwen2.5-72B-Instruct"), "int4")
    small = replace(fleet, nodes=tuple(_with_memory(node, GIB // 4) for node in fleet.nodes))
    goal = Goal(dtype="quantized", kv_tokens=2048, streaming=False, pinned=frozenset({"laptop"}))
    assert "enough is" not in refused(small, spec, goal)


def _with_memory(node, memory):
    return replace(node, devices=tuple(replace(device, memory=memory) for device in node.devices))
