"""Where the time of a token goes, as printed and drawn: it adds up to what is predicted."""

import pytest

from potluck.deploy.answer import answer_of
from potluck.deploy.fleet_files import read_fleet
from potluck.deploy.token_time import seconds_by, token_spans
from potluck.models.quantize import with_quantization
from potluck.models.shipped import shipped_spec
from potluck.planner.goal import Goal
from potluck.planner.plan_file import plan_from_data
from potluck.planner.solve import solve

GROUPS = {
    "model": "tiny",
    "dtype": "bfloat16",
    "kv_tokens": 64,
    "stages": [
        {"node": "desktop", "parts": ["embedding", "layers 0-3"]},
        {"parts": "layers 4-14", "nodes": ["desktop", "laptop"], "split": [2, 1]},
        {"parts": ["layers 15-29", "head"], "nodes": ["laptop", "mini-pc"], "split": [1, 1]},
    ],
}


def answer(model, fleet, bits="none", **goal):
    spec, fleet = with_quantization(shipped_spec(model), bits), read_fleet(fleet)
    goal = Goal(dtype="bfloat16" if bits == "none" else "quantized", **goal)
    return answer_of(solve(fleet, spec, goal), fleet, spec, goal)


def of_groups():
    fleet, spec = read_fleet("trio"), shipped_spec("HuggingFaceTB/SmolLM2-135M")
    return answer_of(plan_from_data(GROUPS, spec), fleet, spec, Goal(dtype="bfloat16"))


ANSWERS = {
    "alone": lambda: answer("HuggingFaceTB/SmolLM2-135M", "m4-16gb"),
    "pipeline": lambda: answer("HuggingFaceTB/SmolLM2-135M", "trio", spread="all"),
    "ring": lambda: answer("Qwen/Qwen3-8B", "home", "int4", rounds=3, context=4000, spread="all"),
    "streamed": lambda: answer("Qwen/Qwen2.5-14B-Instruct", "trio"),
    "groups": of_groups,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_spans_follow_each_other_and_end_at_the_prediction(name):
    found = ANSWERS[name]()
    spans, now = token_spans(found), 0.0
    for span in spans:
        assert span.start == pytest.approx(now) and span.seconds > 0
        now += span.seconds
    assert now == pytest.approx(found.prediction.time_per_token)
    assert [span.stage for span in spans] == sorted(span.stage for span in spans)
    assert {span.stage for span in spans if span.work == "memory"} >= {0}
    assert sum(seconds_by(found).values()) == pytest.approx(now)
    assert {span.work for span in spans} == set(seconds_by(found))


def test_transfers_are_those_of_the_links():
    found = ANSWERS["pipeline"]()
    hops = [span for span in token_spans(found) if span.work == "transfer"]
    assert [span.node for span in hops[1:]] == [span.to for span in hops[:-1]]
    assert hops[-1].to == found.fleet.engine
    assert all(span.seconds >= found.fleet.link(span.node, span.to).latency for span in hops)


def test_a_model_larger_than_memory_waits_for_disks():
    assert seconds_by(ANSWERS["streamed"]())["disk"] > 0
    assert "disk" not in seconds_by(ANSWERS["pipeline"]())
