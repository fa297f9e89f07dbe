"""Whether a plan can be right at all. For plans by hand as for solved ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from potluck.models.sizes import ITEMSIZE
from potluck.models.spec import ModelSpec
from potluck.planner.all_reduce import MOST_PIECES, AllReduce, Wire
from potluck.planner.coverage import check_coverage
from potluck.planner.fields import shown, suggestion
from potluck.planner.fit import size_text
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.memory import node_bytes
from potluck.planner.plan import Plan, Purpose, Residency, Route, Share
from potluck.planner.plan_error import PlanError, Spot, wrong
from potluck.planner.tiling import check_group

__all__ = ["PlanError", "validate", "validate_alone"]


def validate(plan: Plan, fleet: Fleet, spec: ModelSpec) -> None:
    """Check that a plan is right for a model (`validate_alone`), and that a fleet has its nodes and their memory.

    Raises:
        PlanError: the plan is wrong; one line with the place and the remedy.
    """
    validate_alone(plan, spec)
    _check_nodes(plan, fleet)
    _check_memory(plan, fleet, spec)


def validate_alone(plan: Plan, spec: ModelSpec) -> None:
    """Check, whatever the fleet, that every pass meets each part exactly once and in order, and that groups tile.

    Raises:
        PlanError: the plan is wrong; one line with the place and the remedy.
    """
    if plan.dtype not in ITEMSIZE:
        raise PlanError(f"dtype {plan.dtype!r} is not known{suggestion(plan.dtype, ITEMSIZE)}")
    if plan.kv_tokens < 1:
        raise PlanError(f"kv_tokens must be at least 1, not {plan.kv_tokens}")
    if not plan.routes:
        raise PlanError("the plan has no route")
    for number, route in enumerate(plan.routes, 1):
        spot = Spot(number, routes=len(plan.routes))
        # A draft route runs another, small model; only its own spec could say what its parts are.
        if route.purpose is not Purpose.DRAFT:
            check_coverage(route, spec, spot)
            _check_groups(route, spec, spot)


def _check_nodes(plan: Plan, fleet: Fleet) -> None:
    names = [str(node.name) for node in fleet.nodes]
    for spot, node in _nodes(plan):
        if node not in names:
            raise PlanError(f"fleet {fleet.name!r} has no node {node!r}{suggestion(node, names)}", spot)


def _nodes(plan: Plan) -> Iterator[tuple[Spot, NodeName]]:
    """Every node where it is named."""
    for number, route in enumerate(plan.routes, 1):
        for at, stage in enumerate(route.stages, 1):
            spot = Spot(number, at, routes=len(plan.routes))
            yield from ((replace(spot, share=of), share.node) for of, share in enumerate(stage.shares, 1))
            yield from ((spot, share.node) for shares in stage.groups.values() for share in shares)


def _check_groups(route: Route, spec: ModelSpec, of: Spot) -> None:
    for number, stage in enumerate(route.stages, 1):
        kinds, spot = {part.kind for part in stage.parts}, replace(of, stage=number)
        for kind in stage.groups:
            if kind not in kinds:
                at = replace(spot, key="groups")
                raise wrong(at, f"a group for {kind.value}, but the stage has no such part; leave it out")
        for kind in sorted(kinds):
            check_group(stage.group(kind), kind, spec, spot)
        for place, share in enumerate(stage.shares, 1):
            _check_window(share, spec, replace(spot, share=place, key="window"))
        _check_all_reduce(stage.all_reduce, spec, replace(spot, key="all_reduce"))


def _check_window(share: Share, spec: ModelSpec, spot: Spot) -> None:
    if share.window is None:
        return
    if share.residency is not Residency.STREAMED:
        raise wrong(spot, f"node {share.node!r} has a window; it needs residency streamed, or no window")
    if share.window < 1:
        raise wrong(spot, f"node {share.node!r} has a window of {share.window} layers; it needs at least 1")
    if share.window > (layers := len(spec.layers)):
        raise wrong(
            spot,
            f"node {share.node!r} has a window of {shown(share.window)} layers, but model {spec.name!r} has "
            f"{layers}; name at most {layers}, or leave out window",
        )


def _check_all_reduce(asked: AllReduce, spec: ModelSpec, spot: Spot) -> None:
    wire = asked.wire.value if asked.wire else ""
    if asked.pieces is not None and not 1 <= asked.pieces <= MOST_PIECES:
        raise wrong(
            spot, f"a sum in {shown(asked.pieces)} pieces; possible are 1 to {MOST_PIECES}, and 4 suit most links"
        )
    if asked.wire is not Wire.INT8_FEEDBACK:
        return
    if spec.post_norms:
        raise wrong(
            spot,
            f"wire {wire} cannot make good what a norm after the sum changes, and model {spec.name!r} has such norms; "
            f"use wire {Wire.INT8.value}",
        )
    if asked.pieces not in (None, 1):
        lack = "a piece would bring what another's rows lack"
        raise wrong(spot, f"wire {wire} needs whole sums: {lack}; leave out pieces")
    if asked.algorithm and asked.algorithm not in asked.wire.algorithms:
        use = " or ".join(asked.wire.algorithms)
        raise wrong(spot, f"wire {wire} and algorithm {asked.algorithm.value} do not go together; use {use}")


def _check_memory(plan: Plan, fleet: Fleet, spec: ModelSpec) -> None:
    for name, size in node_bytes(plan, spec, fleet.kinds).items():
        has = fleet.node(name).device.memory
        if size.total > has:
            held = size_text(size.weights - size.streamed + size.window)
            streamed = f" (with {size_text(size.window)} for those that come and go)" if size.streamed else ""
            raise PlanError(
                f"node {name!r} has {size_text(has)} of memory, but the plan needs {held} of weights{streamed}, "
                f"{size_text(size.kv)} of KV and {size_text(size.overhead)} for the worker there; "
                f"{'name a smaller window, ' if size.streamed else ''}move layers to another node or lower kv_tokens"
            )
