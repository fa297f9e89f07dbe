"""What is served by whom, and how it goes: plain data for `/status`. Seconds, bytes, fractions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from potluck.coordinator.accuracy import Comparison
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.in_force import InForce
from potluck.coordinator.remeasure import Outcome
from potluck.coordinator.review import Remeasured, Review
from potluck.planner.fleet import Node
from potluck.planner.plan import Plan
from potluck.planner.stage_file import stage_to_data

_FIGURES = ("stall_seconds", "resident_bytes")


def deployment_report(epoch: int, force: InForce | None, review: Review, engine: ServingEngine) -> dict[str, Any]:
    """What the deployment knows beyond the engine's queue; without a plan in force nothing but the epoch."""
    if force is None:
        return {"epoch": epoch, "nodes": []}
    shown = {node.node: asdict(node) for node in engine.status().nodes}
    figures = engine.steps.node_figures()
    return {
        "epoch": epoch,
        "fleet": force.fleet.name,
        "described": force.described,
        "time_scale": force.scale,
        "stages": list(_stages(force.plan)),
        "nodes": [_node(node, force, shown, figures) for node in force.fleet.nodes],
        "predicted": dict(review.predicted),
        "accuracy": comparison_report(review.comparison),
        "remeasured": remeasured_report(review.remeasured),
    }


def comparison_report(comparison: Comparison) -> dict[str, Any]:
    """Every figure with its prediction; figures that nothing was measured of are missing."""
    rate = {"tokens_per_second": comparison.rate} if comparison.rate else {}
    stages = [{"stage": stage, "node": node, **asdict(one)} for (stage, node), one in comparison.stages.items()]
    return {name: asdict(figure) for name, figure in {**comparison.figures, **rate}.items()} | {"stages": stages}


def remeasured_report(remeasured: Remeasured | None) -> dict[str, Any] | None:
    """Why nodes were measured again, and what that found (`outcome` is null while it goes on)."""
    if remeasured is None:
        return None
    outcome = outcome_report(remeasured.outcome) if remeasured.outcome else None
    return {"cause": remeasured.cause, **asdict(remeasured.figure), "outcome": outcome}


def outcome_report(outcome: Outcome) -> dict[str, Any]:
    """What measuring found; `gain` is what a better plan saves of the objective, 0 where there is none."""
    return {
        "explained": outcome.explained,
        "departures": [asdict(departure) for departure in outcome.departures],
        "gain": outcome.gain,
        "failure": outcome.failure,
    }


def _stages(plan: Plan) -> Iterator[dict[str, object]]:
    """Every stage as a plan file has it; of several routes with the number of its own."""
    for number, route in enumerate(plan.routes, 1):
        of = {"route": number} if len(plan.routes) > 1 else {}
        yield from ({**of, **stage_to_data(stage)} for stage in route.stages)


def _node(
    node: Node, force: InForce, shown: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    prediction = force.plan.prediction
    data = {
        "node": node.name,
        "device": node.device.name or node.device.kind,
        "requests_arrive": node.name == force.fleet.engine,
        "weight_bytes": prediction.weight_bytes.get(node.name, 0) if prediction else 0,
        "kv_bytes": prediction.kv_bytes.get(node.name, 0) if prediction else 0,
        "memory": node.device.memory,
    }
    data |= {kind: figures.get(node.name, {}).get(kind, 0) for kind in _FIGURES}
    return data | {kind: shown.get(node.name, {}).get(kind, 0.0) for kind in ("compute", "wait", "transfer", "sums")}
