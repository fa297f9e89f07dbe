"""The time to the first token: the chunks of a prompt on their way through the stages."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence

from potluck.planner.costs import Pass
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
    free: defaultdict[str, float] = defaultdict(float)
    arrivals = [(_enter(way, 0.0, free), number, 0) for number, way in enumerate(ways[:depth])]
    heapq.heapify(arrivals)
    sent, latest = len(arrivals), 0.0
    while arrivals:
        now, number, stage = heapq.heappop(arrivals)
        if stage == len(ways[number].stages):
            latest = max(latest, now)
            if sent < len(ways):
                heapq.heappush(arrivals, (_enter(ways[sent], now, free), sent, 0))
                sent += 1
            continue
        ended = _visit(ways[number], stage, now, free)
        heapq.heappush(arrivals, (_cross(ways[number], stage + 1, ended, free), number, stage + 1))
    return latest


def _enter(way: Way, now: float, free: defaultdict[str, float]) -> float:
    return _cross(way, 0, now + way.course.setting.software.step, free)


def _visit(way: Way, stage: int, now: float, free: defaultdict[str, float]) -> float:
    """When a stage that a step has come to is done with it."""
    nodes = way.course.route.stages[stage].nodes
    ended = max(now, *(free[node] for node in nodes)) + way.visits[stage].total
    free.update(dict.fromkeys(nodes, ended))
    return ended


def _cross(way: Way, number: int, now: float, free: defaultdict[str, float]) -> float:
    """When a hop's rows have arrived that are ready `now`."""
    hop = way.hops[number]
    if not hop.frames:
        return now
    free[hop.name] = max(now, free[hop.name]) + hop.wire
    return free[hop.name] + hop.latency + hop.frames * way.course.setting.software.frame
