"""Models that no memory holds: which layers stay, in how many rounds, and what that takes."""

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from potluck.planner.executable import executable_stages
from potluck.planner.goal import Goal
from potluck.planner.memory import NODE_OVERHEAD, node_bytes, steps_at_once, stream_budgets
from potluck.planner.offers import ENDS, Request
from potluck.planner.plan import Residency, Share
from potluck.planner.plan_file import plan_from_data, plan_to_data
from potluck.planner.predict import predict
from potluck.planner.solve import DoesNotFit, solve
from potluck.planner.streaming import cut_route
from potluck.planner.validate import PlanError, validate

DISK = 1e9
GOAL = Goal(kv_tokens=512)


def streamed(plan):
    """Streamed and all layers of every node."""
    counts = {node: [0, 0] for node in plan.nodes}
    for stage in plan.routes[0].stages:
        counts[stage.node][1] += len(stage.layers)
        if stage.shares[0].residency is Residency.STREAMED:
            counts[stage.node][0] += len(stage.layers)
    return counts


def memory_for(request, layers, ends=False):
    """Bytes that hold so many layers and the KV of all of them."""
    return NODE_OVERHEAD + (request.ends_bytes if ends else 0) + int(layers * request.layer_bytes)


@pytest.fixture
def tight(homes, smollm2):
    """Two nodes that hold 8 and 6 of 30 layers, the first with the ends."""
    request = Request(smollm2, GOAL)
    return homes.fleet(
        homes.node("a", memory=memory_for(request, 8, ends=True), disk_bandwidth=DISK),
        homes.node("b", memory=memory_for(request, 6), disk_bandwidth=DISK),
    )


def test_what_fits_is_not_streamed(homes, smollm2):
    plan = solve(homes.fleet(homes.node("a", memory=8 << 30, disk_bandwidth=DISK)), smollm2, GOAL)
    assert streamed(plan) == {"a": [0, 30]}
    assert steps_at_once(plan) == 1 and stream_budgets(plan, homes.fleet(homes.node("a")), smollm2) == {}


def test_what_does_not_fit_is_read_from_disk(tight, smollm2):
    plan = solve(tight, smollm2, GOAL)
    validate(plan, tight, smollm2)
    executable_stages(plan)
    counts = streamed(plan)
    assert sum(total for _, total in counts.values()) == 30
    assert all(0 < away < total for away, total in counts.values())
    sizes, budgets = node_bytes(plan, smollm2), stream_budgets(plan, tight, smollm2)
    layer = Request(smollm2, GOAL).layer_weights
    for node, size in sizes.items():
        memory = tight.node(node).device.memory
        assert size.total <= memory
        assert size.weights - size.streamed + budgets[node] + size.kv + NODE_OVERHEAD <= memory
        assert budgets[node] >= layer, "one at least comes and goes"
    assert steps_at_once(plan) == 1
    assert all("read from disk for every token" in plan.reasons[node] for node in counts)


def test_reading_bounds_the_prediction(tight, smollm2):
    plan = solve(tight, smollm2, GOAL)
    slowest = max(size.streamed / DISK for size in node_bytes(plan, smollm2).values())
    assert plan.prediction.time_per_token >= slowest
    slow = dataclasses.replace(
        tight, nodes=tuple(dataclasses.replace(node, disk_bandwidth=DISK / 100) for node in tight.nodes)
    )
    assert predict(plan, slow, smollm2, GOAL).time_per_token == pytest.approx(100 * slowest, rel=2e-3)


def test_one_node_alone_streams_through_what_it_has_left(homes, smollm2):
    request = Request(smollm2, GOAL)
    fleet = homes.fleet(homes.node("a", memory=memory_for(request, 15, ends=True), disk_bandwidth=DISK))
    plan = solve(fleet, smollm2, GOAL)
    validate(plan, fleet, smollm2)
    residencies = [stage.shares[0].residency for stage in plan.routes[0].stages]
    assert set(residencies) == {Residency.RESIDENT, Residency.STREAMED}
    assert all(one != other for one, other in pairwise(residencies)), "what stays and what is read, by turns"
    assert stream_budgets(plan, fleet, smollm2)["a"] >= request.layer_weights


