"""What a fleet refuses to be."""

import pytest

from potluck.planner.fleet import Device, Fleet, Link, Node

NAN = float("nan")


@pytest.mark.parametrize(("latency", "bandwidth"), [(-1.0, 1.0), (0.0, 0.0), (0.0, -1.0), (NAN, 1.0), (0.0, NAN)])
def test_links_that_nothing_could_cross(latency, bandwidth):
    with pytest.raises(ValueError, match="nothing could cross it"):
        Link(latency, bandwidth)


@pytest.mark.parametrize("device", [(0.0, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, 0), (NAN, 1.0, 1), (1.0, NAN, 1)])
def test_nodes_that_could_run_nothing(device):
    with pytest.raises(ValueError, match="node 'a': speed"):
        Node("a", (Device("cpu", *device),))
    with pytest.raises(ValueError, match="node 'a' has no device"):
        Node("a", ())


def test_fleets_that_name_nodes_wrongly(homes):
    link = Link(0.0, 1.0)
    with pytest.raises(ValueError, match="names a node twice"):
        Fleet((homes.node("a"), homes.node("a")), "a", link)
    with pytest.raises(ValueError, match="has no node b"):
        Fleet((homes.node("a"),), "b", link)
    with pytest.raises(ValueError, match="has no node c"):
        Fleet((homes.node("a"),), "a", link, {("a", "c"): link})
    with pytest.raises(ValueError, match="has no nodes"):
        Fleet((), "a", link)


def test_a_node_reaches_itself_at_no_cost_and_others_by_default(homes):
    fleet = homes.fleet(homes.node("a"), homes.node("b"), links={("a", "b"): Link(0.5, 2.0)})
    assert fleet.link("a", "a") == Link(0.0, float("inf"))
    assert fleet.link("a", "b") == Link(0.5, 2.0)
    assert fleet.link("b", "a") == fleet.default_link


def test_the_device_used_is_the_quickest_at_streaming():
    node = Node("a", (Device("cpu", 9e9, 1e9, 8), Device("cuda", 1e9, 9e9, 2)))
    assert node.device.kind == "cuda"
