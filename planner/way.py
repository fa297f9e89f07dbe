"""The way of one step through a route: its hops and stages, and how long each node and link is taken by it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from potluck.models.costs import Pass
from potluck.models.sizes import itemsize
from potluck.planner.collectives import one_after_another
from potluck.planner.fleet import Link, NodeName
from potluck.planner.group_sums import Setting
from potluck.planner.plan import Route, Stage
from potluck.planner.prediction import Breakdown, Times, together
from potluck.planner.stage_seconds import StageCost, stage_cost
from potluck.planner.transfers import receivers, wants_sampled


@dataclass(frozen=True, slots=True)
class Hop:
    """What crosses the boundary before a stage.

    Attributes:
        name: of the link, or the links.
        wire: seconds that the sender's link is taken.
        latency: seconds from then until the last receiver has it.
        frames: how many are sent one after the other; none where the rows are there already.
    """

    name: str
    wire: float = 0.0
    latency: float = 0.0
    frames: int = 0

    @property
    def seconds(self) -> float:
        """From the start of sending to the last arrival, software aside."""
        return self.wire + self.latency


@dataclass(frozen=True)
class Way:
    """One step that meets nobody: `hops[i]` leads into stage i, the last one back to the engine.

    One that goes `ahead` was in its stage before its tokens were: there is no way from or to the engine in it.
    """

    course: Course
    work: Pass
    hops: tuple[Hop, ...]
    stages: tuple[Times, ...]
    ahead: bool = False

    @cached_property
    def visits(self) -> tuple[Times, ...]:
        """The stages with what software adds to computing."""
        entered = (Times(software=self.course.setting.software.stage if hop.frames else 0.0) for hop in self.hops)
        return tuple(stage + software for stage, software in zip(self.stages, entered, strict=False))

    @property
    def back(self) -> float:
        """Seconds of the way back to the engine."""
        return self.hops[-1].seconds + self.course.setting.software.frame

    @cached_property
    def breakdown(self) -> Breakdown:
        """What it all takes; every hop counts to the stage that it leads into, the last one to the last stage."""
        software = self.course.setting.software
        ways = [Times(transfer=hop.seconds, software=hop.frames * software.frame) for hop in self.hops]
        ways[0] += Times(software=software.again if self.ahead else software.step)
        back = ways.pop()
        ways[-1] += back
        stages = tuple(visit + way for visit, way in zip(self.visits, ways, strict=True))
        return Breakdown(together(stages), stages)

    @cached_property
    def spent(self) -> dict[str, float]:
        """Seconds of the way by what they are spent on, for naming the bottleneck."""
        found: defaultdict[str, float] = defaultdict(float)
        for stage, times in zip(self.course.route.stages, self.stages, strict=True):
            found[f"node {stage.nodes[0]}" if not stage.is_group else f"nodes {', '.join(stage.nodes)}"] += (
                times.compute + times.memory + times.wait
            )
            if times.sums:
                found[f"sums of {', '.join(stage.nodes)}"] += times.sums
        for hop in self.hops:
            if hop.frames:
                found[f"link {hop.name}"] += hop.seconds
        return dict(found)

    @cached_property
    def taken(self) -> dict[str, float]:
        """Seconds that every node and link is taken for, so that no other step gets on there."""
        found: defaultdict[str, float] = defaultdict(float)
        for stage, times in zip(self.course.route.stages, self.visits, strict=True):
            for node in stage.nodes:
                found[f"node {node}"] += times.total
        for hop in self.hops:
            if hop.frames:
                found[f"link {hop.name}"] += hop.wire
        return dict(found)


@dataclass(frozen=True)
class Course:
    """A route through a fleet, ready to be worked out for any step."""

    route: Route
    setting: Setting
    costs: tuple[StageCost, ...]

    def way(self, work: Pass, ahead: bool = False) -> Way:
        """The way of a step, which may go ahead where there is one stage (`memory.goes_ahead`)."""
        hops = self._hops_ahead() if ahead else self._hops(work)
        return Way(self, work, tuple(hops), tuple(cost.times(work) for cost in self.costs), ahead)

    def _hops_ahead(self) -> Iterator[Hop]:
        """The lead tells the others what it drew; the engine hears of it while they go on."""
        lead, *others = self.route.stages[0].nodes
        yield replace(self._hop(lead, tuple(others), 0), frames=0)
        yield Hop(f"{lead} -> {self.setting.fleet.engine}")

    def _hops(self, work: Pass) -> Iterator[Hop]:
        engine, stages = self.setting.fleet.engine, self.route.stages
        yield self._hop(engine, stages[0].nodes, 0)
        row = self.setting.spec.hidden * itemsize(self.setting.dtype)
        for before, after in pairwise(stages):
            yield self._hop(before.nodes[0], receivers(before, after), row * _rows(after, work))
        yield self._hop(stages[-1].nodes[0], (engine,), 0)

    def _hop(self, source: NodeName, targets: tuple[NodeName, ...], nbytes: int) -> Hop:
        links: list[tuple[Link, float]] = [(self.setting.fleet.link(source, target), nbytes) for target in targets]
        latency = max((link.latency for link, _ in links), default=0.0)
        return Hop(f"{source} -> {', '.join(targets)}", one_after_another(links) - latency, latency, len(links))


def course(route: Route, setting: Setting) -> Course:
    """The course of a route.

    Raises:
        ValueError: see `transfers.check_replicated`.
    """
    return Course(route, setting, tuple(stage_cost(stage, setting) for stage in route.stages))


def _rows(after: Stage, work: Pass) -> int:
    return work.sampled if wants_sampled(after) else work.rows
