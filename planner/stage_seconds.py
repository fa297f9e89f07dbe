"""Seconds that a stage takes for a step, alone or as a group.

A group is as slow as its slowest member at every part, since each part ends with a sum that all wait for:

    sum over parts of max over members of compute(share) + all-reduce, and a gather of logits at the head
"""

from __future__ import annotations

from dataclasses import dataclass

from potluck.models.spec import ModelSpec
from potluck.planner.agreement import wire_of
from potluck.planner.axes import local_spec
from potluck.planner.collectives import SECONDS, fastest, mesh_of, one_after_another
from potluck.planner.costs import Pass, seconds
from potluck.planner.fleet import Fleet
from potluck.planner.plan import Stage
from potluck.planner.sums import logits_traffic, sum_bytes, sums_per_step
from potluck.planner.transfers import check_replicated


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a step is computed: the fleet, the model, the compute type."""

    fleet: Fleet
    spec: ModelSpec
    dtype: str


def stage_seconds(stage: Stage, setting: Setting, work: Pass) -> float:
    """Seconds from when a stage's nodes have the rows until they have what comes out.

    Raises:
        ValueError: see `transfers.check_replicated`.
    """
    check_replicated(stage)
    return _compute_seconds(stage, setting, work) + (_sum_seconds(stage, setting, work) if stage.is_group else 0.0)


def _compute_seconds(stage: Stage, setting: Setting, work: Pass) -> float:
    members = [
        (local_spec(setting.spec, share), (setting.fleet.node(share.node).device, setting.dtype))
        for share in stage.shares
    ]
    return sum(max(seconds(spec, [part], work, compute) for spec, compute in members) for part in stage.parts)


def _sum_seconds(stage: Stage, setting: Setting, work: Pass) -> float:
    mesh, asked = mesh_of(setting.fleet, stage.nodes), stage.all_reduce
    nbytes = sum_bytes(work.rows, setting.spec.hidden, asked.wire or wire_of(mesh, setting.dtype))
    one = SECONDS[asked.algorithm or fastest(mesh, nbytes)](mesh, nbytes)
    return sums_per_step(stage) * one + _gather_seconds(stage, setting, work)


def _gather_seconds(stage: Stage, setting: Setting, work: Pass) -> float:
    traffic = logits_traffic(stage, work.sampled, setting.spec) if work.sampled else {}
    return one_after_another([(setting.fleet.link(*ends), nbytes) for ends, nbytes in traffic.items()])
