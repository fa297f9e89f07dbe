"""The baseline: everything placed once, within memory, by speed; and what every solver promises."""

import dataclasses
import functools
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.models.sizes import weight_bytes
from potluck.planner.executable import executable_stages
from potluck.planner.fleet import Link
from potluck.planner.goal import Goal as AnyGoal
from potluck.planner.memory import NODE_OVERHEAD, node_bytes
from potluck.planner.offers import ENDS, Request
from potluck.planner.solve import DoesNotFit, solve
from potluck.planner.validate import validate

MIB = 2**20
Goal = functools.partial(AnyGoal, solver="proportional")


def layers_of(plan):
    """Layers per node."""
    counts = dict.fromkeys(plan.nodes, 0)
    for stage in executable_stages(plan):
        counts[stage.node] += len(stage.layers)
    return counts


def shape_of(plan):
    return [(stage.node, stage.has_embedding, len(stage.layers), stage.has_head) for stage in plan.routes[0].stages]


@pytest.fixture
def trio(homes):
    return homes.fleet(homes.node("desktop", 60), homes.node("laptop", 30), homes.node("mini", 15))


def test_by_speed_with_the_head_counted_as_work(smollm2, trio):
    plan = solve(trio, smollm2, Goal())
    # 30 layers and a head worth 7.8: 4/7, 2/7 and 1/7 of it are 21.6, 10.8 and 5.4.
    assert shape_of(plan) == [
        ("desktop", True, 22, False),
        ("mini", False, 5, False),
        ("laptop", False, 3, True),
    ]
    assert plan.reasons["laptop"].startswith("3 layers and the head (worth 7.7 layers): 29% of the fleet's speed")
    assert plan.reasons["mini"].startswith("5 layers: 14% of the fleet's speed; memory would allow ")


def test_one_node_is_one_stage_however_many_rounds(homes, smollm2):
    plan = solve(homes.fleet(homes.node("a")), smollm2, Goal(rounds=3))
    assert shape_of(plan) == [("a", True, 30, True)]
    assert "1 round instead of 3" in plan.reasons["a"]


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_rounds_come_round(smollm2, trio, rounds):
    plan = solve(trio, smollm2, Goal(rounds=rounds))
    assert [stage.node for stage in plan.routes[0].stages] == ["desktop", "mini", "laptop"] * rounds


def test_too_few_layers_for_the_rounds_are_told(homes):
    home = homes.fleet(homes.node("a", 60), homes.node("b", 60))
    plan = solve(home, homes.model(5), Goal(rounds=4))
    few = min(layers_of(plan), key=layers_of(plan).get)
    assert layers_of(plan)[few] == 2
    assert "2 layers for 4 rounds, so it takes part in 2" in plan.reasons[few]


def test_the_engine_comes_first_wherever_it_is_listed(smollm2, trio):
    plan = solve(dataclasses.replace(trio, engine="mini"), smollm2, Goal())
    assert shape_of(plan)[0][:2] == ("mini", True)


def test_the_head_goes_last_where_that_saves_a_stage(homes, smollm2):
    nodes = [homes.node(name, 30) for name in "abc"]
    plan = solve(homes.fleet(*nodes), smollm2, Goal(dtype="bfloat16"))
    assert [stage.node for stage in plan.routes[0].stages] == ["a", "b", "c"]
    assert plan.routes[0].stages[-1].has_head
    # A tied head elsewhere takes the embedding's bytes again, for which these have no room.
    small = NODE_OVERHEAD + 50 * MIB
    closed = solve(homes.fleet(nodes[0], *(homes.node(name, 30, small) for name in "bc")), smollm2, Goal())
    assert [(stage.node, stage.has_head) for stage in closed.routes[0].stages][::3] == [("a", False), ("a", True)]