def test_what_is_streamed_lies_apart_within_a_window(homes, smollm2):
    route = homes.plan(homes.stage("a", homes.EMBEDDING, range(30), homes.HEAD)).routes[0]

    def away(kept, runs):
        stages = cut_route(route, {"a": kept}, {"a": runs}).stages
        assert [part for stage in stages for part in stage.parts] == list(route.stages[0].parts)
        return [list(stage.layers) for stage in stages if stage.shares[0].residency is Residency.STREAMED]

    assert away(26, 1) == [[26, 27, 28, 29]]
    assert away(26, 2) == [[13, 14], [28, 29]]
    assert [len(run) for run in away(26, 99)] == [1] * 4
    assert away(0, 3) == [list(range(30))] and sum(map(len, away(1, 30))) == 29


def test_a_disk_that_reads_while_layers_that_stay_are_computed_is_waited_for_less(homes, smollm2):
    request = Request(smollm2, GOAL)
    slow = homes.node("a", memory=memory_for(request, 15, ends=True), bandwidth=2e9, disk_bandwidth=DISK)
    plan = solve(homes.fleet(slow), smollm2, GOAL)
    together = cut_route(homes.plan(homes.stage("a", homes.EMBEDDING, range(30), homes.HEAD)).routes[0], {"a": 13})
    other = dataclasses.replace(plan, routes=(together,))
    validate(other, homes.fleet(slow), smollm2)
    assert plan.prediction.time_per_token < 0.9 * predict(other, homes.fleet(slow), smollm2, GOAL).time_per_token


def test_it_is_refused_where_it_is_not_wanted_or_the_disk_is_unknown(homes, tight, smollm2):
    with pytest.raises(DoesNotFit, match="needs"):
        solve(tight, smollm2, dataclasses.replace(GOAL, streaming=False))
    unknown = [dataclasses.replace(node, disk_bandwidth=0.0) for node in tight.nodes]
    with pytest.raises(DoesNotFit, match="needs"):
        solve(dataclasses.replace(tight, nodes=tuple(unknown)), smollm2, GOAL)


def test_the_ends_and_the_kv_must_fit_all_the_same(homes, smollm2):
    request = Request(smollm2, GOAL)
    small = NODE_OVERHEAD + request.ends_bytes
    with pytest.raises(DoesNotFit):
        solve(homes.fleet(homes.node("a", memory=small, disk_bandwidth=DISK)), smollm2, GOAL)


def test_a_streaming_plan_is_saved_and_read_back(tight, smollm2):
    plan = solve(tight, smollm2, GOAL)
    again = plan_from_data(plan_to_data(plan), smollm2)
    assert streamed(again) == streamed(plan)
    assert again.routes == plan.routes


def test_a_hand_made_plan_that_streams_too_much_at_once_is_refused(tight, smollm2):
    plan = solve(tight, smollm2, GOAL)
    sizes = node_bytes(plan, smollm2)
    tiny = [
        dataclasses.replace(
            node, devices=(dataclasses.replace(node.device, memory=sizes[node.name].total - (1 << 20)),)
        )
        for node in tight.nodes
    ]
    with pytest.raises(PlanError, match="of memory, but the plan needs"):
        validate(plan, dataclasses.replace(tight, nodes=tuple(tiny)), smollm2)


@settings(max_examples=60)
@given(st.data())
def test_every_streaming_plan_is_sound(homes, data):
    spec = data.draw(homes.models())
    goal = Goal(kv_tokens=data.draw(st.sampled_from([16, 256])), rounds=data.draw(st.integers(1, 3)))
    request = Request(spec, goal)
    nodes = []
    for name in "abc"[: data.draw(st.integers(1, 3))]:
        memory = memory_for(request, data.draw(st.floats(0, 6)), data.draw(st.booleans())) + request.layer_weights
        disk = data.draw(st.sampled_from([0.0, DISK]))
        nodes.append(homes.node(name, memory=memory, disk_bandwidth=disk))
    fleet = homes.fleet(*nodes)
    try:
        plan = solve(fleet, spec, goal)
    except DoesNotFit:
        assume(False)
    validate(plan, fleet, spec)
    executable_stages(plan)
    budgets = stream_budgets(plan, fleet, spec)
    for node, size in node_bytes(plan, spec).items():
        assert size.total <= fleet.node(node).device.memory
        assert bool(size.streamed) == (node in budgets)
        assert not size.streamed or budgets[node] >= size.window
    assert set(ENDS) <= {part for stage in plan.routes[0].stages for part in stage.parts}


