"""What an assignment says of groups, checked before anything is allocated for it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import astuple

from potluck.models.spec import ModelSpec
from potluck.proto import cluster_pb2 as pb
from potluck.proto.errors import FrameError
from potluck.proto.step import MAX_NAME
from potluck.worker.cut import Cut
from potluck.worker.group import GroupPlan, check_group_plan


def read_cut(window: pb.Window, node: str) -> Cut | None:
    """What `node` holds of a window that a group runs; None where it runs it alone.

    Raises:
        FrameError: the node is not in the group, or the group does not say who has which rows.
    """
    if not window.HasField("group"):
        return None
    group = window.group
    if node not in group.nodes or not len(group.nodes) == len(group.first_rows) == len(group.end_rows):
        raise FrameError(f"stage {window.stage}: node {node!r} or its vocabulary rows are not in the group")
    place = list(group.nodes).index(node)
    return Cut(
        (group.first_head, group.end_head),
        (group.first_column, group.end_column),
        (group.first_rows[place], group.end_rows[place]),
    )


def read_groups(assignment: pb.Assignment, spec: ModelSpec) -> dict[int, GroupPlan]:
    """The groups of a node's windows, by stage.

    Raises:
        FrameError: a group could not work; the message says why.
    """
    groups = {}
    for window in assignment.windows:
        if window.HasField("group"):
            groups[window.stage] = _plan(window)
            try:
                _check(groups[window.stage], window, assignment, spec)
            except ValueError as error:
                raise FrameError(f"stage {window.stage}: {error}") from None
    return groups


def agreement_with(node: str, groups: Mapping[int, GroupPlan]) -> str:
    """A digest of the groups that `node` is in, by stage: its own of this node must be the same."""
    shared = sorted((stage, astuple(plan)) for stage, plan in groups.items() if node in plan.nodes)
    return hashlib.sha256(repr(shared).encode()).hexdigest()[:32]


def _plan(window: pb.Window) -> GroupPlan:
    group = window.group
    return GroupPlan(
        tuple(group.nodes),
        group.wire,
        tuple((reduction.most_bytes, reduction.algorithm) for reduction in group.reductions),
        tuple(zip(group.first_rows, group.end_rows, strict=False)),
        max(1, group.pieces),
    )


def _check(plan: GroupPlan, window: pb.Window, assignment: pb.Assignment, spec: ModelSpec) -> None:
    check_group_plan(plan, spec.vocab)
    ports = {peer.node: peer.data_port for peer in assignment.peers}
    for node in plan.nodes:
        if node not in ports:
            raise ValueError(f"member {node[:MAX_NAME]!r} is no peer")
        if not ports[node]:
            raise ValueError(f"member {node!r} has no data port, and sums travel over TCP only; serve with --wire tcp")
    if (window.embedding or window.head) and (0, spec.vocab) in plan.rows:
        raise ValueError("embedding and head in a group must be split by vocabulary")
    if plan.wire == "int8-feedback" and spec.post_norms:
        raise ValueError("int8-feedback cannot make good what a norm after the sum changes; use int8")
