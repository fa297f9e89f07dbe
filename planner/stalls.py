"""How long steps wait for streamed layers: one step after the other through the windows of all nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from potluck.models.sizes import layer_parts
from potluck.models.spec import PartKind
from potluck.planner.alike import layer_sorts, like
from potluck.planner.fleet import NodeName
from potluck.planner.group_sums import Setting
from potluck.planner.part_sizes import part_sizes
from potluck.planner.plan import Residency, Route
from potluck.planner.prefetch import Window
from potluck.planner.way import Way

# A reply of so many tokens is long enough to say how fast the ones that follow come.
_MOST_TOKENS = 100


@dataclass(frozen=True, slots=True)
class Streamed:
    """A streamed layer of a stage on one node, and its bytes there."""

    node: NodeName
    stage: int
    layer: int
    nbytes: int


def streamed_layers(route: Route, setting: Setting) -> Iterator[Streamed]:
    """Every streamed layer of a route on every node that has it, in the order in which steps need them."""
    sorts = layer_sorts(setting.spec)
    for number, stage in enumerate(route.stages):
        streaming = [share for share in stage.shares if share.residency is Residency.STREAMED]
        sizes = {
            share.node: part_sizes(setting.spec, setting.dtype, setting.fleet.node(share.node).device.kind)
            for share in streaming
        }
        for layer in stage.layers if streaming else ():
            parts = [(part, like(part, sorts)) for part in layer_parts([layer])]
            for share in streaming:
                nbytes = sum(sizes[share.node].of(part, share, alike).weights for part, alike in parts)
                yield Streamed(share.node, number, layer, nbytes)


class Steps:
    """Steps of one route, one in flight at a time. Before the first, every window is full."""

    def __init__(self, route: Route, setting: Setting, budgets: Mapping[NodeName, int]) -> None:
        """`budgets` are bytes for streamed layers (`memory.stream_budgets`)."""
        layers: defaultdict[NodeName, list[int]] = defaultdict(list)
        self._readers: defaultdict[tuple[int, int], list[NodeName]] = defaultdict(list)
        for streamed in streamed_layers(route, setting):
            layers[streamed.node].append(streamed.nbytes)
            self._readers[streamed.stage, streamed.layer].append(streamed.node)
        self._windows = {
            node: Window(sizes, budgets[node], setting.fleet.node(node).disk_bandwidth or float("inf"))
            for node, sizes in layers.items()
        }
        self._now = 0.0

    def stalls(self, way: Way) -> list[float]:
        """Seconds that the next step, begun when the last one ended, waits in each stage."""
        ways, found = way.breakdown.stages, []
        for number, (stage, times) in enumerate(zip(way.course.route.stages, ways, strict=True)):
            computing = way.stages[number].total
            back = way.back if number == len(ways) - 1 else 0.0
            begun = self._now + times.total - computing - back
            streams = any(share.residency is Residency.STREAMED for share in stage.shares)
            ended = self._through(way, number, begun) if streams else begun + computing
            found.append(max(0.0, ended - begun - computing))
            self._now = ended + back
        return found

    def steady(self, way: Way) -> list[float]:
        """Seconds that a step waits in each stage once one is like the other.

        Exact where the windows come back to a state that they were in; else the mean of the second half of a long
        reply.
        """
        seen: dict[tuple[object, ...], int] = {}
        history: list[list[float]] = []
        while len(history) < _MOST_TOKENS:
            state = self._state(way.breakdown.total.total)
            if state in seen:
                return _mean(history[seen[state] :])
            seen[state] = len(history)
            history.append(self.stalls(way))
        return _mean(history[_MOST_TOKENS // 2 :])

    def _state(self, scale: float) -> tuple[object, ...]:
        return tuple(window.lags(self._now, scale) for window in self._windows.values())

    def _through(self, way: Way, number: int, now: float) -> float:
        """When a stage that is begun `now` is done, all parts and sums one after the other."""
        cost, work = way.course.costs[number], way.work
        stage, nodes = cost.stage, cost.stage.nodes
        summed = 0.0
        for part, members in zip(stage.parts, cost.parts, strict=True):
            taken = [member.taken(work) for member in members]
            readers = self._readers.get((number, part.layer), []) if part.layer is not None else []
            begun = dict.fromkeys(nodes, now)
            if part.kind is PartKind.ATTENTION:
                begun |= {node: self._windows[node].reach(now) for node in readers}
            now = max(begun[node] + seconds for node, seconds in zip(nodes, taken, strict=True))
            if stage.is_group and part.kind is not PartKind.HEAD:
                one_sum = cost.sum_seconds(part.kind, members, work) + cost.setting.software.sum
                now, summed = now + one_sum, summed + one_sum
            for node in readers if part.kind is PartKind.FFN else ():
                self._windows[node].leave(now)
        return now + (cost.sums(work).total - summed if stage.is_group else 0.0)


def _mean(steps: list[list[float]]) -> list[float]:
    return [sum(stage) / len(steps) for stage in zip(*steps, strict=True)]
