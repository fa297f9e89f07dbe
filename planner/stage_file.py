"""A stage as a plan file writes it: by one node, by shares, or by nodes and the proportions they are to have.

    {node: desktop, parts: [embedding, layers 0-9]}
    {parts: [layers 0-29], shares: [{node: desktop, kv_heads: 0-4, ffn_columns: 0-1023}, ...]}
    {parts: [layers 0-29], nodes: [desktop, laptop, nas], split: [5, 2, 1]}

Proportions are turned into shares when they are read; a stage that is written has shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from potluck.models.spec import ModelSpec, Part, PartKind
from potluck.planner.all_reduce import AUTO, Algorithm, AllReduce, Wire
from potluck.planner.fields import FieldError, fields, items, one_of, shown, whole
from potluck.planner.part_names import part_names, parts_from
from potluck.planner.place import Place, picked
from potluck.planner.plan import Share, Stage
from potluck.planner.share_file import share_from, share_to_data
from potluck.planner.splitting import SplitError, split_shares

_STAGE = ("node", "nodes", "split", "parts", "shares", "groups", "residency", "window", "all_reduce")
_KEPT = ("residency", "window")


def stage_from(value: object, where: Place, spec: ModelSpec) -> Stage:
    """The stage that plain data describes for a model.

    Raises:
        FieldError: anything unknown, missing or of the wrong kind, or a model that cannot be split so.
    """
    data = fields(value, where, _STAGE, ("parts",))
    parts = _parts(data["parts"], where.field(data, "parts"), spec)
    groups = _groups(data.get("groups", {}), where.field(data, "groups"))
    stage = Stage(parts, _stage_shares(data, where, spec, parts), groups)
    if "all_reduce" not in data:
        return stage
    if not stage.is_group:
        raise FieldError(f"{where.at(data, 'all_reduce')}: 'all_reduce' is for a stage of several nodes; leave it out")
    return replace(stage, all_reduce=_all_reduce(data["all_reduce"], where.field(data, "all_reduce")))


def stage_to_data(stage: Stage) -> dict[str, object]:
    """Plain data that describes a stage, in the shortest form."""
    alone = len(stage.shares) == 1 and stage.shares[0].is_whole
    data: dict[str, object] = share_to_data(stage.shares[0]) if alone else {"shares": _shares_data(stage.shares)}
    data["parts"] = part_names(stage.parts)
    if stage.groups:
        data["groups"] = {kind.value: _shares_data(shares) for kind, shares in stage.groups.items()}
    if stage.all_reduce != AllReduce():
        asked = {"algorithm": stage.all_reduce.algorithm, "wire": stage.all_reduce.wire}
        data["all_reduce"] = {key: value.value for key, value in asked.items() if value} | _pieces_data(stage)
    return data


def _parts(value: object, where: Place, spec: ModelSpec) -> tuple[Part, ...]:
    listed = items(value, where) if not isinstance(value, str) else [value]
    return tuple(part for name in listed for part in parts_from(name, where, spec))


def _stage_shares(
    data: Mapping[str, object], where: Place, spec: ModelSpec, parts: tuple[Part, ...]
) -> tuple[Share, ...]:
    if sum(key in data for key in ("node", "nodes", "shares")) != 1:
        raise FieldError(f"{where}: give either 'node' or 'shares', or 'nodes' with 'split'")
    if ("split" in data) != ("nodes" in data):
        raise FieldError(f"{where}: 'nodes' and 'split' need each other: split: [5, 2, 1] for three nodes")
    for key in _KEPT if "shares" in data else ():
        if key in data:
            raise FieldError(f"{where.at(data, key)}: field {key!r} belongs into the entries of 'shares'")
    if "shares" in data:
        return _shares(data["shares"], where.field(data, "shares"))
    if "node" in data:
        return (share_from(picked(data, ("node", *_KEPT)), where),)
    return _split(data, where, (spec, parts))


def _split(data: Mapping[str, object], where: Place, model: tuple[ModelSpec, tuple[Part, ...]]) -> tuple[Share, ...]:
    at = where.field(data, "split")
    nodes, split = items(data["nodes"], where.field(data, "nodes")), items(data["split"], at)
    if len(nodes) != len(split):
        told = f"split has {len(split)} numbers for {len(nodes)} nodes; give one for each"
        raise FieldError(f"{where.at(data, 'split')}: {told}")
    wholes = [share_from(picked(data, _KEPT, node=node), where) for node in nodes]
    try:
        return split_shares(*model, wholes, [_weight(weight, at) for weight in split])
    except SplitError as error:
        raise FieldError(f"{where}: {error}") from None


def _weight(value: object, where: Place) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise FieldError(f"{where}: {shown(value)} is no proportion; write a number above 0 for each node")
    return Fraction(str(value))


def _shares(value: object, where: Place) -> tuple[Share, ...]:
    shares = enumerate(items(value, where), 1)
    return tuple(share_from(share, where.entry(share, f"{where.name}: {number}")) for number, share in shares)


def _groups(value: object, where: Place) -> dict[PartKind, tuple[Share, ...]]:
    described = fields(value, where, list(PartKind))
    return {PartKind(kind): _shares(shares, where.field(described, kind)) for kind, shares in described.items()}


def _all_reduce(value: object, where: Place) -> AllReduce:
    data = fields(value, where, ("algorithm", "wire", "pieces"))
    algorithm = one_of(data.get("algorithm", AUTO), where.field(data, "algorithm"), [*Algorithm, AUTO])
    wire = one_of(data.get("wire", AUTO), where.field(data, "wire"), [*Wire, AUTO])
    pieces = whole(data["pieces"], where.field(data, "pieces"), 1) if "pieces" in data else None
    return AllReduce(Algorithm(algorithm) if algorithm != AUTO else None, Wire(wire) if wire != AUTO else None, pieces)


def _pieces_data(stage: Stage) -> dict[str, object]:
    return {"pieces": stage.all_reduce.pieces} if stage.all_reduce.pieces else {}


def _shares_data(shares: tuple[Share, ...]) -> list[dict[str, object]]:
    return [share_to_data(share) for share in shares]
