"""A plan with its predictions, as plain data for --json."""

from __future__ import annotations

from potluck.deploy.holdings import holdings
from potluck.planner.fleet import Fleet
from potluck.planner.plan import Plan
from potluck.planner.plan_file import plan_to_data


def plan_report(plan: Plan, fleet: Fleet) -> dict[str, object]:
    """The plan as its file has it, and per node what it holds, how many bytes, and why."""
    prediction, held = plan.prediction, holdings(plan)
    report: dict[str, object] = {"fleet": fleet.name, "engine": fleet.engine, "plan": plan_to_data(plan)}
    report["nodes"] = {
        node.name: {
            "holds": held.get(node.name, ""),
            "weight_bytes": prediction.weight_bytes.get(node.name, 0) if prediction else None,
            "kv_bytes": prediction.kv_bytes.get(node.name, 0) if prediction else None,
            "memory": node.device.memory,
            "why": plan.reasons.get(node.name, ""),
        }
        for node in fleet.nodes
    }
    if prediction:
        report["predicted"] = {
            "time_to_first_token": prediction.time_to_first_token,
            "time_per_token": prediction.time_per_token,
        }
    return report