# Windows by hand, and groups ------------------------------------------------------------------------------------------


def by_hand(homes, *stages):
    return homes.plan(*stages, dtype="bfloat16", kv_tokens=512)


def test_a_window_is_the_most_that_is_in_memory(homes, smollm2):
    parts = (homes.EMBEDDING, range(30), homes.HEAD)

    def plan(window):
        stage = homes.stage("a", *parts)
        share = dataclasses.replace(stage.shares[0], residency=Residency.STREAMED, window=window)
        return by_hand(homes, dataclasses.replace(stage, shares=(share,)))

    layer = Request(smollm2, Goal(dtype="bfloat16", kv_tokens=512)).layer_weights
    roomy = homes.fleet(homes.node("a", memory=8 << 30))
    budgets = {window: stream_budgets(plan(window), roomy, smollm2)["a"] for window in (None, 1, 2, 29, 99)}
    assert {window: budget // layer for window, budget in budgets.items()} == {None: 30, 1: 1, 2: 2, 29: 29, 99: 30}
    assert all(window * layer <= budgets[window] < (window + 1) * layer for window in (1, 2, 29))
    sizes = [node_bytes(plan(window), smollm2)["a"].total for window in (None, 1, 2)]
    assert sizes[0] == sizes[1] == sizes[2] - layer
    enough = homes.fleet(homes.node("a", memory=sizes[2]))
    validate(plan(2), enough, smollm2)
    assert stream_budgets(plan(2), enough, smollm2)["a"] == 2 * layer, "no more than there is"
    with pytest.raises(PlanError, match=r"for those that come and go.*name a smaller window, move layers"):
        validate(plan(3), enough, smollm2)
    with pytest.raises(PlanError, match="stage 1: node 'a' has a window of 0 layers; it needs at least 1"):
        validate(plan(0), roomy, smollm2)
    resident = dataclasses.replace(plan(2).routes[0].stages[0], shares=(Share("a", window=2),))
    with pytest.raises(PlanError, match="node 'a' has a window; it needs residency streamed"):
        validate(by_hand(homes, resident), roomy, smollm2)


def test_members_of_a_group_stream_each_for_themselves(homes, smollm2):
    streamed, layers = Residency.STREAMED, homes.stage("a", range(30))
    shares = (
        Share("a", (0, 1), (0, 1024)),
        Share("b", (1, 2), (1024, 1280), residency=streamed),
        Share("c", (2, 3), (1280, 1536), residency=streamed, window=2),
    )
    group = dataclasses.replace(layers, shares=shares)
    plan = by_hand(homes, homes.stage("a", homes.EMBEDDING), group, homes.stage("a", homes.HEAD))
    fleet = homes.fleet(*(homes.node(name, memory=4 << 30, disk_bandwidth=DISK) for name in "abc"))
    validate(plan, fleet, smollm2)
    executable_stages(plan)
    sizes, budgets = node_bytes(plan, smollm2), stream_budgets(plan, fleet, smollm2)
    assert set(budgets) == {"b", "c"} and sizes["b"].streamed == sizes["c"].streamed == sizes["b"].weights
    assert budgets["b"] == sizes["b"].streamed and budgets["c"] == sizes["c"].streamed * 5 // 60
    assert predict(plan, fleet, smollm2, GOAL).time_per_token >= sizes["b"].streamed / DISK


def test_steps_at_once_with_groups(homes):
    def group(names, *parts):
        return dataclasses.replace(homes.stage("a", *parts), shares=tuple(Share(name) for name in names))

    apart = homes.plan(group("ab", homes.EMBEDDING, range(2)), group("cde", range(2, 4), homes.HEAD))
    assert steps_at_once(apart) == 2, "one for each group"
    again = homes.plan(homes.stage("a", homes.EMBEDDING), group("ab", range(4)), homes.stage("c", homes.HEAD))
    assert steps_at_once(again) == 1, "two could wait for each other"
    ring = homes.plan(homes.stage("a", range(2)), homes.stage("b", range(2, 4)), homes.stage("a", homes.HEAD))
    assert steps_at_once(ring) == 2
    away = dataclasses.replace(apart.routes[0].stages[1], shares=(Share("c", residency=Residency.STREAMED), Share("d")))
    assert steps_at_once(homes.plan(apart.routes[0].stages[0], away)) == 1
