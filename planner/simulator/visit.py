"""One step at one stage: parts in order, sums between them, waiting for layers that are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from potluck.models.spec import PartKind
from potluck.planner.all_reduce import Algorithm
from potluck.planner.part_names import part_names
from potluck.planner.simulator.disk import Disk
from potluck.planner.simulator.reductions import REDUCTIONS
from potluck.planner.simulator.world import Step, World
from potluck.planner.stage_seconds import StageCost
from potluck.planner.sums import logits_traffic


@dataclass(frozen=True, slots=True)
class Reader:
    """A member of a stage that streams a layer: its place, its disk, and the layer's number there."""

    place: int
    disk: Disk
    layer: int


@dataclass(frozen=True, slots=True)
class Place:
    """A stage: its costs, and who streams which of its layers."""

    cost: StageCost
    readers: Mapping[int, Sequence[Reader]]

    @property
    def is_plain(self) -> bool:
        """Whether nothing can hold up the one node that it has."""
        return not self.readers and not self.cost.stage.is_group


class Visit:
    """A step at a stage of a group, or of streamed layers. `times` is until when each member is occupied."""

    def __init__(self, world: World, place: Place, step: Step, done: Callable[[], None]) -> None:
        self._world, self._place, self._step, self._done = world, place, step, done
        self._stage, self._nodes = place.cost.stage, place.cost.stage.nodes
        self._times = [world.clock.now] * len(self._nodes)
        self._part = 0

    def begin(self, start: float) -> None:
        """Compute from `start` on."""
        self._times = [start] * len(self._times)
        self._go_on()

    def _go_on(self) -> None:
        while self._part < len(self._stage.parts):
            part = self._stage.parts[self._part]
            readers = self._place.readers.get(part.layer, ()) if part.layer is not None else ()
            if part.kind is PartKind.ATTENTION and readers:
                self._world.clock.at(max(self._times), partial(self._ask, readers))
                return
            self._compute()
            if part.kind is PartKind.FFN and readers:
                self._world.clock.at(max(self._times), partial(self._release, readers))
                return
        self._gather()
        self._world.clock.at(max(self._times), self._done)

    def _ask(self, readers: Sequence[Reader]) -> None:
        missing = [reader.place for reader in readers]

        for reader in readers:
            reader.disk.need(reader.layer, partial(self._there, reader.place, missing))

    def _there(self, place: int, missing: list[int]) -> None:
        missing.remove(place)
        self._times[place] = self._world.clock.now
        if not missing:
            self._compute()
            self._go_on()

    def _release(self, readers: Sequence[Reader]) -> None:
        for reader in readers:
            reader.disk.release(reader.layer)
        self._go_on()

    def _compute(self) -> None:
        part = self._stage.parts[self._part]
        what = self._step, part_names([part])[0]
        for place, member in enumerate(self._place.cost.parts[self._part]):
            start = self._times[place]
            self._times[place] = start + member.taken(self._step.work)
            self._world.meter.use(f"node {self._nodes[place]}", start, self._times[place], what)
        self._part += 1
        if self._stage.is_group and part.kind is not PartKind.HEAD:
            self._sum(f"sum after {what[1]}", part.kind)

    def _sum(self, what: str, kind: PartKind) -> None:
        cost, work = self._place.cost, self._step.work
        pieces = cost.pieces(work) if kind is not PartKind.EMBEDDING else 1
        if pieces > 1:
            self._overlapped(what, kind, pieces)
            return
        nbytes = cost.sum_bytes(work)
        reduce = REDUCTIONS[cost.algorithm(nbytes)]
        self._summed(reduce(cost.mesh, nbytes, self._times, self._sent(what)))

    def _overlapped(self, what: str, kind: PartKind, pieces: int) -> None:
        """Each piece is sent when it is computed and the one before has arrived; the last product is over already."""
        cost, work = self._place.cost, self._step.work
        members = cost.parts[self._part - 1]
        each = [seconds / pieces for seconds in cost.product_seconds(kind, members, work)]
        now = [time - pieces * one for time, one in zip(self._times, each, strict=True)]
        there = now
        for _ in range(pieces):
            now = [max(time + one, done) for time, one, done in zip(now, each, there, strict=True)]
            there = REDUCTIONS[Algorithm.DIRECT](cost.mesh, cost.piece_bytes(work), now, self._sent(what))
        self._summed(there)

    def _summed(self, times: list[float]) -> None:
        self._times = [time + self._place.cost.setting.software.sum for time in times]

    def _sent(self, what: str) -> Callable[[int, int, float, float], None]:
        nodes, meter = self._nodes, self._world.meter

        def sent(source: int, target: int, start: float, end: float) -> None:
            meter.use(f"link {nodes[source]} -> {nodes[target]}", start, end, (self._step, what))

        return sent

    def _gather(self) -> None:
        """The lead has all logits when the last of the other members' have come in, one after the other."""
        cost, work = self._place.cost, self._step.work
        if not (self._stage.is_group and self._stage.has_head and work.sampled):
            return
        free_at = self._times[0]
        for (source, target), nbytes in logits_traffic(self._stage, work.sampled, cost.setting.spec).items():
            link, place = cost.setting.fleet.link(source, target), self._nodes.index(source)
            free_at = max(free_at, self._times[place] + link.latency) + nbytes / link.bandwidth
            start = free_at - link.latency - nbytes / link.bandwidth
            self._sent("logits")(place, 0, start, start + nbytes / link.bandwidth)
        self._times[0] = free_at + cost.setting.software.sum
