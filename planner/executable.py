"""Whether this version can run a plan that is right."""

from __future__ import annotations

from potluck.planner.fleet import NodeName
from potluck.planner.plan import WHOLE, Plan, Purpose, Residency, Share, Stage
from potluck.planner.tiling import PlanError


def executable_stages(plan: Plan) -> tuple[Stage, ...]:
    """The stages of all routes, each of whole layers on one node, or on a group along heads, columns, vocabulary.

    Raises:
        PlanError: the plan needs something that the types carry but no worker runs yet.
    """
    for number, route in enumerate(plan.routes, 1):
        place = f"route {number}: " if len(plan.routes) > 1 else ""
        if route.purpose is not Purpose.SERVE:
            raise PlanError(f"{place}purpose {route.purpose.value}; this version runs routes that serve, and no others")
        for stage_number, stage in enumerate(route.stages, 1):
            _check_stage(stage, f"{place}stage {stage_number}")
    _check_apart(plan)
    return tuple(stage for route in plan.routes for stage in route.stages)


def _check_apart(plan: Plan) -> None:
    """A worker has the windows, the KV and the steps of one route."""
    of: dict[NodeName, int] = {}
    for number, alone in enumerate(plan.replicas, 1):
        for node in alone.nodes:
            if of.setdefault(node, number) != number:
                raise PlanError(f"node {node!r} is in routes {of[node]} and {number}; give each route nodes of its own")


def _check_stage(stage: Stage, place: str) -> None:
    if stage.groups:
        kind = next(iter(stage.groups)).value
        raise PlanError(f"{place} has a group of its own for {kind}; this version runs all its parts on its shares")
    for share in stage.shares:
        _check_share(share, f"{place}, node {share.node!r}")
    try:
        _ = stage.layers
    except ValueError as error:
        raise PlanError(f"{place} cuts through a layer; this version runs whole layers") from error


def _check_share(share: Share, place: str) -> None:
    if share.experts is not None:
        raise PlanError(f"{place}: this version runs no experts; leave them out")
    if share.sequence != WHOLE:
        raise PlanError(f"{place}: this version does not split the sequence; split heads and columns instead")
    if share.residency is Residency.HOST:
        raise PlanError(f"{place}: residency host is for GPUs, which this version does not use; say streamed")
