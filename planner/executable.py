"""Whether this version can run a plan that is right."""

from __future__ import annotations

from potluck.planner.plan import WHOLE, Plan, Purpose, Residency, Share, Stage
from potluck.planner.tiling import PlanError


def executable_stages(plan: Plan) -> tuple[Stage, ...]:
    """The stages of the one route, each of whole layers on one node, or on a group along heads, columns, vocabulary.

    Raises:
        PlanError: the plan needs something that the types carry but no worker runs yet.
    """
    if len(plan.routes) != 1 or plan.routes[0].purpose is not Purpose.SERVE:
        raise PlanError("this version runs plans with one route that serves; several routes are not available yet")
    for number, stage in enumerate(plan.routes[0].stages, 1):
        _check_stage(stage, f"stage {number}")
    return plan.routes[0].stages


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
