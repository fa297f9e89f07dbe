"""From a plan to what each worker is told."""

from dataclasses import replace

import pytest

from potluck.coordinator.assignments import Loading, assignments, entries, kv_blocks
from potluck.models.spec import LayerSpec, ModelSpec, Rope
from potluck.planner.fleet import Device, Fleet, Link, Node
from potluck.planner.goal import Goal
from potluck.planner.ring import ring_route, ring_windows
from potluck.planner.solve import solve

LAYERS = (LayerSpec(Rope(10000.0)),) * 8
SPEC = ModelSpec("tiny", "llama", LAYERS, 320, 64, 96, 4, 2, 16, 512, 1e-5, 0.25)
NODES = ("attic", "hall", "nas")


@pytest.fixture
def plan():
    fleet = Fleet(tuple(Node(name, (Device("cpu", 1e9, 1e9, 1 << 30),)) for name in NODES), "attic", Link(1e-3, 1e8))
    windows = ring_windows(NODES, {"attic": 3, "hall": 3, "nas": 2}, 2)
    return replace(solve(fleet, SPEC, Goal(kv_tokens=1000)), routes=(ring_route(windows, "attic", "attic"),))


@pytest.fixture
def made(plan):
    addresses = {name: f"127.0.0.1:{port}" for port, name in enumerate((*NODES, "idle"), 4000)}
    readers = ("attic", "hall")
    loading = Loading(3, b"spec", "/model", "ab" * 16, addresses, {"nas": 9}, frozenset(readers), readers, 256)
    return assignments(plan, loading)


def test_the_windows_make_the_whole_route(plan, made):
    windows = {window.stage: (node, window) for node, one in made.items() for window in one.windows}
    assert sorted(windows) == list(range(len(plan.routes[0].stages)))
    route = [windows[number] for number in sorted(windows)]
    assert [list(window.next_nodes) for _, window in route] == [[node] for node, _ in route[1:]] + [[]]
    layers = [layer for _, window in route for layer in range(window.first_layer, window.end_layer)]
    assert layers == list(range(8))
    assert [window.embedding for _, window in route] == [True] + [False] * (len(route) - 1)
    assert [window.head for _, window in route] == [False] * (len(route) - 1) + [True]


def test_only_a_head_that_stands_alone_gets_sampled_rows(made):
    for one in made.values():
        for window in one.windows:
            following = [other for two in made.values() for other in two.windows if other.stage == window.stage + 1]
            alone = bool(following) and following[0].first_layer == following[0].end_layer
            assert window.next_wants_sampled == alone


def test_who_reads_and_who_asks_whom(made):
    assert {node: one.checkpoint_allowed for node, one in made.items()} == {"attic": True, "hall": True, "nas": False}
    assert [peer.node for peer in made["nas"].sources] == ["attic", "hall"]
    assert [peer.node for peer in made["attic"].sources] == ["hall"]
    peers = {peer.node: (peer.address, peer.data_port) for peer in made["hall"].peers}
    assert (peers["nas"], peers["attic"]) == (("127.0.0.1:4002", 9), ("127.0.0.1:4000", 0))


def test_the_first_stage_of_every_node(plan):
    assert list(entries(plan).items()) == [("attic", 0), ("hall", 1), ("nas", 2)]


def test_every_node_keeps_the_same_blocks(plan, made):
    assert {(one.epoch, one.kv_blocks, one.block_size, one.max_rows) for one in made.values()} == {(3, 63, 16, 256)}
    assert kv_blocks(plan) == 63
