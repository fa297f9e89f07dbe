"""Where the time of a token goes, as printed and drawn: it adds up to what is predicted."""

from dataclasses import replace

import pytest

from potluck.deploy.answer import answer_of
from potluck.deploy.fleet_files import read_fleet
from potluck.deploy.token_time import Work, bottleneck, seconds_by, token_spans
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
    "pipeline": lambda: answer("HuggingFaceTB/SmolLM2-135M", "trio"),
    "ring": lambda: answer("Qwen/Qwen3-8B", "home", "int4", rounds=3, context=4000),
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
    assert [span.stage for span in spans if span.work is Work.COMPUTE] == list(range(len(found.stages)))
    assert sum(seconds_by(spans).values()) == pytest.approx(now)
    what, seconds = bottleneck(spans)
    assert what and 0 < seconds <= now * (1 + 1e-9)


def test_a_model_larger_than_memory_waits_for_the_slowest_disk():
    found = ANSWERS["streamed"]()
    spans = token_spans(found)
    assert [span.work for span in spans].count(Work.DISK) == 1 and spans[-1].work is Work.DISK
    assert bottleneck(spans)[0] == f"the disk of {spans[-1].node}"
    slowest = max(found.reading_seconds.values())
    assert slowest == found.reading_seconds[spans[-1].node] == pytest.approx(found.prediction.time_per_token)


def test_a_prediction_made_for_another_fleet_draws_no_negative_time():
    found = ANSWERS["pipeline"]()
    hasty = replace(found, prediction=replace(found.prediction, time_per_token=1e-6))
    assert all(span.seconds > 0 for span in token_spans(hasty))
