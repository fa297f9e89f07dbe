"""Whether this version can run a plan that is right."""

from __future__ import annotations

from dataclasses import replace

from potluck.planner.fleet import NodeName
from potluck.planner.plan import WHOLE, Plan, Purpose, Residency, Share, Stage
from potluck.planner.plan_error import PlanError, Spot, wrong


def executable_stages(plan: Plan) -> tuple[Stage, ...]:
    """The stages of all routes, each of whole layers on one node, or on a group along heads, columns, vocabulary.

    Raises:
        PlanError: the plan needs something that the types carry but no worker runs yet.
    """
    for number, route in enumerate(plan.routes, 1):
        spot = Spot(number, routes=len(plan.routes))
        if route.purpose is not Purpose.SERVE:
            raise wrong(
                replace(spot, key="purpose"),
                f"purpose {route.purpose.value}; this version runs routes that serve, and no others",
            )
        for stage_number, stage in enumerate(route.stages, 1):
            _check_stage(stage, replace(spot, stage=stage_number))
    _check_apart(plan)
    return tuple(stage for route in plan.routes for stage in route.stages)


def _check_apart(plan: Plan) -> None:
    """A worker has the windows, the KV and the steps of one route."""
    of: dict[NodeName, int] = {}
    for number, alone in enumerate(plan.replicas, 1):
        for node in alone.nodes:
            if of.setdefault(node, number) != number:
                raise PlanError(
                    f"node {node!r} is in routes {of[node]} and {number}; give each route nodes of its own",
                    Spot(number, routes=len(plan.routes)),
                )


def _check_stage(stage: Stage, spot: Spot) -> None:
    if stage.groups:
        kind = next(iter(stage.groups)).value
        raise PlanError(
            f"{spot} has a group of its own for {kind}; this version runs all its parts on its shares",
            replace(spot, key="groups"),
        )
    for number, share in enumerate(stage.shares, 1):
        _check_share(share, replace(spot, share=number))
    try:
        _ = stage.layers
    except ValueError as error:
        raise PlanError(
            f"{spot} cuts through a layer; this version runs whole layers", replace(spot, key="parts")
        ) from error


def _check_share(share: Share, spot: Spot) -> None:
    lacking = {
        "experts": share.experts is not None and "this version runs no experts; leave them out",
        "sequence": share.sequence != WHOLE and "this version does not split the sequence; split heads and columns",
        "residency": share.residency is Residency.HOST
        and "this version does not run residency host; say streamed, which copies layers ahead, or resident",
    }
    for key, message in lacking.items():
        if message:
            raise PlanError(f"{spot}, node {share.node!r}: {message}", replace(spot, key=key))
