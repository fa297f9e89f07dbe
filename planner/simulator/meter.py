"""Who was busy for how long, and the time line of the step that is watched."""

from __future__ import annotations

from collections import defaultdict

from potluck.planner.simulator.results import Span


class Meter:
    """Adds up what is done, and writes down what is done while it watches; counts the requests that have all tokens."""

    def __init__(self) -> None:
        self.busy: defaultdict[str, float] = defaultdict(float)
        self.timeline: list[Span] = []
        self.watched: object = None
        self.finished = 0

    def use(self, resource: str, start: float, end: float, work: tuple[object, str]) -> None:
        """`resource` is used from `start` to `end` for (step, what); for no step in particular, None."""
        self.busy[resource] += end - start
        step, what = work
        if self.watched is not None and (step is None or step is self.watched):
            self.timeline.append(Span(resource, start, end, what))
