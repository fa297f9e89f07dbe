"""What would help where a model does not fit: the cheapest is tried first, and the first that works is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from potluck.deploy.fleet_files import read_catalogue
from potluck.deploy.tables import seconds_text
from potluck.models.quantize import with_quantization
from potluck.models.spec import ModelSpec
from potluck.planner.fit import size_text
from potluck.planner.fleet import Fleet, Node
from potluck.planner.goal import Goal
from potluck.planner.memory import streams
from potluck.planner.offers import Request
from potluck.planner.plan import Plan
from potluck.planner.solve import DoesNotFit, solve
from potluck.planner.what_if import with_machine

_LEAST_CONTEXT = 2048
_MACHINES_TRIED = 3


def solved(fleet: Fleet, spec: ModelSpec, goal: Goal) -> Plan:
    """The plan; where there is none, an error that ends with the cheapest remedy that was found to be enough.

    Raises:
        DoesNotFit: one line.
        ValueError: the goal names a node that the fleet does not have.
    """
    try:
        return solve(fleet, spec, goal)
    except DoesNotFit as error:
        if all(node.name in goal.excluded for node in fleet.nodes):
            raise
        missing, remedy = missing_bytes(fleet, spec, goal), cheapest(fleet, spec, goal)
        told = [f"{size_text(missing)} are missing"] if missing else []
        raise DoesNotFit("; ".join([str(error), *told, *([remedy] if remedy else [])])) from None


def cheapest(fleet: Fleet, spec: ModelSpec, goal: Goal) -> str:
    """`enough is: --quantize int4`; empty where nothing that was tried is enough."""
    for words, other, smaller, wish in _changes(fleet, spec, goal):
        try:
            plan = solve(other, smaller, wish)
        except (DoesNotFit, ValueError):
            continue
        return f"enough is: {words}{_price(plan)}"
    return ""


def _price(plan: Plan) -> str:
    """What reading from disk for every token costs."""
    if plan.prediction is None or not streams(plan):
        return ""
    return f", at {seconds_text(plan.prediction.time_per_token)} per token"


_Change = tuple[str, Fleet, ModelSpec, Goal]


def _changes(fleet: Fleet, spec: ModelSpec, goal: Goal) -> Iterator[_Change]:
    """What could be changed, what costs nothing first, with fleet, model and goal after it."""
    if goal.shares:
        yield "leave out --share", fleet, spec, replace(goal, shares={})
    if not goal.streaming and any(node.disk_bandwidth for node in fleet.nodes):
        yield "leave out --no-streaming", fleet, spec, replace(goal, streaming=True)
    # Less KV than the question's own requests take is no answer to it.
    less_kv = goal.kv_tokens > _LEAST_CONTEXT >= goal.batch * goal.context
    if less_kv:
        yield f"--context {_LEAST_CONTEXT} --kv-tokens {_LEAST_CONTEXT}", fleet, spec, _little_kv(goal)
    if spec.encodings:
        yield from _machines(fleet, spec, goal, "")
        return
    for bits in ("int8", "int4"):
        yield f"--quantize {bits}", fleet, *_quantized(spec, goal, bits)
    small, wish = _quantized(spec, goal, "int4")
    if less_kv:
        yield f"--quantize int4 --context {_LEAST_CONTEXT} --kv-tokens {_LEAST_CONTEXT}", fleet, small, _little_kv(wish)
    yield from _machines(fleet, small, wish, "--quantize int4 ")


def _machines(fleet: Fleet, spec: ModelSpec, goal: Goal, before: str) -> Iterator[_Change]:
    """The smallest machines of the catalogue that could hold what is missing, and the largest of all."""
    catalogue = read_catalogue()
    added = {name: with_machine(fleet, name, catalogue) for name in catalogue.machines}
    by_memory = sorted(added, key=lambda name: _memory(added[name].nodes[-1]))
    missing = missing_bytes(fleet, spec, goal)
    enough = [name for name in by_memory if _memory(added[name].nodes[-1]) > missing]
    for name in [*enough[:_MACHINES_TRIED], by_memory[-1]]:
        yield f"{before}--add {name}", added[name], spec, goal


def missing_bytes(fleet: Fleet, spec: ModelSpec, goal: Goal) -> int:
    """Bytes that the model with its KV takes beyond what all nodes have for it; at least 0.

    Where all nodes together have enough, what is left over on them holds no whole layer: as many layers as are missing.
    """
    request = Request(spec, goal)
    nodes = [node for node in fleet.nodes if node.name not in goal.excluded]
    need = request.ends_bytes + len(spec.layers) * request.layer_bytes
    free = [max(0, request.free(node)) for node in nodes]
    return max(0, need - sum(free), (len(spec.layers) - _layers_held(free, request)) * request.layer_bytes)


def _layers_held(free: list[int], request: Request) -> int:
    """The most whole layers in these bytes per node, embedding and head on the best of them."""
    ends = [[room - request.ends_bytes * (node == at) for node, room in enumerate(free)] for at in range(len(free))]
    return max((sum(room // request.layer_bytes for room in left) for left in ends if min(left) >= 0), default=0)


def _memory(node: Node) -> int:
    return node.device.memory


def _little_kv(goal: Goal) -> Goal:
    return replace(goal, kv_tokens=_LEAST_CONTEXT)


def _quantized(spec: ModelSpec, goal: Goal, bits: str) -> tuple[ModelSpec, Goal]:
    try:
        return with_quantization(spec, bits), replace(goal, dtype="quantized")
    except ValueError:
        return spec, goal
