"""What everything that is simulated shares, and a step on its way."""

from __future__ import annotations

from dataclasses import dataclass

from potluck.models.costs import Pass
from potluck.planner.simulator.clock import Clock
from potluck.planner.simulator.meter import Meter
from potluck.planner.simulator.packing import Run
from potluck.planner.simulator.queues import Queues
from potluck.planner.simulator.wires import Wires


@dataclass(frozen=True, slots=True)
class World:
    """Time, who is busy, the lines at the nodes, the links between them."""

    clock: Clock
    meter: Meter
    queues: Queues
    wires: Wires


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step: what it carries, what the cost model sees of it, and whether it follows the one before at once."""

    runs: list[Run]
    work: Pass
    follows: bool = False
