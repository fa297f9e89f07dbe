"""What if the fleet were another: machines added and removed, links replaced. Pure edits of a fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from potluck.planner.catalogue import Catalogue
from potluck.planner.fields import FieldError, shown, suggestion
from potluck.planner.fleet import Fleet, Link, NodeName
from potluck.planner.link_names import link_ends
from potluck.planner.node_file import node_name
from potluck.planner.place import Place


@dataclass(frozen=True, slots=True)
class Changes:
    """What to change, as typed: `rtx3060-12gb` or `rtx3060-12gb=den` to add, names to remove, `wifi` for all links or
    `a-b=1g` (both directions), `a->b=1g` (one)."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    link: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.remove or self.link)


def changed(fleet: Fleet, changes: Changes, catalogue: Catalogue) -> Fleet:
    """The fleet after all changes: first nodes go, then nodes come, then links change.

    Raises:
        FieldError: an unknown machine, node or kind of link, a name given twice, or no node left.
    """
    _check_changes(fleet, changes)
    for name in changes.remove:
        fleet = without(fleet, name)
    for asked in changes.add:
        fleet = with_machine(fleet, asked, catalogue)
    for asked in changes.link:
        try:
            fleet = with_link(fleet, asked, catalogue)
        except FieldError as error:
            raise _of_removed(asked, changes.remove) or error from None
    return fleet


def _check_changes(fleet: Fleet, changes: Changes) -> None:
    """Refuse changes that undo each other; a node may be removed for a machine of its name to be added."""
    names, added = {node.name for node in fleet.nodes}, {_named(asked): asked for asked in changes.add}
    for number, name in enumerate(changes.remove):
        if name in changes.remove[:number]:
            raise FieldError(f"--remove {name} is given twice; leave one out")
        if name not in names and name in added:
            raise FieldError(f"--remove {name} would take away what --add {added[name]} brings; leave both out")


def _of_removed(asked: str, removed: Sequence[str]) -> FieldError | None:
    """Of a link that cannot be, that one of its ends was removed, where that is why."""
    ends = asked.rpartition("=")[0]
    for name in removed:
        if ends.startswith((f"{name}-", f"{name} ")) or ends.endswith((f"-{name}", f">{name}", f" {name}")):
            return FieldError(f"--link {asked}: --remove {name} takes this node away; leave one of the two out")
    return None


def _named(asked: str) -> str:
    """The name of the node that `--add` brings, where nobody else has it."""
    machine, given, name = asked.partition("=")
    return name if given else machine


def without(fleet: Fleet, name: str) -> Fleet:
    """The fleet without a node and its links; where requests arrived there, they arrive at the first one left.

    Raises:
        FieldError: there is no such node, or it is the last one.
    """
    _check_node(fleet, name, f"--remove {name}")
    left = tuple(node for node in fleet.nodes if node.name != name)
    if not left:
        raise FieldError(f"--remove {name}: no node would be left; --add one, too, or keep it")
    links = {ends: link for ends, link in fleet.links.items() if name not in ends}
    return replace(fleet, nodes=left, links=links, engine=left[0].name if fleet.engine == name else fleet.engine)


def with_machine(fleet: Fleet, asked: str, catalogue: Catalogue) -> Fleet:
    """The fleet with a machine of the catalogue more, on the default link.

    Raises:
        FieldError: the catalogue has no such machine, or the fleet has a node of that name.
    """
    machine, given, name = asked.partition("=")
    place, names = Place(f"--add {asked}"), [str(node.name) for node in fleet.nodes]
    node = catalogue.machine(machine, place).node
    name = node_name(name if given else _free(machine, names), place)
    if name in names:
        raise FieldError(f"{place}: the fleet has a node {name!r} already; give another name: {machine}=NAME")
    return replace(fleet, nodes=(*fleet.nodes, replace(node, name=name)))


def with_link(fleet: Fleet, asked: str, catalogue: Catalogue) -> Fleet:
    """The fleet with all links, or those between two nodes, of a kind of the catalogue.

    Raises:
        FieldError: no such kind of link, or no such nodes.
    """
    ends, between, kind = asked.rpartition("=")
    link = catalogue.link(kind, f"--link {asked}")
    if not between:
        return replace(fleet, default_link=link, links={})
    changes: dict[tuple[NodeName, NodeName], Link] = dict.fromkeys(_ends(fleet, ends), link)
    return replace(fleet, links={**fleet.links, **changes})


def _ends(fleet: Fleet, text: str) -> list[tuple[NodeName, NodeName]]:
    """The directions of `a-b` or `a->b`. Names may have dashes, so the nodes say where the middle is."""
    place = f"--link {text}"
    if " " in text.strip():
        pairs = link_ends(text, place)
        for end in pairs[0]:
            _check_node(fleet, end, place)
        return pairs
    ways = list(permutations([node.name for node in fleet.nodes], 2))
    one_way = [[(a, b)] for a, b in ways if text == f"{a}->{b}"]
    found = one_way or [[(a, b), (b, a)] for a, b in ways if text == f"{a}-{b}"]
    if len(found) == 1:
        return found[0]
    names = ", ".join(node.name for node in fleet.nodes)
    remedy = "put spaces around the dash in the middle" if found else f"write a-b=1g or a->b=1g; there is: {names}"
    raise FieldError(f"{place}: {'several pairs of' if found else 'no two'} nodes are meant; {remedy}")


def _check_node(fleet: Fleet, name: str, place: str) -> None:
    names = [str(node.name) for node in fleet.nodes]
    if name not in names:
        raise FieldError(f"{place}: fleet {fleet.name!r} has no node {shown(name)}{suggestion(name, names)}")


def _free(name: str, taken: Sequence[str]) -> str:
    """The name, or with the first number that makes it a new one."""
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free
