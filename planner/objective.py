"""What is made small, in seconds: by how long a token takes, or by how long after another the next one comes."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from potluck.models.spec import ModelSpec
from potluck.planner.collectives import one_after_another
from potluck.planner.costs import Pass, itemsize
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.goal import Goal
from potluck.planner.hops import STAGE_SECONDS
from potluck.planner.memory import streams
from potluck.planner.plan import Plan
from potluck.planner.predict import predict
from potluck.planner.stage_seconds import Setting, stage_seconds
from potluck.planner.transfers import receivers


def objective(plan: Plan, fleet: Fleet, spec: ModelSpec, goal: Goal) -> float:
    """The cost of a plan for a goal, in seconds; less is better."""
    predicted = (plan.prediction or predict(plan, fleet, spec, goal)).time_per_token
    busy, hops = _busy(plan, fleet, spec, goal), _hops(plan, fleet, spec)
    engine = fleet.link(plan.routes[0].stages[-1].nodes[0], fleet.engine).latency
    engine += max(fleet.link(fleet.engine, node).latency for node in plan.routes[0].stages[0].nodes)
    alone = max(predicted, sum(busy.values()) + sum(hops) + engine)
    if goal.aim == "latency":
        return alone
    # Where layers are streamed one step is in flight at a time: the next token comes when the last is there.
    next_ = alone if streams(plan) else max(*busy.values(), *hops, 0.0)
    return next_ if goal.aim == "throughput" else alone + next_


def _busy(plan: Plan, fleet: Fleet, spec: ModelSpec, goal: Goal) -> dict[NodeName, float]:
    """Seconds that every lead is busy with a token."""
    work, setting = Pass(1, 1, goal.context), Setting(fleet, spec, plan.dtype)
    busy: defaultdict[NodeName, float] = defaultdict(float)
    for stage in plan.routes[0].stages:
        busy[stage.nodes[0]] += stage_seconds(stage, setting, work)
    return busy


def _hops(plan: Plan, fleet: Fleet, spec: ModelSpec) -> list[float]:
    """Seconds of every hop from nodes to others, with what the next stage costs beside its compute."""
    row, stages = spec.hidden * itemsize(plan.dtype), plan.routes[0].stages
    going = ((before.nodes[0], receivers(before, after)) for before, after in pairwise(stages))
    ways = ([(fleet.link(source, target), row) for target in targets] for source, targets in going)
    return [one_after_another(way) + STAGE_SECONDS for way in ways if way]
