"""A plan with its predictions, as plain data for --json. Seconds, bytes, and bytes per second."""

from __future__ import annotations

from potluck.deploy.answer import Answer
from potluck.deploy.goal_figure import compared
from potluck.deploy.holdings import holdings
from potluck.deploy.token_time import Span, seconds_by, token_spans
from potluck.planner.fleet import Fleet, Node
from potluck.planner.fleet_file import fleet_to_data
from potluck.planner.memory import NodeBytes
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


def answer_report(answer: Answer) -> dict[str, object]:
    """What `cluster plan --json` prints: the report, the model, the fleet planned for, and the way of a token."""
    report = plan_report(answer.plan, answer.fleet)
    report["model"] = {
        "name": answer.plan.model,
        "origin": answer.origin,
        "parameters": answer.parameters,
        "layers": len(answer.spec.layers),
    }
    report["nodes"] = {node.name: _node_report(answer, node) for node in answer.fleet.nodes}
    report["fleet_file"] = fleet_to_data(answer.fleet)
    report["goal"] = answer.goal.aim
    report["compared"] = compared(answer)
    report["predicted"] = {
        "prompt": answer.goal.prompt,
        "context": answer.goal.context,
        "batch": answer.goal.batch,
        "time_to_first_token": answer.prediction.time_to_first_token,
        "time_per_token": answer.prediction.time_per_token,
        "tokens_per_second": answer.prediction.tokens_per_second,
        "seconds_by_work": seconds_by(answer),
        "bottleneck": answer.prediction.bottleneck,
    }
    report["token"] = [_span_report(span) for span in token_spans(answer)]
    return report


def _node_report(answer: Answer, node: Node) -> dict[str, object]:
    size = answer.sizes.get(node.name, NodeBytes(0, 0))
    used = node.name in answer.plan.nodes
    return {
        "holds": holdings(answer.plan).get(node.name, ""),
        "device": node.device.name or node.device.kind,
        "weight_bytes": size.weights,
        "streamed_bytes": size.streamed,
        "kv_bytes": size.kv,
        "needed_bytes": size.total if used else 0,
        "memory": node.device.memory,
        "why": answer.plan.reasons.get(node.name, ""),
    }


def _span_report(span: Span) -> dict[str, object]:
    data: dict[str, object] = {"work": span.work, "node": span.node}
    if span.work == "transfer":
        data["to"] = span.to
    return data | {"stage": span.stage, "start": span.start, "seconds": span.seconds}
