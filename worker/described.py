"""What a described node needs for the parts of a step's windows: the same roofline as in predictions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from potluck.models.costs import PartCost, Speeds, part_cost
from potluck.models.spec import ModelSpec, Part, PartKind
from potluck.proto.step import Run, Step
from potluck.worker.pace import Target
from potluck.worker.windows import Window, parts_of


@dataclass(frozen=True, slots=True)
class _Kind:
    """Parts that cost the same; `last`: the share of a row's products that the last one has."""

    cost: PartCost
    last: float

    def target(self, step: Step) -> Target:
        cost, rows = self.cost, len(step.sampled_rows()) if self.cost.at_head else step.rows
        attended = sum(_attended(run, cost.window) for run in step.runs)
        operations, memory = cost.roofline(rows, attended, sum(_read(run, cost.window) for run in step.runs))
        share = self.last * cost.row * rows / operations if operations else 0.0
        return Target(max(operations, memory), share)


class Described:
    """The windows of one epoch on the described node."""

    def __init__(self, spec: ModelSpec, windows: Sequence[Window], compute: tuple[Speeds, str]) -> None:
        """`compute`: the described device, in seconds of this machine's clock, and the compute type."""
        self._parts: dict[int, list[_Kind]] = {}
        for window in windows:
            local = window.spec(spec)
            kinds = [_Kind(part_cost(local, part, compute), _last(local, part)) for part in parts_of([window])]
            self._parts[window.stage] = kinds

    def targets(self, stage: int, step: Step) -> list[Target]:
        """What each part of a window takes, in order; none where the window is not known."""
        kinds = self._parts.get(stage, [])
        # Layers of a model are mostly alike.
        known = {kind: kind.target(step) for kind in set(kinds)}
        return [known[kind] for kind in kinds]


def _last(spec: ModelSpec, part: Part) -> float:
    if part.kind is PartKind.ATTENTION:
        query = spec.heads * spec.head_dim
        return query / (2 * query + spec.kv_width())
    return 1 / 3 if part.kind is PartKind.FFN else 0.0


def _attended(run: Run, window: int | None) -> int:
    """Positions that the rows of a run attend to in all; a row attends to itself and what is before it."""
    first, end = run.position + 1, run.position + len(run.tokens)
    short = end if window is None else min(end, max(window, first - 1))
    # Rows up to `short` attend to all that is before them, those after it to a window.
    return (first + short) * (short - first + 1) // 2 + (end - short) * (window or 0)


def _read(run: Run, window: int | None) -> int:
    """Positions of a run's sequence whose KV is read."""
    end = run.position + len(run.tokens)
    return end if window is None else min(end, window + len(run.tokens) - 1)
