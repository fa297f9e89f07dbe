"""Nodes take steps in the order in which they come, one at a time."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence

from potluck.planner.fleet import NodeName


class Job:
    """Work for some nodes together: begun when all of them have come to it."""

    def __init__(self, nodes: Sequence[NodeName], begin: Callable[[], None]) -> None:
        self.nodes, self.begin, self.begun = nodes, begin, False


class Queues:
    """One queue per node. A group's job enters those of all its members at once, so that no two wait for each other."""

    def __init__(self) -> None:
        self._queues: defaultdict[NodeName, deque[Job]] = defaultdict(deque)

    def enter(self, job: Job) -> None:
        """To the end of the line at every node."""
        for node in job.nodes:
            self._queues[node].append(job)
        self._try(job)

    def leave(self, job: Job) -> None:
        """It is done; whoever is next begins."""
        for node in job.nodes:
            self._queues[node].popleft()
        for node in job.nodes:
            if self._queues[node]:
                self._try(self._queues[node][0])

    def _try(self, job: Job) -> None:
        if not job.begun and all(self._queues[node][0] is job for node in job.nodes):
            job.begun = True
            job.begin()
