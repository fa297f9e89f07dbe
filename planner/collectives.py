"""What it takes N nodes to each get the sum of a part that each of them has: seconds and bytes on the wire.

TPI-LLM (arXiv 2410.00531, section 3.2) compares star, tree and ring: sums of a decoded token are so small that hops
decide, and a star has two, N - 1 fewer than half a ring. With S the bytes of a part, L a link's latency one way and B
its bandwidth, links full duplex and a node's copies sent (and received) one after another:

    star    2 hops: the lead receives N - 1 parts and adds, then sends N - 1 sums      2 L + 2 (N - 1) S / B
    direct  1 hop: everybody sends its part to everybody and adds                        L + (N - 1) S / B
    ring    2 (N - 1) hops of a chunk of S / N: reduce-scatter, all-gather             2 (N - 1) (L + S / (N B))

Links differ here, so each term is that of the slowest member. Adding takes no time beside the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise

from potluck.planner.all_reduce import Algorithm
from potluck.planner.fleet import Fleet, Link, NodeName

Mesh = Sequence[Sequence[Link]]
"""The links of a group: `mesh[i][j]` leads from member i to member j; a member reaches itself at no cost."""

# Of a part, from a decoded row of a small model to a prompt of a large one.
SIZES = tuple(1 << power for power in range(10, 29))


def mesh_of(fleet: Fleet, nodes: Sequence[NodeName]) -> Mesh:
    """The links among some nodes of a fleet, in their order."""
    return tuple(tuple(fleet.link(source, target) for target in nodes) for source in nodes)


def star_seconds(mesh: Mesh, nbytes: float) -> float:
    """Seconds of an all-reduce through the first member."""
    towards, away = [row[0] for row in mesh[1:]], mesh[0][1:]
    return sum(one_after_another([(link, nbytes) for link in links]) for links in (towards, away))


def direct_seconds(mesh: Mesh, nbytes: float) -> float:
    """Seconds until everybody has got everybody's part."""
    members = range(len(mesh))
    out = ([mesh[i][j] for j in members if j != i] for i in members)
    into = ([mesh[j][i] for j in members if j != i] for i in members)
    return max(one_after_another([(link, nbytes) for link in links]) for links in (*out, *into))


def ring_seconds(mesh: Mesh, nbytes: float) -> float:
    """Seconds of a reduce-scatter and an all-gather, each member sending to the next."""
    count = len(mesh)
    hops = (mesh[i][(i + 1) % count] for i in range(count))
    return 2 * (count - 1) * max(link.latency + nbytes / count / link.bandwidth for link in hops)


SECONDS: Mapping[Algorithm, Callable[[Mesh, float], float]] = {
    Algorithm.DIRECT: direct_seconds,
    Algorithm.STAR: star_seconds,
    Algorithm.RING: ring_seconds,
}


def fastest(mesh: Mesh, nbytes: float, among: Collection[Algorithm] = tuple(SECONDS)) -> Algorithm:
    """The algorithm that takes the least time for parts of so many bytes; of equals, the one with the fewest hops."""
    return min((one for one in SECONDS if one in among), key=lambda algorithm: SECONDS[algorithm](mesh, nbytes))


def choose(
    mesh: Mesh, sizes: Sequence[int], among: Collection[Algorithm] = tuple(SECONDS)
) -> tuple[tuple[int, Algorithm], ...]:
    """Which of some algorithms for parts of up to so many bytes, in rising order; 0 bytes is any size.

    Between two neighbours of `sizes` (rising) that want different algorithms, the byte where they cross is looked for.
    """
    found: list[tuple[int, Algorithm]] = []
    for below, above in pairwise(sizes):
        while (here := fastest(mesh, below, among)) is not fastest(mesh, above, among):
            below = _last_of(mesh, here, (below, above), among)
            found.append((below, here))
            below += 1
    return (*found, (0, fastest(mesh, sizes[-1], among)))


def _last_of(mesh: Mesh, algorithm: Algorithm, sizes: tuple[int, int], among: Collection[Algorithm]) -> int:
    """The largest size at which an algorithm is the fastest that is so at the first of two, and not at the last."""
    low, high = sizes
    while high - low > 1:
        middle = (low + high) // 2
        if fastest(mesh, middle, among) is algorithm:
            low = middle
        else:
            high = middle
    return low


def one_after_another(messages: Sequence[tuple[Link, float]]) -> float:
    """Seconds until a node has sent messages of so many bytes over these links, or received them, the last too."""
    latest = max((link.latency for link, _ in messages), default=0.0)
    return latest + sum(nbytes / link.bandwidth for link, nbytes in messages)
