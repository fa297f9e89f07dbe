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

from collections.abc import Iterator, Mapping

from potluck.models.sizes import ITEMSIZE
from potluck.models.spec import ModelSpec
from potluck.planner.evidence_file import alternative_data, alternatives_from, proof_data, proof_from
from potluck.planner.fields import FieldError, fields, items, one_of, table, text, whole
from potluck.planner.fleet import NodeName
from potluck.planner.place import Place, line_of
from potluck.planner.plan import Plan, Purpose, Route, Stage
from potluck.planner.plan_error import Spot
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
    return Plan(
        model=text(top["model"], _at(top, "model")),
        dtype=one_of(top["dtype"], _at(top, "dtype"), ITEMSIZE),
        routes=tuple(_routes(top, spec)),
        kv_tokens=whole(top["kv_tokens"], _at(top, "kv_tokens"), 1),
        prediction=prediction_from(top["predicted"]) if top.get("predicted") is not None else None,
        reasons=_reasons(top.get("reasons", {})),
        proof=proof_from(top["proof"]) if top.get("proof") is not None else None,
        alternatives=alternatives_from(top["alternatives"]) if top.get("alternatives") else (),
    )


def line_at(data: object, spot: Spot) -> int:
    """The line of a spot in the data that a plan was read from; 0 where none is known.

    It is that of the spot's field, or else where its share, stage or route begins.
    """
    several = isinstance(data, Mapping) and "routes" in data
    route = _entry(data, "routes", spot.route) if several else data
    stage = _entry(route, "stages", spot.stage)
    share = _entry(stage, "shares", spot.share)
    named = (line_of(one, spot.key) for one in (share, stage, route))
    begins = (Place("").entry(one, "").line for one in (share, stage, route if several else None))
    return next((line for line in (*named, *begins) if line), 0)


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


def _at(table: object, key: str) -> Place:
    """The place of a field of the whole file."""
    return Place("").under(table, key, key)


def _entry(table: object, key: str, number: int) -> object:
    """An entry of the list that a table has under a key, counted from 1; None where there is none."""
    listed = table.get(key) if isinstance(table, Mapping) else None
    return listed[number - 1] if isinstance(listed, list) and 0 < number <= len(listed) else None


def _routes(top: Mapping[str, object], spec: ModelSpec) -> Iterator[Route]:
    if "stages" in top:
        yield Route(tuple(_stages(top, Place(""), spec)))
        return
    place = _at(top, "routes")
    for number, value in enumerate(items(top["routes"], place), 1):
        where = place.entry(value, f"route {number}")
        data = fields(value, where, ("purpose", "stages"), ("stages",))
        asked = data.get("purpose", Purpose.SERVE.value)
        purpose = Purpose(one_of(asked, where.under(data, "purpose", f"{where.name}, purpose"), list(Purpose)))
        yield Route(tuple(_stages(data, where, spec)), purpose)


def _stages(data: Mapping[str, object], where: Place, spec: ModelSpec) -> Iterator[Stage]:
    before = f"{where.name}, " if where.name else ""
    place = where.under(data, "stages", f"{before}stages")
    for number, value in enumerate(items(data["stages"], place), 1):
        yield stage_from(value, place.entry(value, f"{before}stage {number}"), spec)


def _reasons(value: object) -> dict[NodeName, str]:
    return {NodeName(name): text(reason, f"reasons: {name}") for name, reason in table(value, "reasons").items()}


def _route_data(route: Route) -> dict[str, object]:
    return {"purpose": route.purpose.value, "stages": [stage_to_data(stage) for stage in route.stages]}
