"""Who sends which rows to whom between two stages: the one function that decides about routing.

All members of a group have all rows of what comes out of their stage (they have summed them), so between two groups
rows go only to nodes that were not in the first, and its lead sends them. Rows sharded along the sequence would become
ranges per receiver.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from potluck.models.spec import PartKind
from potluck.planner.fleet import NodeName
from potluck.planner.plan import WHOLE, Route, Stage


class PackedStep(Protocol):
    """What a transfer needs to know of a step: its packed rows, and which of them are sampled."""

    @property
    def rows(self) -> int:
        """Packed rows."""

    def sampled_rows(self) -> list[int]:
        """Indices of the rows that go to the head, in order."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Rows of a step's activations that one node sends to another, as indices into the packed rows."""

    source: NodeName
    target: NodeName
    rows: tuple[int, ...]


def wants_sampled(stage: Stage) -> bool:
    """Whether a stage is the head alone, so that only sampled rows are sent to it."""
    return all(part.kind is PartKind.HEAD for part in stage.parts)


def receivers(before: Stage, after: Stage) -> tuple[NodeName, ...]:
    """The nodes of a stage that do not have its rows from the stage before; that one's lead sends them.

    Raises:
        ValueError: see `check_replicated`.
    """
    check_replicated(before)
    check_replicated(after)
    return tuple(node for node in after.nodes if node not in before.nodes)


def check_replicated(stage: Stage) -> None:
    """Refuse a stage whose rows are not all on every member.

    Raises:
        ValueError: the sequence is split, or a kind of part has nodes of its own.
    """
    if stage.groups or any(share.sequence != WHOLE for share in stage.shares):
        raise ValueError("a group's members do not all have the same rows; this version cannot route that")


def transfers(before: Stage, after: Stage, step: PackedStep) -> tuple[Transfer, ...]:
    """What crosses the boundary between two stages in a step; nothing to nodes that have both.

    A transfer without rows is still sent: the step itself travels with it.

    Raises:
        ValueError: see `check_replicated`.
    """
    rows = tuple(step.sampled_rows() if wants_sampled(after) else range(step.rows))
    return tuple(Transfer(before.nodes[0], node, rows) for node in receivers(before, after))


def route_transfers(route: Route, step: PackedStep) -> list[Transfer]:
    """All transfers of a step along a route, in order."""
    return [transfer for before, after in pairwise(route.stages) for transfer in transfers(before, after, step)]


def link_bytes(route: Route, step: PackedStep, row_bytes: int) -> dict[tuple[NodeName, NodeName], int]:
    """Payload bytes of a step on every link of a route; `row_bytes` is hidden x itemsize."""
    counts: Counter[tuple[NodeName, NodeName]] = Counter()
    for transfer in route_transfers(route, step):
        counts[transfer.source, transfer.target] += len(transfer.rows) * row_bytes
    return dict(counts)


def payload_bytes(route: Route, step: PackedStep, hidden: int, itemsize: int) -> int:
    """Payload bytes of a step: the sum over transfers of rows x hidden x itemsize; sums in groups not counted."""
    return sum(link_bytes(route, step, hidden * itemsize).values())
