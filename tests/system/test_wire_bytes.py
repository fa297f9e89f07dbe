"""What the links count is what the plan says must cross them, and what the kernel counts."""

from pathlib import Path

import pytest

from potluck.planner.transfers import payload_bytes
from potluck.proto.step import Outputs, Run, Step

LOOPBACK = Path("/sys/class/net/lo/statistics/tx_bytes")


def payloads(rig):
    """Payload bytes all workers sent to other workers so far. (Answers to the engine carry no tensor.)"""
    return sum(link.payload_bytes for status in rig.callers.statuses(rig.plan.nodes) for link in status.links)


def frames(rig):
    return sum(link.frames for status in rig.callers.statuses(rig.plan.nodes) for link in status.links)


def steps_of(prompt, tokens, chunk):
    """The steps of one lone request: prefill chunks, then decodes."""
    for start in range(0, prompt, chunk):
        rows = min(chunk, prompt - start)
        last = start + rows == prompt
        yield Step(1, [Run(1, start, [0] * rows, [], Outputs.LAST if last else Outputs.NONE)])
    for place in range(tokens - 1):
        yield Step(1, [Run(1, prompt + place, [0], [], Outputs.LAST)])


@pytest.mark.parametrize(("nodes", "rounds", "dtype", "itemsize"), [(3, 1, "float32", 4), (3, 2, "bfloat16", 2)])
def test_payload_bytes_are_the_formula(rig, tools, tiny_model, nodes, rounds, dtype, itemsize):
    files = tools.files_of(tiny_model("qwen3", 5))
    plan = rig.plan_for(files, nodes, rounds, dtype)
    engine = rig.serve(files, plan, max_rows=64 * nodes)
    before = payloads(rig)
    tools.texts(engine, [tools.ask([5] * 150, 10)])
    expected = sum(payload_bytes(plan.routes[0], step, files.spec.hidden, itemsize) for step in steps_of(150, 10, 64))
    assert payloads(rig) - before == expected


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