def test_ends_on_two_nodes_where_none_holds_both(homes, smollm2):
    nodes = [homes.node(name, 60, NODE_OVERHEAD + 90 * MIB) for name in "abcd"]
    untied = dataclasses.replace(smollm2, tied_head=False)
    plan = solve(homes.fleet(*nodes), untied, Goal(kv_tokens=16, dtype="bfloat16"))
    first, *_, last = plan.routes[0].stages
    assert (first.node, first.has_embedding, last.has_head) == ("a", True, True)
    assert last.node != "a"
    assert plan.reasons["a"].startswith("5 layers and the embedding")


def test_ends_go_to_the_fastest_node_that_holds_them(homes, smollm2):
    tight = 64 * MIB + 2 * homes.GIB // 100
    home = homes.fleet(homes.node("engine", 60, tight), homes.node("slow", 10), homes.node("fast", 30))
    plan = solve(home, smollm2, Goal(dtype="bfloat16", kv_tokens=64))
    assert plan.routes[0].stages[0].node == plan.routes[0].stages[-1].node == "fast"
    assert "the engine's node engine has no room for the embedding" in plan.reasons["fast"]


def test_an_excluded_engine(smollm2, trio):
    plan = solve(trio, smollm2, Goal(excluded=frozenset({"desktop"})))
    assert plan.nodes == ("laptop", "mini")
    assert plan.reasons["desktop"] == "left out: excluded"
    assert "engine's node desktop is excluded" in plan.reasons["laptop"]


def test_full_memory_sends_layers_elsewhere(homes, smollm2):
    room = NODE_OVERHEAD + Request(smollm2, Goal()).layer_bytes * 3
    home = homes.fleet(homes.node("a", 30), homes.node("quick", 100, room), homes.node("c", 30))
    plan = solve(home, smollm2, Goal())
    assert layers_of(plan)["quick"] == 3 and "memory is full" in plan.reasons["quick"]


def test_a_node_without_room_is_left_out_with_the_reason(homes, smollm2):
    plan = solve(homes.fleet(homes.node("a"), homes.node("tiny", 60, 70 * MIB)), smollm2, Goal())
    assert plan.nodes == ("a",)
    assert plan.reasons["tiny"].startswith("left out: its 70.0 MiB hold no layer (25.5 MiB with KV, and 64.0 MiB")


def test_more_nodes_than_layers(homes):
    home = homes.fleet(*(homes.node(f"n{index}", 60 - index) for index in range(5)))
    plan = solve(home, homes.model(2, vocab=32), Goal())
    assert sum(layers_of(plan).values()) == 2
    assert plan.reasons["n4"] == "left out: too slow to earn one of 2 layers"


def test_a_hundredfold_slower_node_still_gets_a_layer_unless_few_are_wanted(homes, smollm2):
    home = homes.fleet(homes.node("a", 100), homes.node("snail", 1))
    assert layers_of(solve(home, smollm2, Goal()))["snail"] == 1
    few = solve(home, smollm2, Goal(spread="fewest"))
    assert few.nodes == ("a",) and few.reasons["snail"] == "left out: fewer nodes hold the model"


def test_fewest_takes_the_quickest_of_the_smallest_sets(homes, smollm2):
    half = 64 * MIB + 480 * MIB
    nodes = [homes.node(name, speed, half) for name, speed in (("a", 30), ("b", 10), ("c", 30), ("d", 60))]
    plan = solve(homes.fleet(*nodes), smollm2, Goal(spread="fewest"))
    assert set(plan.nodes) == {"a", "d"}


def test_fewest_avoids_a_slow_link(homes, smollm2):
    nodes = [homes.node(name, 30, 64 * MIB + 480 * MIB) for name in "abc"]
    slow = {pair: Link(0.5, 1e6) for pair in (("a", "b"), ("b", "a"))}
    assert set(solve(homes.fleet(*nodes, links=slow), smollm2, Goal(spread="fewest")).nodes) == {"a", "c"}


def test_fewest_of_a_large_fleet(homes, smollm2):
    nodes = [homes.node(f"n{index}", 30, 64 * MIB + (300 + index) * MIB) for index in range(14)]
    plan = solve(homes.fleet(*nodes), smollm2, Goal(spread="fewest"))
    assert len(plan.nodes) == 3


