"""The time to the first token: the chunks of a prompt on their way through the stages."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence

from potluck.models.costs import Pass
from potluck.planner.way import Way

# Fewer rows cost nearly as much (`coordinator.scheduler.pack`).
_SMALLEST_CHUNK = 64


def chunk_rows(most: int, depth: int) -> int:
    """Most rows of a prompt in one step, of steps of `most` rows of which `depth` are in flight."""
    return most if depth == 1 else min(most, max(_SMALLEST_CHUNK, -(-most // depth)))


def chunks(prompt: int, rows: int) -> Iterator[Pass]:
    """The steps that compute a prompt."""
    for first in range(0, prompt, rows):
        end = min(first + rows, prompt)
        # A row attends to everything before it: on average the middle of the chunk.
        yield Pass(rows=end - first, sampled=int(end == prompt), context=(first + end + 1) // 2)


def last_arrival(ways: Sequence[Way], depth: int) -> float:
    """When the last of some steps is back at the engine, `depth` of them in flight, all there at second 0.

    Nodes take steps in the order in which they come, links one after the other: exact, also where nodes come round.
    """
    sending = _Sending(ways)
    for _ in range(depth):
        sending.enter(0.0)
    return sending.run()


class _Sending:
    """Steps on their way. Every event is (second, how many events were known before it, step, place).

    At place 2 i a step comes to stage i (the engine, where it has been everywhere), at 2 i + 1 it is done there.
    """

    def __init__(self, ways: Sequence[Way]) -> None:
        self._ways = ways
        self._events: list[tuple[float, int, int, int]] = []
        self._known = self._sent = 0
        self._free: defaultdict[str, float] = defaultdict(float)

    def enter(self, now: float) -> None:
        """The engine packs the next step, if there is one."""
        if self._sent < len(self._ways):
            self._add(now + self._ways[self._sent].course.setting.software.step, self._sent, -1)
            self._sent += 1

    def run(self) -> float:
        """When the last step is back, one entering for each that returns."""
        back = 0.0
        while self._events:
            now, _, number, place = heapq.heappop(self._events)
            if place % 2:
                self._cross(number, (place + 1) // 2, now)
            elif place < 2 * len(self._ways[number].stages):
                self._visit(number, place // 2, now)
            else:
                back = now if number == len(self._ways) - 1 else back
                self.enter(now)
        return back

    def _add(self, when: float, number: int, place: int) -> None:
        self._known += 1
        heapq.heappush(self._events, (when, self._known, number, place))

    def _visit(self, number: int, stage: int, now: float) -> None:
        way, free = self._ways[number], self._free
        nodes = way.course.route.stages[stage].nodes
        ended = max(now, *(free[node] for node in nodes)) + way.visits[stage].total
        free.update(dict.fromkeys(nodes, ended))
        self._add(ended, number, 2 * stage + 1)

    def _cross(self, number: int, stage: int, now: float) -> None:
        way, free = self._ways[number], self._free
        hop = way.hops[stage]
        if hop.frames:
            free[hop.name] = max(now, free[hop.name]) + hop.wire
            now = free[hop.name] + hop.latency + hop.frames * way.course.setting.software.frame
        self._add(now, number, 2 * stage)
