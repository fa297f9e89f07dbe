"""Seconds that a stage takes for a step, alone or as a group, and what they are made of.

A group is as slow as its slowest member at every part, since each part ends with a sum that all wait for:

    sum over parts of max over members of compute(share) + all-reduce, and a gather of logits at the head

Of the slowest member's time, what members take on average is counted as theirs, the rest as waiting. What software adds
to a layer is part of a member's time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from potluck.models.costs import PartCost, Pass, part_cost
from potluck.models.sizes import formats_of
from potluck.models.spec import ModelSpec, Part
from potluck.planner.axes import local_spec
from potluck.planner.group_sums import GroupSums, Members, Setting
from potluck.planner.plan import Stage
from potluck.planner.prediction import Times, together
from potluck.planner.transfers import check_replicated


@dataclass(frozen=True)
class StageCost(GroupSums):
    """A stage's costs, ready to be worked out for any step; `parts` in order."""

    def times(self, work: Pass) -> Times:
        """From when a stage's nodes have the rows until they have what comes out; nothing is read from disk."""
        computed = together(_slowest(members, work).times(count) for members, count in self._alike.items())
        return computed + self.sums(work) if self.stage.is_group else computed

    def computing(self, work: Pass) -> float:
        """Seconds that the slowest members compute, sums aside."""
        taken = 0.0
        for members, count in self._alike.items():
            # Most stages have one node, and simulations ask millions of times.
            one = len(members) == 1
            most = members[0].taken(work) if one else max(member.taken(work) for member in members)
            taken += count * most
        return taken

    @cached_property
    def _alike(self) -> dict[Members, int]:
        # Layers of a model are mostly alike: a stage is as quick to work out as it has kinds of parts.
        return Counter(self.parts)


def stage_cost(stage: Stage, setting: Setting) -> StageCost:
    """The costs of a stage.

    Raises:
        ValueError: see `transfers.check_replicated`.
    """
    check_replicated(stage)
    members = [
        (local_spec(setting.spec, share), (setting.fleet.node(share.node).device, setting.dtype))
        for share in stage.shares
    ]
    known: dict[object, Members] = {}
    for part in stage.parts:
        if (like := _like(setting.spec, part)) not in known:
            known[like] = tuple(part_cost(spec, part, compute) for spec, compute in members)
    return StageCost(stage, setting, tuple(known[_like(setting.spec, part)] for part in stage.parts))


def stage_seconds(stage: Stage, setting: Setting, work: Pass) -> float:
    """Seconds from when a stage's nodes have the rows until they have what comes out.

    Raises:
        ValueError: see `transfers.check_replicated`.
    """
    return stage_cost(stage, setting).times(work).total


def _like(spec: ModelSpec, part: Part) -> object:
    """What parts that cost the same have in common."""
    window = spec.layers[part.layer].window if part.layer is not None else None
    return part.kind, window, formats_of(spec, [part])


@dataclass(frozen=True, slots=True)
class _Slowest:
    mean: float
    overhead: float
    wait: float
    by_operations: bool

    def times(self, count: int) -> Times:
        compute, memory = (self.mean, 0.0) if self.by_operations else (0.0, self.mean)
        return Times(count * compute, count * memory, wait=count * self.wait, software=count * self.overhead)


def _slowest(members: Sequence[PartCost], work: Pass) -> _Slowest:
    taken = [cost.taken(work) for cost in members]
    operations, memory = members[taken.index(max(taken))].seconds(work)
    mean = _mean(max(cost.seconds(work)) for cost in members)
    overhead = _mean(cost.overhead for cost in members)
    return _Slowest(mean, overhead, max(taken) - _mean(taken), operations > memory)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
