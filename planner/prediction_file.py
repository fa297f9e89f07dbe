"""A plan file's `predicted`, to and from plain data. What older files do not have may be missing."""

from __future__ import annotations

from collections.abc import Mapping

from potluck.planner.fields import FieldError, fields, kind_of, shown, table, whole
from potluck.planner.fleet import NodeName
from potluck.planner.prediction import KINDS, Breakdown, Prediction, Times

_REQUIRED = ("time_to_first_token", "time_per_token", "weight_bytes", "kv_bytes")
_KNOWN = (*_REQUIRED, "tokens_per_second", "bottleneck", "prefill", "decode", "memory_bytes")


def prediction_from(value: object) -> Prediction:
    """The prediction that plain data has.

    Raises:
        FieldError: anything unknown, missing or of the wrong kind; one line with the place.
    """
    data = fields(value, "predicted", _KNOWN, _REQUIRED)
    return Prediction(
        time_to_first_token=_seconds(data["time_to_first_token"], "predicted: time_to_first_token"),
        time_per_token=_seconds(data["time_per_token"], "predicted: time_per_token"),
        weight_bytes=_bytes_by_node(data["weight_bytes"], "predicted: weight_bytes"),
        kv_bytes=_bytes_by_node(data["kv_bytes"], "predicted: kv_bytes"),
        tokens_per_second=_seconds(data.get("tokens_per_second", 0.0), "predicted: tokens_per_second", "a rate"),
        bottleneck=_name(data.get("bottleneck", "")),
        prefill=_breakdown(data.get("prefill"), "predicted: prefill"),
        decode=_breakdown(data.get("decode"), "predicted: decode"),
        memory_bytes=_bytes_by_node(data.get("memory_bytes", {}), "predicted: memory_bytes"),
    )


def prediction_to_data(prediction: Prediction) -> dict[str, object]:
    """Plain data of a prediction; `prediction_from` gives back an equal one."""
    data: dict[str, object] = {
        "time_to_first_token": prediction.time_to_first_token,
        "time_per_token": prediction.time_per_token,
        "tokens_per_second": prediction.tokens_per_second,
        "bottleneck": prediction.bottleneck,
        "weight_bytes": {str(node): size for node, size in prediction.weight_bytes.items()},
        "kv_bytes": {str(node): size for node, size in prediction.kv_bytes.items()},
    }
    if prediction.memory_bytes:
        data["memory_bytes"] = {str(node): size for node, size in prediction.memory_bytes.items()}
    for name, breakdown in (("prefill", prediction.prefill), ("decode", prediction.decode)):
        if breakdown is not None:
            data[name] = breakdown_to_data(breakdown)
    return data


def breakdown_to_data(breakdown: Breakdown) -> dict[str, object]:
    """Plain data of a breakdown: seconds by kind, zeros left out."""
    return {"total": _times_data(breakdown.total), "stages": [_times_data(stage) for stage in breakdown.stages]}


def _times_data(times: Times) -> dict[str, float]:
    return {kind: getattr(times, kind) for kind in KINDS if getattr(times, kind)}


def _breakdown(value: object, where: str) -> Breakdown | None:
    if value is None:
        return None
    data = fields(value, where, ("total", "stages"), ("total", "stages"))
    stages = data["stages"]
    if not isinstance(stages, list | tuple):
        raise FieldError(f"{where}: stages must be a list, not {kind_of(stages)}")
    listed = (_times(stage, f"{where}: stage {number}") for number, stage in enumerate(stages, 1))
    return Breakdown(_times(data["total"], f"{where}: total"), tuple(listed))


def _times(value: object, where: str) -> Times:
    return Times(**{kind: _seconds(taken, f"{where}: {kind}") for kind, taken in fields(value, where, KINDS).items()})


def _seconds(value: object, where: str, what: str = "seconds") -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise FieldError(f"{where} must be {what}, not {shown(value)}")
    return float(value)


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise FieldError(f"predicted: bottleneck must be text, not {kind_of(value)}")
    return value


def _bytes_by_node(value: object, where: str) -> Mapping[NodeName, int]:
    return {NodeName(name): whole(size, f"{where}: {name}") for name, size in table(value, where).items()}
