"""All-reduces message by message: every member sends when it has something to send, and receives one after the other.

`ready[i]` is when member i has computed its part; what comes back is when each of them has the sum, and has sent all
that others need of it. As in `collectives`, links are full duplex, a member's copies leave and arrive one after the
other, and adding takes no time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from potluck.planner.all_reduce import Algorithm
from potluck.planner.collectives import Mesh

Sent = Callable[[int, int, float, float], None]
"""Told of every message: from which member to which, from when until when it is on the wire."""


def star(mesh: Mesh, nbytes: float, ready: Sequence[float], sent: Sent) -> list[float]:
    """Through the first member."""
    workers = range(1, len(mesh))
    messages = [(worker, 0, ready[worker]) for worker in workers]
    total = max(ready[0], _received(mesh, nbytes, messages, sent))
    free_at, back = total, []
    for worker in workers:
        start, free_at = free_at, free_at + nbytes / mesh[0][worker].bandwidth
        sent(0, worker, start, free_at)
        back.append(free_at + mesh[0][worker].latency)
    return [free_at, *back]


def direct(mesh: Mesh, nbytes: float, ready: Sequence[float], sent: Sent) -> list[float]:
    """Everybody to everybody, the next in the circle first, so that nobody gets all copies at once."""
    count = len(mesh)
    starts: dict[tuple[int, int], float] = {}
    free_at = list(ready)
    for source in range(count):
        for step in range(1, count):
            target = (source + step) % count
            starts[source, target] = free_at[source]
            free_at[source] += nbytes / mesh[source][target].bandwidth
    return [
        max(
            free_at[target],
            _received(mesh, nbytes, [(s, target, starts[s, target]) for s in range(count) if s != target], sent),
        )
        for target in range(count)
    ]


def ring(mesh: Mesh, nbytes: float, ready: Sequence[float], sent: Sent) -> list[float]:
    """A chunk round the circle, added to, and round once more."""
    count, now = len(mesh), list(ready)
    for _ in range(2 * (count - 1)):
        free_at = [
            start + nbytes / count / mesh[source][(source + 1) % count].bandwidth for source, start in enumerate(now)
        ]
        for source, start in enumerate(list(now)):
            target = (source + 1) % count
            message = source, target, start
            free_at[target] = max(free_at[target], _received(mesh, nbytes / count, [message], sent))
        now = free_at
    return now


REDUCTIONS: Mapping[Algorithm, Callable[[Mesh, float, Sequence[float], Sent], list[float]]] = {
    Algorithm.STAR: star,
    Algorithm.DIRECT: direct,
    Algorithm.RING: ring,
}


def _received(mesh: Mesh, nbytes: float, messages: Sequence[tuple[int, int, float]], sent: Sent) -> float:
    """When a member has the last of some messages, (source, target, sent from when on) each."""
    first_bytes = sorted((start + mesh[source][target].latency, source, target) for source, target, start in messages)
    free_at = 0.0
    for arrives, source, target in first_bytes:
        link = mesh[source][target]
        free_at = max(free_at, arrives) + nbytes / link.bandwidth
        sent(source, target, arrives - link.latency, arrives - link.latency + nbytes / link.bandwidth)
    return free_at
