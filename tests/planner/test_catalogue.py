"""The catalogue of common machines and links: what ships, and what its file may say."""

import re
from importlib import resources

import pytest

from potluck.planner.catalogue import catalogue_from_data
from potluck.planner.fields import FieldError
from potluck.planner.fleet import Link
from potluck.planner.fleet_file import fleet_from_data
from potluck.planner.yaml_text import read_yaml

GIB = 2**30
SMALL = """
shares:
  cpu: {flops: 0.5, memory_bandwidth: 0.5, memory: 0.75}
  cuda: {flops: 0.5, memory_bandwidth: 0.8, memory: 0.9}
machines:
  box: {device: a box, flops: 100 GFLOPS, memory_bandwidth: 40 GB/s, memory: 8 GiB, disk: 1 GB/s, source: its maker}
  card: {device: a card, kind: cuda, flops: 10 TFLOPS, memory_bandwidth: 400 GB/s, memory: 10 GiB, source: its maker}
links:
  wifi: {latency: 3 ms, bandwidth: 400 Mbit, about: air, source: a norm}
  ethernet-100m: {latency: 0.3 ms, bandwidth: 94 Mbit, about: wire, source: a norm}
"""


@pytest.fixture(scope="module")
def shipped():
    return catalogue_from_data(read_yaml((resources.files("potluck.deploy") / "catalogue.yaml").read_text("utf-8")))


@pytest.fixture
def small():
    return catalogue_from_data(read_yaml(SMALL))


def test_what_ships_is_enough_and_says_where_it_is_from(shipped):
    assert len(shipped.machines) >= 25
    assert {machine.node.device.kind for machine in shipped.machines.values()} == {"cpu", "cuda", "metal"}
    for name, machine in shipped.machines.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert re.match(r"[a-z.]+\.(com|org)[/,]", machine.source), name
    assert {"wifi", "ethernet-100m", "1g", "2.5g", "10g", "thunderbolt"} == set(shipped.links)
    assert all(kind.source for kind in shipped.links.values())


def test_memory_is_that_of_the_name_without_what_the_system_needs(shipped):
    for name, machine in shipped.machines.items():
        stated = re.search(r"-(\d+)gb", name)
        assert stated, name
        assert 0.6 * int(stated[1]) * GIB < machine.node.device.memory < int(stated[1]) * GIB


def test_faster_ones_are_faster(shipped):
    def device(name):
        return shipped.machines[name].node.device

    for slow, fast in [
        ("rtx3060-12gb", "rtx3090-24gb"),
        ("rtx4070-12gb", "rtx4090-24gb"),
        ("rtx4090-24gb", "rtx5090-32gb"),
        ("m1-8gb", "m1-max-32gb"),
        ("m4-16gb", "m4-max-64gb"),
        ("raspberry-pi5-8gb", "ryzen-7950x-64gb"),
    ]:
        assert device(slow).flops < device(fast).flops
        assert device(slow).memory_bandwidth < device(fast).memory_bandwidth


def test_peaks_become_what_programs_reach(small):
    device = small.machines["card"].node.device
    assert (device.kind, device.name, device.flops, device.memory_bandwidth) == ("cuda", "a card", 5e12, 320e9)
    assert device.memory == 9 * GIB
    assert small.machines["box"].node.disk_bandwidth == 1e9


def test_a_fleet_names_machines_and_links(small):
    fleet = fleet_from_data(
        read_yaml(
            """
            nodes:
              a: {catalogue: box}
              b: {catalogue: box, memory: 4 GiB, device: an old box, disk: 200 MB/s, checkpoint: false}
              c:
                disk: 2 GB/s
                devices: [{catalogue: box}, {catalogue: card, name: mine}]
            links:
              default: wifi
              a - b: 100m
              a -> c: {kind: wifi, bandwidth: 600 Mbit}
            """
        ),
        small,
    )
    a, b, c = fleet.nodes
    assert a.devices == small.machines["box"].node.devices and a.disk_bandwidth == 1e9
    assert (b.device.memory, b.device.name, b.device.flops) == (4 * GIB, "an old box", 50e9)
    assert (b.disk_bandwidth, b.checkpoint) == (200e6, False)
    assert (c.device.name, c.device.kind, c.disk_bandwidth, len(c.devices)) == ("mine", "cuda", 2e9, 2)
    assert fleet.link("c", "a") == Link(0.003, 50e6) and fleet.link("a", "c") == Link(0.003, 75e6)
    assert fleet.link("b", "a") == Link(0.0003, 11.75e6)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ("{catalogue: bxo}", "line 1: node 'a': catalogue: the catalogue has no machine 'bxo'; did you mean 'box'?"),
        ("{catalogue: ca}", "there is card"),
        ("{catalogue: zzzz}", "`cluster catalogue` lists them"),
        ("{catalogue: 5}", "the catalogue has no machine 5"),
        ("{catalogue: box, flops: 0}", "flops: must be more than zero"),
        ("{catalogue: box, devices: [{catalogue: box}]}", "'catalogue' belongs into the entries of 'devices'"),
    ],
)
def test_mistakes_are_named(small, node, says):
    with pytest.raises(FieldError) as error:
        fleet_from_data(read_yaml(f"nodes: {{a: {node}}}"), small)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("wfi", "link 'default': there is no kind of link 'wfi'; did you mean 'wifi'?"),
        ("{kind: 7}", "link 'default': kind: there is no kind of link 7"),
        ("{kind: wifi, bandwidth: 0}", "bandwidth: must be more than zero"),
        ("{kind: wifi, speed: 0}", "unknown field 'speed'"),
    ],
)
def test_mistakes_in_kinds_of_links_are_named(small, link, says):
    with pytest.raises(FieldError) as error:
        fleet_from_data(read_yaml(f"nodes: {{a: {{catalogue: box}}}}\nlinks: {{default: {link}}}"), small)
    assert f"line 2: {says}" in str(error.value) or says in str(error.value)


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("flops: 0.5, memory_bandwidth: 0.5", "flops: 1.5, memory_bandwidth: 0.5", "at most 1"),
        ("kind: cuda", "kind: cuda, cores: 5", "unknown field 'cores'"),
        (", source: its maker}\n  card", "}\n  card", "field 'source' is missing"),
        ("kind: cuda", "kind: metal", "no shares for 'metal'"),
        ("400 GB/s", "0 GB/s", "machine 'card': memory_bandwidth: must be more than zero"),
    ],
)
def test_mistakes_in_a_catalogue_are_named(right, wrong, says):
    assert right in SMALL
    with pytest.raises(FieldError) as error:
        catalogue_from_data(read_yaml(SMALL.replace(right, wrong, 1)))
    assert says in str(error.value)
