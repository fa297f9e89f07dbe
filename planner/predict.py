"""What a plan will take: seconds to the first token and per token, what they are made of, and where the limit is.

    time per token = step + sum of the stages + sum of the hops, the one from the engine and the one back included,
                     + what streaming cannot hide (`prefetch`), for one request that has the fleet to itself

Where one stage runs everything, steps go ahead (`memory.goes_ahead`): then there is no way from or to the engine, and
software takes `Software.again`; but two are under way at most, so that none takes less than half of a step that has to
go past the engine. A hop takes latency + rows x hidden x itemsize / bandwidth. A prompt longer than a step is computed
in chunks that follow each other through the stages (`first_token`). With n steps in flight, none can come sooner after
another than the busiest node or link lets it:

    seconds between a request's tokens = max(time of one step, n x the busiest one's seconds per step)

Steps and results are too small to count more than their latency. What software adds (`software`) is not scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from potluck.models.costs import Pass
from potluck.models.spec import ModelSpec
from potluck.planner.first_token import chunk_rows, chunks, last_arrival
from potluck.planner.fleet import Fleet, Link, NodeName
from potluck.planner.goal import Goal
from potluck.planner.group_sums import Setting
from potluck.planner.memory import goes_ahead, node_bytes, steps_at_once, stream_budgets, streams
from potluck.planner.objective import cost_of
from potluck.planner.plan import Plan, Prediction, Purpose
from potluck.planner.prediction import Breakdown, Times, together
from potluck.planner.stalls import Steps
from potluck.planner.way import Course, Way, course


def predict(plan: Plan, fleet: Fleet, spec: ModelSpec, goal: Goal) -> Prediction:
    """The prediction for the first route of a plan; its tokens per second are those of all routes that serve.

    Raises:
        ValueError: a stage splits the sequence, or gives a kind of part nodes of its own.
    """
    sizes = node_bytes(plan, spec, fleet.kinds)
    first = _Serving.of(plan, 0, (fleet, spec, goal))
    serving = [number for number, route in enumerate(plan.routes) if route.purpose is Purpose.SERVE and number]
    others = [_Serving.of(plan, number, (fleet, spec, goal)) for number in serving]
    decode, prefill = first.decode(goal.batch), first.prefill()
    return Prediction(
        time_to_first_token=prefill.total.total,
        time_per_token=decode.total.total,
        weight_bytes={node: size.weights for node, size in sizes.items()},
        kv_bytes={node: size.kv for node, size in sizes.items()},
        tokens_per_second=sum(one.tokens_per_second for one in [first, *others]),
        bottleneck=first.bottleneck(decode),
        prefill=prefill,
        decode=decode,
        memory_bytes={node: size.held(fleet.node(node).device.memory) for node, size in sizes.items()},
    )


def predicted_cost(plan: Plan, fleet: Fleet, spec: ModelSpec, goal: Goal) -> float:
    """What `objective` says of the prediction for a plan of one route, for the half of the work."""
    serving = _Serving.of(plan, 0, (fleet, spec, goal))
    alone = serving.decode(goal.batch).total.total
    return cost_of(alone, 1 / serving.tokens_per_second, goal)


def hop_seconds(link: Link, nbytes: float) -> float:
    """Seconds from the start of sending to the last byte's arrival."""
    return link.latency + nbytes / link.bandwidth


@dataclass(frozen=True)
class _Serving:
    """One route in service."""

    plan: Plan
    course: Course
    goal: Goal
    known: dict[int, Breakdown] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, number: int, setting: tuple[Fleet, ModelSpec, Goal]) -> _Serving:
        fleet, spec, goal = setting
        alone = replace(plan, routes=(plan.routes[number],))
        return cls(alone, course(plan.routes[number], Setting(fleet, spec, plan.dtype, goal.software)), goal)

    @cached_property
    def depth(self) -> int:
        return steps_at_once(self.plan)

    def decode(self, batch: int) -> Breakdown:
        """Between two tokens of a request, of `batch` that decode at once, spread over the steps in flight."""
        if batch not in self.known:
            self.known[batch] = self._decode(batch)
        return self.known[batch]

    def _decode(self, batch: int) -> Breakdown:
        way = self.decoding(batch)
        if streams(self.plan):
            return _stalled([way], [self._steps().steady(way)])
        alone = way.breakdown
        between = min(self.depth, batch) * max(way.taken.values())
        if way.ahead:
            between = max(between, self.course.way(way.work).breakdown.total.total / 2)
        return replace(alone, total=alone.total + Times(wait=max(0.0, between - alone.total.total)))

    def prefill(self) -> Breakdown:
        """From a request's arrival to its first token."""
        rows = chunk_rows(self.goal.chunk, self.depth)
        ways = [self.course.way(chunk) for chunk in chunks(self.goal.prompt, rows)]
        if streams(self.plan):
            steps = self._steps()
            return _stalled(ways, [steps.stalls(way) for way in ways])
        if self.depth == 1:
            return _stalled(ways, [[0.0] * len(way.stages) for way in ways])
        alone = ways[-1].breakdown
        wait = max(0.0, last_arrival(ways, self.depth) - alone.total.total)
        return replace(alone, total=alone.total + Times(wait=wait))

    @cached_property
    def tokens_per_second(self) -> float:
        """With all steps in flight."""
        requests = max(self.goal.batch, self.depth)
        return requests / self.decode(requests).total.total

    def decoding(self, batch: int) -> Way:
        rows = -(-batch // min(self.depth, batch))
        return self.course.way(Pass(rows, rows, self.goal.context, rows), goes_ahead(self.plan))

    def bottleneck(self, decode: Breakdown) -> str:
        way = self.decoding(self.goal.batch)
        if decode.total.wait > sum(stage.wait for stage in decode.stages):
            return max(way.taken, key=lambda name: way.taken[name])
        spent = dict(way.spent)
        for stage, times in zip(self.plan.routes[0].stages, decode.stages, strict=True):
            name = f"disk of {', '.join(stage.nodes)}"
            spent[name] = spent.get(name, 0.0) + times.disk
        return max(spent, key=lambda name: spent[name])

    def _steps(self) -> Steps:
        return Steps(self.course.route, self.course.setting, self._budgets)

    @cached_property
    def _budgets(self) -> dict[NodeName, int]:
        setting = self.course.setting
        return stream_budgets(self.plan, setting.fleet, setting.spec)


def _stalled(ways: Sequence[Way], stalls: Sequence[Sequence[float]]) -> Breakdown:
    """Steps one after the other, with what each waits in every stage."""
    waiting = [[Times(disk=seconds) for seconds in step] for step in stalls]
    listed = [*(way.breakdown.stages for way in ways), *waiting]
    stages = tuple(together(stage) for stage in zip(*listed, strict=True))
    return Breakdown(together(stages), stages)