def test_pinned_nodes_get_a_layer(homes, smollm2):
    home = homes.fleet(homes.node("a", 100), homes.node("b", 50), homes.node("snail", 1))
    plan = solve(home, smollm2, Goal(spread="fewest", pinned=frozenset({"snail"})))
    assert layers_of(plan)["snail"] >= 1 and len(plan.nodes) <= 2


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"excluded": frozenset({"lapptop"})}, "has no node 'lapptop'; did you mean 'laptop'?"),
        ({"pinned": frozenset({"x"})}, "there is: desktop, laptop, mini"),
    ],
)
def test_names_in_the_goal_are_checked(smollm2, trio, goal, message):
    with pytest.raises(ValueError, match="fleet 'home'") as error:
        solve(trio, smollm2, Goal(**goal))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"dtype": "fp8"}, "dtype 'fp8'"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"kv_tokens": -5}, "kv_tokens must be at least 1, not -5"),
        ({"spread": "some"}, "use one of 'best', 'all', 'fewest'"),
        ({"pinned": frozenset({"a"}), "excluded": frozenset({"a"})}, "both pinned and excluded"),
    ],
)
def test_impossible_goals(goal, message):
    with pytest.raises(ValueError) as error:
        Goal(**goal)
    assert message in str(error.value)


@pytest.mark.parametrize("spread", ["all", "fewest"])
def test_what_does_not_fit_says_what_would_help(homes, smollm2, spread):
    home = homes.fleet(homes.node("a", 60, 300 * MIB), homes.node("b", 60, 200 * MIB))
    with pytest.raises(DoesNotFit) as error:
        solve(home, smollm2, Goal(spread=spread, model="smollm2"))
    text = str(error.value)
    assert "'smollm2' in float32 with KV for 8192 tokens needs 873.1 MiB, of which 108.0 MiB" in text
    assert "a 300.0 MiB, b 200.0 MiB; say how fast the nodes' disks are, so that layers may be read from them" in text
    assert "use bfloat16, keep KV for fewer tokens (--context, --kv-tokens), or add a node" in text
    assert "\n" not in text


def test_what_does_not_fit_can_fit_after_the_remedies(homes, smollm2):
    home = homes.fleet(homes.node("a", 60, 300 * MIB), homes.node("b", 60, 200 * MIB))
    assert len(solve(home, smollm2, Goal(dtype="bfloat16", kv_tokens=512)).nodes) == 2


def test_nobody_left_and_a_pinned_dwarf(homes, smollm2):
    home = homes.fleet(homes.node("a"), homes.node("dwarf", 60, MIB))
    with pytest.raises(DoesNotFit, match="every node is excluded"):
        solve(home, smollm2, Goal(excluded=frozenset({"a", "dwarf"})))
    with pytest.raises(DoesNotFit, match=r"'dwarf' is pinned \(--with\), but its 1\.0 MiB hold no layer"):
        solve(home, smollm2, Goal(pinned=frozenset({"dwarf"})))


GOALS = st.builds(
    Goal,
    dtype=st.sampled_from(["float32", "bfloat16"]),
    kv_tokens=st.sampled_from([16, 256, 4096]),
    rounds=st.integers(1, 5),
    spread=st.sampled_from(["all", "fewest"]),
)


def test_tokens_enter_at_the_engine_though_another_node_would_close_the_ring(homes):
    spec, goal = homes.model(6, heads=3, kv_heads=1), Goal(dtype="bfloat16", kv_tokens=4096, rounds=2)
    memory = {"n0": 67424768, "n1": 67506944, "n2": 68413440}
    home = homes.fleet(*(homes.node(name, 1.0, size) for name, size in memory.items()), engine="n2")
    assert solve(home, spec, goal).routes[0].stages[0].node == "n2"


