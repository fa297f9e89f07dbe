"""Whether a plan can be right at all. For plans by hand as for solved ones."""

from __future__ import annotations

from itertools import zip_longest

from potluck.models.sizes import ITEMSIZE
from potluck.models.spec import ModelSpec, Part
from potluck.planner.all_reduce import MOST_PIECES, AllReduce, Wire
from potluck.planner.fields import shown, suggestion
from potluck.planner.fit import size_text
from potluck.planner.fleet import Fleet
from potluck.planner.memory import node_bytes
from potluck.planner.part_names import part_names
from potluck.planner.plan import Plan, Purpose, Residency, Route, Share
from potluck.planner.tiling import PlanError, check_group

__all__ = ["PlanError", "validate"]


def validate(plan: Plan, fleet: Fleet, spec: ModelSpec) -> None:
    """Check that every pass meets each part exactly once and in order, that groups tile their axes, and that it fits.

    Raises:
        PlanError: the plan is wrong; one line with the place and the remedy.
    """
    if plan.dtype not in ITEMSIZE:
        raise PlanError(f"dtype {plan.dtype!r} is not known{suggestion(plan.dtype, ITEMSIZE)}")
    if plan.kv_tokens < 1:
        raise PlanError(f"kv_tokens must be at least 1, not {plan.kv_tokens}")
    if not plan.routes:
        raise PlanError("the plan has no route")
    _check_nodes(plan, fleet)
    for number, route in enumerate(plan.routes, 1):
        place = "" if len(plan.routes) == 1 else f"route {number}: "
        # A draft route runs another, small model; only its own spec could say what its parts are.
        if route.purpose is not Purpose.DRAFT:
            _check_coverage(route, spec, place)
            _check_groups(route, spec, place)
    _check_memory(plan, fleet, spec)


def _check_nodes(plan: Plan, fleet: Fleet) -> None:
    names = [str(node.name) for node in fleet.nodes]
    for node in plan.nodes:
        if node not in names:
            raise PlanError(f"fleet {fleet.name!r} has no node {node!r}{suggestion(node, names)}")


def _check_coverage(route: Route, spec: ModelSpec, place: str) -> None:
    """Every part exactly once and in order."""
    wanted = list(spec.parts())
    met = [(number, part) for number, stage in enumerate(route.stages, 1) for part in stage.parts]
    for number, stage in enumerate(route.stages, 1):
        if not stage.parts:
            raise PlanError(f"{place}stage {number} has no parts")
    if [part for _, part in met] == wanted:
        return
    _name_stranger(met, set(wanted), spec, place)
    for part in wanted:
        stages = [number for number, other in met if other == part]
        if not stages:
            raise PlanError(f"{place}{_name(part)} is in no stage; every part must be in exactly one")
        if len(stages) > 1:
            raise PlanError(f"{place}{_name(part)} is in stages {stages[0]} and {stages[1]}; leave it in one")
    for (number, part), due in zip_longest(met, wanted):
        if part != due:
            raise PlanError(
                f"{place}stage {number}: {_name(part)} comes where {_name(due)} is due; a token visits "
                f"the parts in order"
            )


def _name_stranger(met: list[tuple[int, Part]], wanted: set[Part], spec: ModelSpec, place: str) -> None:
    for number, part in met:
        if part not in wanted:
            last = len(spec.layers) - 1
            raise PlanError(f"{place}stage {number}: model {spec.name!r} has no {_name(part)}; it has layers 0-{last}")


def _name(part: Part) -> str:
    return part_names([part])[0]


def _check_groups(route: Route, spec: ModelSpec, place: str) -> None:
    for number, stage in enumerate(route.stages, 1):
        kinds = {part.kind for part in stage.parts}
        for kind in stage.groups:
            if kind not in kinds:
                raise PlanError(f"{place}stage {number}: a group for {kind.value}, but the stage has no such part")
        for kind in sorted(kinds):
            check_group(stage.group(kind), kind, spec, f"{place}stage {number}, {kind.value}")
        for share in stage.shares:
            _check_window(share, spec, f"{place}stage {number}")
        _check_all_reduce(stage.all_reduce, spec, f"{place}stage {number}")


def _check_window(share: Share, spec: ModelSpec, place: str) -> None:
    if share.window is None:
        return
    if share.residency is not Residency.STREAMED:
        raise PlanError(f"{place}: node {share.node!r} has a window; it needs residency streamed, or no window")
    if share.window < 1:
        raise PlanError(f"{place}: node {share.node!r} has a window of {share.window} layers; it needs at least 1")
    if share.window > (layers := len(spec.layers)):
        raise PlanError(
            f"{place}: node {share.node!r} has a window of {shown(share.window)} layers, but model {spec.name!r} has "
            f"{layers}; name at most {layers}, or leave out window"
        )


def _check_all_reduce(asked: AllReduce, spec: ModelSpec, place: str) -> None:
    if asked.pieces is not None and not 1 <= asked.pieces <= MOST_PIECES:
        raise PlanError(
            f"{place}: a sum in {shown(asked.pieces)} pieces; possible are 1 to {MOST_PIECES}, and 4 suit most links"
        )
    if asked.wire is not Wire.INT8_FEEDBACK:
        return
    if spec.post_norms:
        raise PlanError(
            f"{place}: wire {asked.wire.value} cannot make good what a norm after the sum changes, and model "
            f"{spec.name!r} has such norms; use wire {Wire.INT8.value}"
        )
    if asked.pieces not in (None, 1):
        raise PlanError(
            f"{place}: wire {asked.wire.value} needs whole sums: a piece would bring what another's rows lack; "
            f"leave out pieces"
        )
    if asked.algorithm and asked.algorithm not in asked.wire.algorithms:
        raise PlanError(
            f"{place}: wire {asked.wire.value} and algorithm {asked.algorithm.value} do not go together; use "
            f"{' or '.join(asked.wire.algorithms)}"
        )


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
