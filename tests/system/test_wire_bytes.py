"""What the links count is what the plan says must cross them, and what the kernel counts."""

from pathlib import Path

import pytest

from potluck.planner.transfers import payload_bytes
from potluck.proto.step import Outputs

LOOPBACK = Path("/sys/class/net/lo/statistics/tx_bytes")


def payloads(rig):
    """Payload bytes all workers sent to other workers so far. (Answers to the engine carry no tensor.)"""
    return sum(link.payload_bytes for status in rig.callers.statuses(rig.plan.nodes) for link in status.links)


def mixed(step):
    """Whether a step has both a prompt's chunk that samples nothing and rows that are sampled."""
    return {Outputs.NONE, Outputs.LAST} <= {run.outputs for run in step.runs}


@pytest.mark.parametrize(
    ("nodes", "rounds", "dtype", "itemsize", "head"),
    [(3, 1, "float32", 4, "home"), (3, 2, "bfloat16", 2, "home"), (3, 2, "float32", 4, "last")],
)
def test_payload_bytes_are_the_formula(rig, tools, tiny_model, nodes, rounds, dtype, itemsize, head):
    files = tools.files_of(tiny_model("qwen3", 7))
    plan = rig.plan_for(files, nodes, rounds, dtype, head=head)
    engine = rig.serve(files, plan)
    before = payloads(rig)
    tools.texts(engine, [tools.ask([5] * length, 10) for length in (150, 4, 90, 33)])
    steps = rig.scheduler.steps
    assert any(mixed(step) for step in steps)
    route = plan.routes[0]
    assert payloads(rig) - before == sum(payload_bytes(route, step, files.spec.hidden, itemsize) for step in steps)


def test_each_step_sends_its_rows_across_each_boundary(rig, tools, tiny_model):
    """A lone prompt of 150 tokens in chunks of 64, then 9 single tokens; counted by hand."""
    files = tools.files_of(tiny_model("qwen3", 5))
    engine = rig.serve(files, rig.plan_for(files, 3))
    before = payloads(rig)
    tools.texts(engine, [tools.ask([5] * 150, 10)])
    # Two boundaries between layers, and the one before the head, which only the 10 sampled rows cross.
    assert payloads(rig) - before == (2 * (150 + 9) + 10) * files.spec.hidden * 4


def test_the_kernel_counts_the_same_on_large_frames(rig, tools, tiny_model):
    if not LOOPBACK.exists():
        pytest.skip("this system does not count the bytes of its loopback interface")
    files = tools.files_of(tiny_model("llama3", 5, hidden_size=1024))
    engine = rig.serve(files, rig.plan_for(files, 3), max_rows=1024)
    prompt = [5] * 1900
    tools.texts(engine, [tools.ask(prompt[:8], 2)])
    counted, sent = payloads(rig), int(LOOPBACK.read_text())
    tools.texts(engine, [tools.ask(prompt, 1)])
    sent = int(LOOPBACK.read_text()) - sent
    counted = payloads(rig) - counted
    assert counted > 10_000_000
    assert abs(sent - counted) < 0.1 * counted