@settings(max_examples=200)
@given(st.data())
def test_every_plan_is_valid_and_within_memory(homes, data):
    """Fleets around the edge of fitting; where the solver gives up, the pieces truly do not fit the bins."""
    spec, goal = data.draw(homes.models()), data.draw(GOALS)
    request = Request(spec, goal)
    piece = request.ends_bytes + 2 * request.layer_bytes
    home = data.draw(homes.homes_of(NODE_OVERHEAD - 1, NODE_OVERHEAD + 3 * piece))
    try:
        plan = solve(home, spec, goal)
    except DoesNotFit as error:
        assert "\n" not in str(error) and not fits(home, request)
        return
    assert fits(home, request)
    validate(plan, home, spec)
    stages = executable_stages(plan)
    assert all(one.node != two.node for one, two in pairwise(stages))
    assert set(plan.reasons) == {node.name for node in home.nodes}
    assert plan == solve(home, spec, goal)
    sizes = node_bytes(plan, spec)
    assert plan.prediction.weight_bytes == {node: size.weights for node, size in sizes.items()}
    assert all(size.total <= home.node(node).device.memory for node, size in sizes.items())
    assert goal.spread == "fewest" or not fits(home, request, home.engine) or stages[0].node == home.engine


def fits(home, request, start=None):
    """By brute force: a node holds the embedding, it or another the head, and all layers find room."""
    spec, dtype = request.spec, request.goal.dtype
    names = [node.name for node in home.nodes]
    for first, last in product([start] if start else names, names):
        free = {node.name: node.device.memory - NODE_OVERHEAD for node in home.nodes}
        ends = {first: ENDS} if first == last else {first: ENDS[:1], last: ENDS[1:]}
        for name, parts in ends.items():
            free[name] -= weight_bytes(spec, parts, dtype)
        rooms = sum(max(0, size) // request.layer_bytes for size in free.values())
        if all(free[name] >= 0 for name in ends) and rooms >= len(spec.layers):
            return True
    return False


@settings(max_examples=100)
@given(st.data())
def test_layers_are_in_proportion_to_speed_within_one(homes, data):
    """No node is so long at work that handing its last layer to another with room would help, save for its first."""
    spec, goal = data.draw(homes.models(most_layers=30)), Goal(rounds=data.draw(st.integers(1, 3)))
    request = Request(spec, goal)
    home = data.draw(homes.homes_of(NODE_OVERHEAD + request.layer_bytes, 2**40))
    try:
        plan = solve(home, spec, goal)
    except DoesNotFit:
        return
    counts, ends = {node.name: 0 for node in home.nodes} | layers_of(plan), dict.fromkeys(plan.nodes, ())
    for stage in plan.routes[0].stages:
        ends[stage.node] += tuple(part for part in ENDS if part in stage.parts)
    offers = [request.offer(node, ends.get(node.name, ())) for node in home.nodes]
    if len([offer for offer in offers if offer.room > 0]) <= len(spec.layers):
        assert all(counts[offer.node] >= 1 for offer in offers if offer.room > 0)
    for giver in offers:
        for taker in offers:
            if counts[giver.node] > 1 and counts[taker.node] < taker.room:
                assert giver.busy(counts[giver.node]) <= taker.busy(counts[taker.node] + 1) * (1 + 1e-9)


@settings(max_examples=50)
@given(st.data())
def test_every_node_comes_round_as_often_as_asked(homes, data):
    spec = homes.model(data.draw(st.integers(1, 24)))
    rounds, home = data.draw(st.integers(1, 4)), data.draw(homes.homes_of(2**33, 2**34))
    plan = solve(home, spec, Goal(rounds=rounds))
    counts = layers_of(plan)
    windows = {node: sum(s.node == node and bool(s.layers) for s in plan.routes[0].stages) for node in counts}
    for node, count in counts.items():
        assert windows[node] <= rounds
        if windows[node] < min(rounds, count):
            assert "instead of" in plan.reasons[node] or "takes part" in plan.reasons[node]
        elif 0 < count < rounds:
            assert f"takes part in {windows[node]}" in plan.reasons[node] or "alone" in plan.reasons[node]
    if len(counts) > 1 and all(count >= rounds for count in counts.values()):
        assert set(windows.values()) == {rounds}
