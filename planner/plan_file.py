"""A plan as people write it, to and from plain data (what a YAML reader returns).

    model: smollm2
    dtype: bfloat16
    kv_tokens: 8192
    stages:
      - {node: desktop, parts: [embedding, layers 0-9]}
      - {node: laptop, parts: [layers 10-19]}
      - {node: desktop, parts: [layers 20-29, head]}

The general form has `routes` (each with a `purpose` and `stages`) instead of `stages`; `stage_file` says what a
stage may have instead of `node`. `docs/plan-file.md` explains every field.
"""

from __future__ import annotations

from collections.abc import Mapping

from potluck.models.sizes import ITEMSIZE
from potluck.models.spec import ModelSpec
from potluck.planner.evidence_file import alternative_data, alternatives_from, proof_data, proof_from
from potluck.planner.fields import FieldError, fields, items, one_of, table, text, whole
from potluck.planner.fleet import NodeName
from potluck.planner.plan import Plan, Purpose, Route
from potluck.planner.prediction_file import prediction_from, prediction_to_data
from potluck.planner.stage_file import stage_from, stage_to_data

_PLAN = ("model", "dtype", "kv_tokens", "stages", "routes", "predicted", "reasons", "proof", "alternatives")


def plan_from_data(data: object, spec: ModelSpec) -> Plan:
    """The plan that plain data describes for a model. Whether a fleet can run it is for `validate` to say.

    Raises:
        FieldError: anything unknown, missing or of the wrong kind; one line with the place.
    """
    top = fields(data, "the plan file", _PLAN, ("model", "dtype", "kv_tokens"))
    if ("stages" in top) == ("routes" in top):
        raise FieldError("the plan file needs either 'stages' (one route) or 'routes'")
    listed = [{"stages": top["stages"]}] if "stages" in top else items(top["routes"], "routes")
    return Plan(
        model=text(top["model"], "model"),
        dtype=one_of(top["dtype"], "dtype", ITEMSIZE),
        routes=tuple(_route(value, _route_place(number, top), spec) for number, value in enumerate(listed, 1)),
        kv_tokens=whole(top["kv_tokens"], "kv_tokens", 1),
        prediction=prediction_from(top["predicted"]) if top.get("predicted") is not None else None,
        reasons=_reasons(top.get("reasons", {})),
        proof=proof_from(top["proof"]) if top.get("proof") is not None else None,
        alternatives=alternatives_from(top["alternatives"]) if top.get("alternatives") else (),
    )


def plan_to_data(plan: Plan) -> dict[str, object]:
    """Plain data that describes a plan, in the shortest form; `plan_from_data` gives back an equal one."""
    data: dict[str, object] = {"model": plan.model, "dtype": plan.dtype, "kv_tokens": plan.kv_tokens}
    if len(plan.routes) == 1 and plan.routes[0].purpose is Purpose.SERVE:
        data |= {"stages": [stage_to_data(stage) for stage in plan.routes[0].stages]}
    else:
        data |= {"routes": [_route_data(route) for route in plan.routes]}
    if plan.prediction is not None:
        data["predicted"] = prediction_to_data(plan.prediction)
    if plan.reasons:
        data["reasons"] = {str(node): reason for node, reason in plan.reasons.items()}
    if plan.proof is not None:
        data["proof"] = proof_data(plan.proof)
    if plan.alternatives:
        data["alternatives"] = [alternative_data(one) for one in plan.alternatives]
    return data


def _route_place(number: int, top: Mapping[str, object]) -> str:
    return "" if "stages" in top else f"route {number}, "


def _route(value: object, where: str, spec: ModelSpec) -> Route:
    data = fields(value, where.rstrip(", ") or "the plan file", ("purpose", "stages"), ("stages",))
    purpose = one_of(data.get("purpose", Purpose.SERVE.value), f"{where}purpose", list(Purpose))
    stages = items(data["stages"], f"{where}stages")
    return Route(
        stages=tuple(stage_from(stage, f"{where}stage {number}", spec) for number, stage in enumerate(stages, 1)),
        purpose=Purpose(purpose),
    )


def _reasons(value: object) -> dict[NodeName, str]:
    return {NodeName(name): text(reason, f"reasons: {name}") for name, reason in table(value, "reasons").items()}


def _route_data(route: Route) -> dict[str, object]:
    return {"purpose": route.purpose.value, "stages": [stage_to_data(stage) for stage in route.stages]}
