"""How a fleet file names links: `a - b` is both directions, `a -> b` one."""

from __future__ import annotations

import re

from potluck.planner.fields import FieldError
from potluck.planner.fleet import NodeName
from potluck.planner.place import Place

_ENDS = re.compile(r"\s*(\S+)\s+(->|-)\s+(\S+)\s*")


def link_ends(name: str, where: Place | str) -> list[tuple[NodeName, NodeName]]:
    """The directions that the name of the link at this place stands for.

    Raises:
        FieldError: it names no two different nodes.
    """
    match = _ENDS.fullmatch(name)
    if match is None:
        raise FieldError(f"{where}: write 'default', 'a - b' (both directions) or 'a -> b', with the spaces")
    source, arrow, target = NodeName(match[1]), match[2], NodeName(match[3])
    if source == target:
        raise FieldError(f"{where}: a node needs no link to itself")
    return [(source, target)] if arrow == "->" else [(source, target), (target, source)]


def link_name(source: NodeName, target: NodeName, both: bool) -> str:
    """The name of a link, as `link_ends` reads it."""
    return f"{source} {'-' if both else '->'} {target}"
