"""Who holds what, in words."""

import io

from rich.console import Console

from potluck.deploy.holdings import holdings
from potluck.deploy.plan_data import plan_report
from potluck.deploy.tables import plan_table
from potluck.models.spec import LayerSpec, ModelSpec, Rope
from potluck.planner.executable import executable_stages
from potluck.planner.fleet import Device, Fleet, Link, Node
from potluck.planner.goal import Goal
from potluck.planner.plan_file import plan_from_data
from potluck.planner.predict import predict
from potluck.planner.validate import validate

SPEC = ModelSpec("tiny", "llama", (LayerSpec(Rope(10000.0)),) * 8, 320, 64, 96, 4, 2, 16, 512, 1e-5, 0.25)
NODES = ("attic", "hall", "nas")
PLAN = plan_from_data(
    {
        "model": "tiny",
        "dtype": "float32",
        "kv_tokens": 64,
        "stages": [
            {"node": "attic", "parts": ["embedding", "layer 0"]},
            {"parts": "layers 1-7", "nodes": list(NODES), "split": [2, 1, 1], "residency": "streamed", "window": 2},
            {"parts": "head", "nodes": ["hall", "nas"], "split": [1, 1]},
        ],
    },
    SPEC,
)


def test_groups_in_words():
    assert holdings(PLAN) == {
        "attic": "embedding, layer 0 | layers 1-7 (2 of 4 heads, 32 of 96 FFN columns) from disk, 2 at a time",
        "hall": "layers 1-7 (1 of 4 heads, 32 of 96 FFN columns) from disk, 2 at a time"
        " | head (160 of 320 vocabulary rows)",
        "nas": "layers 1-7 (1 of 4 heads, 32 of 96 FFN columns) from disk, 2 at a time"
        " | head (160 of 320 vocabulary rows)",
    }


def test_a_plan_with_groups_is_checked_predicted_and_printed():
    fleet = Fleet(
        tuple(Node(name, (Device("cpu", 1e9, 1e9, 1 << 30),), 1e8) for name in NODES), "attic", Link(1e-3, 1e8)
    )
    validate(PLAN, fleet, SPEC)
    assert len(executable_stages(PLAN)) == 3
    prediction = predict(PLAN, fleet, SPEC, Goal())
    assert 14 * 1e-3 < prediction.time_per_token < 1
    console = Console(file=io.StringIO(), width=200)
    console.print(plan_table(PLAN, fleet))
    shown = console.file.getvalue()
    assert "3 stages, 2 split among nodes" in shown and "2 of 4 heads" in shown
    assert plan_report(PLAN, fleet)["nodes"]["nas"]["holds"] == holdings(PLAN)["nas"]


def test_many_windows_are_summed_up():
    stages = [{"node": "attic", "parts": ["embedding", "layer 0"]}]
    for layer in range(1, 8):
        residency = {"residency": "streamed"} if layer % 2 else {}
        stages.append({"node": "attic", "parts": [f"layer {layer}"], **residency})
    stages.append({"node": "hall", "parts": ["head"]})
    plan = plan_from_data({"model": "tiny", "dtype": "float32", "kv_tokens": 64, "stages": stages}, SPEC)
    assert holdings(plan) == {"attic": "embedding, 8 layers in 8 windows, 4 of them from disk", "hall": "head"}
