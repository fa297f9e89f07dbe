"""One route in service: steps are packed, go from stage to stage, come back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

from potluck.models.sizes import itemsize
from potluck.planner.fleet import NodeName
from potluck.planner.group_sums import Setting
from potluck.planner.hops import entering_seconds
from potluck.planner.part_names import part_names
from potluck.planner.plan import Route
from potluck.planner.simulator.disk import Disk
from potluck.planner.simulator.packing import Packer, work_of
from potluck.planner.simulator.packing import Sequence as Request
from potluck.planner.simulator.queues import Job
from potluck.planner.simulator.visit import Place, Reader, Visit
from potluck.planner.simulator.world import Step, World
from potluck.planner.stage_seconds import stage_cost
from potluck.planner.stalls import streamed_layers
from potluck.planner.transfers import receivers, wants_sampled


class Line:
    """A route, its requests and its steps in flight."""

    def __init__(self, world: World, route: Route, setting: Setting, packing: tuple[Packer, int, bool]) -> None:
        """`packing`: who chooses what goes into a step, how many steps may be in flight, whether they go ahead."""
        self._world, self._route, self._setting = world, route, setting
        self.packer, self._depth, self._ahead = packing
        self._flying, self._free_at = 0, 0.0
        self._watched: Request | None = None
        costs = [stage_cost(stage, setting) for stage in route.stages]
        self._places = [Place(cost, {}) for cost in costs]
        self._nodes = [stage.nodes for stage in route.stages]
        self._names = [", ".join(part_names(stage.parts)) for stage in route.stages]
        self._targets = [self._nodes[0], *(receivers(*pair) for pair in pairwise(route.stages))]

    def stream(self, budgets: Mapping[NodeName, int]) -> None:
        """Read what the plan streams, within these bytes per node."""
        layers = defaultdict(list)
        for streamed in streamed_layers(self._route, self._setting):
            layers[streamed.node].append(streamed)
        readers: list[defaultdict[int, list[Reader]]] = [defaultdict(list) for _ in self._route.stages]
        for node, listed in layers.items():
            window = budgets[node], self._setting.fleet.node(node).disk_bandwidth or float("inf")
            sizes = [streamed.nbytes for streamed in listed]
            disk = Disk(f"disk of {node}", sizes, window, self._world.clock, self._world.meter)
            for number, streamed in enumerate(listed):
                place = self._nodes[streamed.stage].index(node)
                readers[streamed.stage][streamed.layer].append(Reader(place, disk, number))
        self._places = [Place(place.cost, found) for place, found in zip(self._places, readers, strict=True)]

    def submit(self, request: Request, watched: bool) -> None:
        """A request has arrived."""
        if watched:
            self._watched = request
        self.packer.submit(request)
        self._pump()

    def _pump(self) -> None:
        while self._flying < self._depth and (runs := self.packer.next_step()):
            step, self._free_at = self._launched(Step(runs, work_of(runs))), self._world.clock.now
            self._at(self._world.clock.now + self._setting.software.step, partial(self._cross, step, 0))

    def _launched(self, step: Step) -> Step:
        self._flying += 1
        if any(run.sequence is self._watched and run.draws_last for run in step.runs):
            self._world.meter.watched = step
        return step

    def _follow(self, before: Step, known: float) -> None:
        """What a step drew is known here, and at the engine from `known` on: decodes of it need not wait."""
        self._take(before, known)
        if not (runs := self.packer.next_step()):
            return
        step = self._launched(Step(runs, work_of(runs), all(run.decodes for run in runs)))
        if not step.follows:
            self._at(known + self._setting.software.step, partial(self._cross, step, 0))
            return
        lead, *others = self._nodes[0]
        sent = (self._world.clock.now, step, "drawn tokens")
        told = self._world.wires.send(lead, others, 0, sent, software=False) + self._setting.software.again
        # It was sent when the step before the one that drew its tokens was back.
        came = self._free_at + entering_seconds(self._setting.fleet, self._setting.software, self._nodes[0])
        self._free_at = known
        self._at(max(told, came), lambda: self._arrive(step, 0))

    def _cross(self, step: Step, number: int) -> None:
        """The hop into a stage, or back to the engine."""
        now, engine = self._world.clock.now, self._setting.fleet.engine
        source = self._nodes[number - 1][0] if number else engine
        if number == len(self._nodes):
            known = self._world.wires.send(source, (engine,), 0, (now, step, "result"))
            if self._ahead and all(run.decodes for run in step.runs):
                self._follow(step, known)
            else:
                self._at(known, lambda: self._back(step))
        elif not self._targets[number]:
            self._arrive(step, number)
        else:
            sent = (now, step, f"rows for {self._names[number]}")
            arrival = self._world.wires.send(source, self._targets[number], self._nbytes(step, number), sent)
            self._at(arrival, lambda: self._arrive(step, number))

    def _nbytes(self, step: Step, number: int) -> int:
        if not number:
            return 0
        rows = step.work.sampled if wants_sampled(self._route.stages[number]) else step.work.rows
        return rows * self._setting.spec.hidden * itemsize(self._setting.dtype)

    def _arrive(self, step: Step, number: int) -> None:
        job = Job(self._nodes[number], lambda: self._begin(job, step, number))
        self._world.queues.enter(job)

    def _begin(self, job: Job, step: Step, number: int) -> None:
        now, place, meter = self._world.clock.now, self._places[number], self._world.meter
        woken = now + (self._setting.software.stage if self._targets[number] and not step.follows else 0.0)
        for node in job.nodes if woken > now else ():
            meter.use(f"node {node}", now, woken, (step, "software"))
        if not place.is_plain:
            Visit(self._world, place, step, lambda: self._leave(job, step, number)).begin(woken)
            return
        done = woken + place.cost.computing(step.work)
        meter.use(f"node {job.nodes[0]}", woken, done, (step, self._names[number]))
        self._at(done, lambda: self._leave(job, step, number))

    def _leave(self, job: Job, step: Step, number: int) -> None:
        self._world.queues.leave(job)
        self._cross(step, number + 1)

    def _back(self, step: Step) -> None:
        self._take(step, self._world.clock.now)
        self._pump()

    def _take(self, step: Step, known: float) -> None:
        self._flying -= 1
        if self._world.meter.watched is step:
            self._world.meter.watched = None
        for run in step.runs:
            self._world.meter.finished += self.packer.returned(run, known)

    def _at(self, when: float, call: Callable[[], None]) -> None:
        self._world.clock.at(when, call)


def least_pending(lines: Sequence[Line]) -> Line:
    """The line with the fewest tokens to compute; of equals, the first."""
    return min(lines, key=lambda line: line.packer.pending)
