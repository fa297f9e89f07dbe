"""Which nodes have fallen silent. Pure: whoever asks brings the time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from potluck.planner.fleet import NodeName


class Heartbeats:
    """When each node of an epoch last answered. A frozen process keeps its connections, so that nothing else tells."""

    def __init__(self, nodes: Sequence[NodeName], now: float) -> None:
        self._heard = dict.fromkeys(nodes, now)

    def heard(self, nodes: Iterable[NodeName], now: float) -> None:
        """These have just answered."""
        self._heard |= dict.fromkeys(nodes, now)

    def silent(self, limit: float, now: float) -> NodeName | None:
        """The node that has been silent the longest, if that is more than `limit` seconds."""
        node = min(self._heard, key=lambda node: self._heard[node])
        return node if now - self._heard[node] > limit else None
