"""From a plan to what each worker is told."""

from dataclasses import replace

import pytest

from potluck.coordinator.assignments import Loading, assignments, entries, kv_blocks
from potluck.models.spec import LayerSpec, ModelSpec, Rope
from potluck.models.spec_codec import unpack_spec
from potluck.planner.agreement import Agreement
from potluck.planner.all_reduce import Algorithm, Wire
from potluck.planner.fleet import Device, Fleet, Link, Node
from potluck.planner.goal import Goal
from potluck.planner.plan import Plan, Residency, Route, Share, Stage
from potluck.planner.ring import ring_route, ring_windows
from potluck.planner.solve import solve

LAYERS = (LayerSpec(Rope(10000.0)),) * 8
SPEC = ModelSpec("tiny", "llama", LAYERS, 320, 64, 96, 4, 2, 16, 512, 1e-5, 0.25)
NODES = ("attic", "hall", "nas")


@pytest.fixture
def plan():
    fleet = Fleet(tuple(Node(name, (Device("cpu", 1e9, 1e9, 1 << 30),)) for name in NODES), "attic", Link(1e-3, 1e8))
    windows = ring_windows(NODES, {"attic": 3, "hall": 3, "nas": 2}, 2)
    return replace(
        solve(fleet, SPEC, Goal(kv_tokens=1000, solver="proportional")), routes=(ring_route(windows, "attic", "attic"),)
    )


def made_of(plan, **rest):
    addresses = {name: f"127.0.0.1:{port}" for port, name in enumerate((*NODES, "idle", "desk"), 4000)}
    readers = ("attic", "hall")
    loading = Loading(3, SPEC, "/model", "ab" * 16, addresses, {"nas": 9}, frozenset(readers), readers, 256, **rest)
    return assignments(plan, loading)


@pytest.fixture
def made(plan):
    return made_of(plan)


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


# Groups ---------------------------------------------------------------------------------------------------------------

PARTS = list(SPEC.parts())


def stage(shares, first, end):
    return Stage(tuple(PARTS[first:end]), tuple(shares))


@pytest.fixture
def grouped():
    """The embedding alone, layers 0-3 of hall and attic, layers 4-7 of hall, nas and attic, the head on nas."""
    two = Share("hall", kv_heads=(0, 1), ffn_columns=(0, 32)), Share("attic", kv_heads=(1, 2), ffn_columns=(32, 96))
    three = (
        Share("hall", heads=(0, 2), ffn_columns=(0, 32), residency=Residency.STREAMED),
        Share("nas", heads=(2, 3), ffn_columns=(32, 48)),
        Share("attic", heads=(3, 4), ffn_columns=(48, 96)),
    )
    stages = (
        stage([Share("attic")], 0, 1),
        stage(two, 1, 9),
        stage(three, 9, 17),
        stage([Share("nas")], 17, 18),
    )
    return Plan("tiny", "float32", (Route(stages),), 1000)


def test_members_go_on_themselves_and_leads_send_to_who_comes_in(grouped):
    made = made_of(grouped)
    nexts = {node: {w.stage: list(w.next_nodes) for w in one.windows} for node, one in made.items()}
    assert nexts == {
        "attic": {0: ["attic", "hall"], 1: ["attic"], 2: []},
        "hall": {1: ["hall", "nas"], 2: []},
        "nas": {2: ["nas"], 3: []},
    }


def test_a_lead_that_leaves_sends_but_does_not_name_itself(grouped):
    *first, last, _ = grouped.routes[0].stages
    stages = (*first, last, stage([Share("nas"), Share("attic")], 17, 18))
    nexts = {node: one.windows[-2].next_nodes for node, one in made_of(Plan("", "", (Route(stages),), 9)).items()}
    assert nexts["nas"] == ["nas"] and nexts["attic"] == ["attic"]
    swapped = (*first, last, stage([Share("desk")], 17, 18))
    assert list(made_of(Plan("", "", (Route(swapped),), 9))["hall"].windows[-1].next_nodes) == ["desk"]


def test_what_every_member_holds(grouped):
    made = made_of(grouped)
    windows = {(node, w.stage): w for node, one in made.items() for w in one.windows}
    groups = {key: window.group for key, window in windows.items() if window.HasField("group")}
    assert sorted(groups) == [("attic", 1), ("attic", 2), ("hall", 1), ("hall", 2), ("nas", 2)]
    assert {tuple(groups[key].nodes) for key in groups if key[1] == 2} == {("hall", "nas", "attic")}
    heads = {key: (group.first_head, group.end_head) for key, group in groups.items()}
    assert heads == {
        ("hall", 1): (0, 2),
        ("attic", 1): (2, 4),
        ("hall", 2): (0, 2),
        ("nas", 2): (2, 3),
        ("attic", 2): (3, 4),
    }
    assert (groups["nas", 2].first_column, groups["nas", 2].end_column) == (32, 48)
    rows = {span for group in groups.values() for span in zip(group.first_rows, group.end_rows, strict=True)}
    assert rows == {(0, 320)}, "no part is split along it"
    assert [key for key, window in windows.items() if window.streamed] == [("hall", 2)]
    assert {one.spec for one in made.values()} == {made["nas"].spec} and unpack_spec(made["nas"].spec) == SPEC


def test_vocabulary_rows_are_named_where_they_are_split():
    shares = [Share("hall", (0, 1), (0, 32), (0, 96)), Share("nas", (1, 2), (32, 96), (96, 320))]
    made = made_of(Plan("tiny", "float32", (Route((stage(shares, 0, 18),)),), 9))
    for one in made.values():
        group = one.windows[0].group
        assert (list(group.first_rows), list(group.end_rows)) == ([0, 96], [96, 320])
    assert [list(one.windows[0].next_nodes) for one in made.values()] == [[], []]


def test_all_members_of_the_first_stage_enter_there(grouped):
    assert list(entries(grouped).items()) == [("attic", 0), ("hall", 1), ("nas", 2)]
    *_, middle, last = grouped.routes[0].stages
    assert entries(Plan("tiny", "float32", (Route((middle, last)),), 9)) == {"hall": 0, "nas": 0, "attic": 0}


def test_the_agreement_on_sums_is_passed_on(grouped):
    agreed = Agreement(Wire.BFLOAT16, ((4096, Algorithm.DIRECT), (0, Algorithm.RING)))
    made = made_of(grouped, agreements={1: agreed})
    one, two = (window.group for window in made["hall"].windows)
    assert (one.wire, [(r.most_bytes, r.algorithm) for r in one.reductions]) == (
        "bfloat16",
        [(4096, "direct"), (0, "ring")],
    )
    assert (two.wire, [(r.most_bytes, r.algorithm) for r in two.reductions]) == ("float32", [(0, "star")])
