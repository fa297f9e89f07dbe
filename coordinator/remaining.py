"""What is left of a fleet, and of wishes about it, when nodes are lost. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.goal import Goal


def goal_over(goal: Goal, fleet: Fleet) -> Goal:
    """The goal without wishes about nodes that were lost."""
    names = {node.name for node in fleet.nodes}
    shares = {node: share for node, share in goal.shares.items() if node in names}
    return replace(goal, excluded=goal.excluded & names, pinned=goal.pinned & names, shares=shares)


def without(fleet: Fleet, lost: Mapping[NodeName, str]) -> Fleet:
    """The fleet without these nodes; if the engine's own is among them, the first one left takes its part.

    Raises:
        ValueError: none is left.
    """
    nodes = tuple(node for node in fleet.nodes if node.name not in lost)
    if not nodes:
        raise ValueError("no node is left; start the server again")
    links = {ends: link for ends, link in fleet.links.items() if not lost.keys() & set(ends)}
    engine = fleet.engine if fleet.engine not in lost else nodes[0].name
    return replace(fleet, nodes=nodes, engine=engine, links=links)
