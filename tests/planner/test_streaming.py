"""Models that no memory holds: which layers stay, in how many rounds, and what that takes."""

import dataclasses

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from potluck.planner.goal import Goal
from potluck.planner.memory import NODE_OVERHEAD, node_bytes, steps_at_once, stream_budgets
from potluck.planner.offers import ENDS, Request
from potluck.planner.plan import Residency
from potluck.planner.plan_file import plan_from_data, plan_to_data
from potluck.planner.predict import predict
from potluck.planner.solve import DoesNotFit, solve
from potluck.planner.validate import PlanError, single_node_stages, validate

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
    single_node_stages(plan)
    counts = streamed(plan)
    assert sum(total for _, total in counts.values()) == 30
    assert all(0 < away < total for away, total in counts.values())
    sizes, budgets = node_bytes(plan, smollm2), stream_budgets(plan, tight, smollm2)
    layer = Request(smollm2, GOAL).layer_weights
    for node, size in sizes.items():
        memory = tight.node(node).device.memory
        assert size.total <= memory
        assert size.weights - size.streamed + budgets[node] + size.kv + NODE_OVERHEAD <= memory
        # The next window comes in beside the current one.
        window = max(len(stage.layers) for stage in plan.routes[0].stages if stage.node == node)
        assert budgets[node] >= 2 * window * layer
    assert steps_at_once(plan) == 1
    assert all("read from disk for every token" in plan.reasons[node] for node in counts)


def test_reading_bounds_the_prediction(tight, smollm2):
    plan = solve(tight, smollm2, GOAL)
    slowest = max(size.streamed / DISK for size in node_bytes(plan, smollm2).values())
    assert plan.prediction.time_per_token >= slowest
    slow = dataclasses.replace(
        tight, nodes=tuple(dataclasses.replace(node, disk_bandwidth=DISK / 100) for node in tight.nodes)
    )
    assert predict(plan, slow, smollm2, GOAL).time_per_token == pytest.approx(100 * slowest, rel=1e-6)


def test_one_node_alone_streams_through_what_it_has_left(homes, smollm2):
    request = Request(smollm2, GOAL)
    fleet = homes.fleet(homes.node("a", memory=memory_for(request, 15, ends=True), disk_bandwidth=DISK))
    plan = solve(fleet, smollm2, GOAL)
    validate(plan, fleet, smollm2)
    assert [stage.shares[0].residency for stage in plan.routes[0].stages] == [Residency.RESIDENT, Residency.STREAMED]
    assert stream_budgets(plan, fleet, smollm2)["a"] >= 2 * request.layer_weights


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
    single_node_stages(plan)
    budgets = stream_budgets(plan, fleet, spec)
    for node, size in node_bytes(plan, spec).items():
        assert size.total <= fleet.node(node).device.memory
        assert bool(size.streamed) == (node in budgets)
        assert not size.streamed or budgets[node] >= size.window
    assert set(ENDS) <= {part for stage in plan.routes[0].stages for part in stage.parts}
