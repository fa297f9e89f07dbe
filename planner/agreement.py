"""What the members of a group agree on about their sums: the type on the wire, and which algorithm for which size."""

from __future__ import annotations

from dataclasses import dataclass

from potluck.planner.all_reduce import Algorithm, Wire
from potluck.planner.collectives import SIZES, Mesh, choose, mesh_of
from potluck.planner.fleet import Fleet
from potluck.planner.plan import Plan, Stage

# Above this the link is as fast as memory, and rounding would cost more than the bytes it saves.
_FAST = 1e9
# On slower ones a sum of 512 rows takes a good part of the time of its product, which pieces travel under.
_PIECES = 4
# As in worker/overlap.py: with fewer rows a piece, a sum travels whole.
FEWEST_ROWS = 32


@dataclass(frozen=True, slots=True)
class Agreement:
    """How sums are formed. `reductions` are (most bytes, algorithm) in rising order, the last for any size (0 bytes);
    bytes are those of one member's part as it travels. `pieces`: that a sum of many rows travels in by direct exchange,
    each while the next is computed."""

    wire: Wire = Wire.FLOAT32
    reductions: tuple[tuple[int, Algorithm], ...] = ((0, Algorithm.STAR),)
    pieces: int = 1

    def algorithm(self, nbytes: int) -> Algorithm:
        """The algorithm for a part of so many bytes."""
        return next(algorithm for most, algorithm in self.reductions if not most or nbytes <= most)


def agreements(plan: Plan, fleet: Fleet) -> dict[int, Agreement]:
    """The agreement of every stage of the first route that a group runs, by the stage's number from 0."""
    stages = enumerate(plan.routes[0].stages)
    return {number: agreement(stage, fleet, plan.dtype) for number, stage in stages if stage.is_group}


def agreement(stage: Stage, fleet: Fleet, dtype: str) -> Agreement:
    """What a stage asks for, and where it does not, what its links make the best."""
    asked, mesh = stage.all_reduce, mesh_of(fleet, stage.nodes)
    wire = asked.wire or wire_of(mesh, dtype)
    reductions = ((0, asked.algorithm),) if asked.algorithm else choose(mesh, SIZES, wire.algorithms)
    return Agreement(wire, reductions, pieces_of(stage, mesh))


def pieces_of(stage: Stage, mesh: Mesh) -> int:
    """In how many pieces the sums of many rows travel."""
    asked = stage.all_reduce
    whole = asked.wire is Wire.INT8_FEEDBACK or _slowest(mesh) >= _FAST
    return asked.pieces or (1 if whole else _PIECES)


def wire_of(mesh: Mesh, dtype: str) -> Wire:
    """The type in which parts travel where nobody asks for one."""
    return Wire.FLOAT32 if dtype == "float32" or _slowest(mesh) >= _FAST else Wire.BFLOAT16


def _slowest(mesh: Mesh) -> float:
    return min(link.bandwidth for row in mesh for link in row)
