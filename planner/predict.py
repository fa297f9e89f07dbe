"""What a plan will take: seconds to the first token and per token, for one request that has the fleet to itself.

    time per token = sum of the stages' seconds + sum of the hops, the one from the engine and the one back included

Layers that are streamed are read while anybody computes, so a step takes at least as long as any node reads.

A hop takes latency + rows x hidden x itemsize / bandwidth. A prompt longer than a step is computed in chunks that
follow each other through the stages: the first takes the whole way, each further one as long as the busiest node or
hop; where only one step is in flight, each takes the whole way. Steps and results are too small to count more than
their latency.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from potluck.models.spec import ModelSpec
from potluck.planner.collectives import one_after_another
from potluck.planner.costs import Pass, itemsize
from potluck.planner.fleet import Fleet, Link, NodeName
from potluck.planner.goal import Goal
from potluck.planner.memory import node_bytes, steps_at_once
from potluck.planner.plan import Plan, Prediction, Route
from potluck.planner.stage_seconds import Setting, stage_seconds
from potluck.planner.transfers import receivers, wants_sampled


@dataclass(frozen=True, slots=True)
class _Way:
    """Seconds that one step spends in each stage and on each hop of its way, and how long each node is busy with it."""

    stages: tuple[float, ...]
    nodes: dict[NodeName, float]
    hops: tuple[float, ...]
    reading: float

    @property
    def total(self) -> float:
        return max(sum(self.stages) + sum(self.hops), self.reading)

    @property
    def busiest(self) -> float:
        return max(*self.nodes.values(), *self.hops, self.reading)


def predict(plan: Plan, fleet: Fleet, spec: ModelSpec, goal: Goal) -> Prediction:
    """The prediction for the first route of a plan that this version runs."""
    sizes = node_bytes(plan, spec, fleet.kinds)
    return Prediction(
        time_to_first_token=_first_token(plan, fleet, spec, goal),
        time_per_token=_way(plan, fleet, spec, Pass(1, 1, goal.context)).total,
        weight_bytes={node: size.weights for node, size in sizes.items()},
        kv_bytes={node: size.kv for node, size in sizes.items()},
    )


def hop_seconds(link: Link, nbytes: float) -> float:
    """Seconds from the start of sending to the last byte's arrival."""
    return link.latency + nbytes / link.bandwidth


def _first_token(plan: Plan, fleet: Fleet, spec: ModelSpec, goal: Goal) -> float:
    *earlier, last = [_way(plan, fleet, spec, chunk) for chunk in _chunks(goal)]
    alone = steps_at_once(plan) == 1
    return last.total + sum(way.total if alone else way.busiest for way in earlier)


def _chunks(goal: Goal) -> Iterator[Pass]:
    for first in range(0, goal.prompt, goal.chunk):
        end = min(first + goal.chunk, goal.prompt)
        # A row attends to everything before it: on average the middle of the chunk.
        yield Pass(rows=end - first, sampled=int(end == goal.prompt), context=(first + end + 1) // 2)


def _way(plan: Plan, fleet: Fleet, spec: ModelSpec, work: Pass) -> _Way:
    route, setting = plan.routes[0], Setting(fleet, spec, plan.dtype)
    nodes: defaultdict[NodeName, float] = defaultdict(float)
    stages = tuple(stage_seconds(stage, setting, work) for stage in route.stages)
    for stage, taken in zip(route.stages, stages, strict=True):
        for node in stage.nodes:
            nodes[node] += taken
    hops = tuple(_hops(route, fleet, work, spec.hidden * itemsize(plan.dtype)))
    return _Way(stages, dict(nodes), hops, _reading(plan, fleet, spec))


def _reading(plan: Plan, fleet: Fleet, spec: ModelSpec) -> float:
    """Seconds that the slowest node reads its streamed layers for; a disk nobody measured is not reckoned with."""
    sizes = node_bytes(plan, spec, fleet.kinds)
    disks = {node: fleet.node(node).disk_bandwidth for node in plan.nodes}
    return max((sizes[node].streamed / disk for node, disk in disks.items() if disk > 0), default=0.0)


def _hops(route: Route, fleet: Fleet, work: Pass, row_bytes: int) -> Iterator[float]:
    stages = route.stages
    yield one_after_another([(fleet.link(fleet.engine, node), 0) for node in stages[0].nodes])
    for before, after in pairwise(stages):
        rows = work.sampled if wants_sampled(after) else work.rows
        links = [fleet.link(before.nodes[0], node) for node in receivers(before, after)]
        yield one_after_another([(link, rows * row_bytes) for link in links])
    yield hop_seconds(fleet.link(stages[-1].nodes[0], fleet.engine), 0)
