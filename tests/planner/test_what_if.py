"""What if the fleet were another: edits of a fleet."""

import pytest

from potluck.planner.catalogue import Catalogue, LinkKind, Machine
from potluck.planner.fields import FieldError
from potluck.planner.fleet import Link
from potluck.planner.what_if import Changes, changed

WIFI, WIRE = Link(3e-3, 50e6), Link(0.2e-3, 117e6)


@pytest.fixture
def catalogue(homes):
    return Catalogue(
        {"box": Machine(homes.node("box", 30), "its maker")},
        {name: LinkKind(name, link, "", "") for name, link in (("wifi", WIFI), ("1g", WIRE))},
    )


@pytest.fixture
def home(homes):
    nodes = (homes.node("den"), homes.node("mini-pc"), homes.node("nas"))
    return homes.fleet(*nodes, links={("den", "nas"): Link(1e-3, 1e6)})


def names(fleet):
    return [node.name for node in fleet.nodes]


def test_nothing_changes_nothing(home, catalogue):
    assert not Changes()
    assert changed(home, Changes(), catalogue) == home


def test_machines_are_added_on_the_default_link(home, catalogue, homes):
    fleet = changed(home, Changes(add=("box", "box", "box=attic")), catalogue)
    assert names(fleet) == ["den", "mini-pc", "nas", "box", "box-2", "attic"]
    assert fleet.nodes[-1].devices == homes.node("box", 30).devices
    assert fleet.link("attic", "nas") == home.default_link


def test_nodes_are_removed_with_their_links_and_requests_arrive_elsewhere(home, catalogue):
    fleet = changed(home, Changes(remove=("den",)), catalogue)
    assert (names(fleet), fleet.engine, dict(fleet.links)) == (["mini-pc", "nas"], "mini-pc", {})
    assert changed(home, Changes(remove=("nas",)), catalogue).engine == "den"


def test_the_last_node_may_be_replaced(homes, catalogue):
    lone = homes.fleet(homes.node("den"))
    with pytest.raises(FieldError, match="no node would be left"):
        changed(lone, Changes(remove=("den",)), catalogue)


def test_links_are_replaced(home, catalogue):
    everywhere = changed(home, Changes(link=("wifi",)), catalogue)
    assert everywhere.default_link == everywhere.link("den", "nas") == WIFI
    one = changed(home, Changes(link=("den-mini-pc=1g",)), catalogue)
    assert one.link("den", "mini-pc") == one.link("mini-pc", "den") == WIRE
    assert one.link("den", "nas") == Link(1e-3, 1e6) and one.default_link == home.default_link
    one_way = changed(home, Changes(link=("nas->mini-pc=1g", "nas -> den=wifi")), catalogue)
    assert one_way.link("nas", "mini-pc") == WIRE and one_way.link("mini-pc", "nas") == home.default_link
    assert one_way.link("nas", "den") == WIFI
    both = changed(home, Changes(link=("wifi", "mini-pc - nas=1g")), catalogue)
    assert both.link("nas", "mini-pc") == WIRE and both.link("den", "nas") == WIFI


def test_added_nodes_have_links_too(home, catalogue):
    fleet = changed(home, Changes(add=("box",), remove=("nas",), link=("box-den=1g",)), catalogue)
    assert fleet.link("den", "box") == WIRE and fleet.link("box", "mini-pc") == home.default_link


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (Changes(add=("bxo",)), "--add bxo: the catalogue has no machine 'bxo'; did you mean 'box'?"),
        (Changes(add=("box=den",)), "--add box=den: the fleet has a node 'den' already"),
        (Changes(add=("box=",)), "a name has letters"),
        (Changes(add=("box=a b",)), "a name has letters"),
        (Changes(remove=("nass",)), "--remove nass: fleet 'home' has no node 'nass'; did you mean 'nas'?"),
        (Changes(remove=("nas", "nas")), "--remove nas is given twice; leave one out"),
        (Changes(link=("wfi",)), "--link wfi: there is no kind of link 'wfi'; did you mean 'wifi'?"),
        (Changes(link=("den-nas=2g",)), "there is no kind of link '2g'"),
        (Changes(link=("den-den=1g",)), "no two nodes are meant"),
        (Changes(link=("attic-nas=1g",)), "--link attic-nas: no two nodes are meant; write a-b=1g"),
        (Changes(link=("attic - nas=1g",)), "--link attic - nas: fleet 'home' has no node 'attic'"),
        (Changes(link=("den - den=1g",)), "a node needs no link to itself"),
    ],
)
def test_mistakes_are_named(home, catalogue, changes, says):
    with pytest.raises(FieldError) as error:
        changed(home, changes, catalogue)
    assert says in str(error.value)


def test_names_that_could_be_cut_in_two_ways_need_spaces(homes, catalogue):
    home = homes.fleet(*(homes.node(name) for name in ("a", "b-c", "a-b", "c")))
    with pytest.raises(FieldError, match="several pairs of nodes are meant; put spaces"):
        changed(home, Changes(link=("a-b-c=1g",)), catalogue)
    assert changed(home, Changes(link=("a - b-c=1g",)), catalogue).link("a", "b-c") == WIRE
