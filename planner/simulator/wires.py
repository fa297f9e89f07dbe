"""Links between nodes: bytes follow one another on the wire, latencies overlap (`proto/shaper.py`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.simulator.meter import Meter


class Wires:
    """All links of a fleet."""

    def __init__(self, fleet: Fleet, frame: float, meter: Meter) -> None:
        """`frame`: seconds that software adds to every frame."""
        self._fleet, self._frame, self._meter = fleet, frame, meter
        self._free_at: defaultdict[tuple[NodeName, NodeName], float] = defaultdict(float)

    def send(
        self,
        source: NodeName,
        targets: Sequence[NodeName],
        nbytes: float,
        when: tuple[float, object, str],
        software: bool = True,
    ) -> float:
        """When the last of some nodes has got as many bytes that a node sends to one after the other.

        `when` is (second, step, what): from when on, for which step, and what it is. Without `software`, what that adds
        is counted elsewhere.
        """
        now, step, what = when
        latest = sent = now
        for target in targets:
            link = self._fleet.link(source, target)
            start = max(sent, self._free_at[source, target])
            sent = self._free_at[source, target] = start + nbytes / link.bandwidth
            latest = max(latest, sent + link.latency)
            self._meter.use(f"link {source} -> {target}", start, sent, (step, what))
        return latest + (len(targets) * self._frame if software else 0.0)
