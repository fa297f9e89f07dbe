"""The exact solver: what must hold of every optimum, and how long large fleets take."""

import dataclasses
import random
import time
from itertools import permutations
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.models.quantize import with_quantization
from potluck.models.shipped import shipped_spec
from potluck.planner.fleet import Device, Fleet, Link, Node
from potluck.planner.goal import Goal
from potluck.planner.memory import NODE_OVERHEAD
from potluck.planner.objective import objective
from potluck.planner.solve import DoesNotFit, solve
from potluck.planner.validate import validate

MIB = 2**20


def cost(brute_force, fleet, spec, goal):
    """What the best plan without groups costs; infinite where nothing fits."""
    try:
        return brute_force.sequential(solve(fleet, spec, goal))
    except DoesNotFit:
        return inf


def changed(fleet, name, **device):
    """The fleet with another device in one node."""
    return dataclasses.replace(
        fleet,
        nodes=tuple(
            dataclasses.replace(node, devices=(dataclasses.replace(node.device, **device),))
            if node.name == name
            else node
            for node in fleet.nodes
        ),
    )


IMPROVEMENTS = ("memory", "speed", "links", "disk", "everything")


def better(fleet, name, what, factor):
    """The fleet with one thing of a node, or all links, so many times as good; or everything."""
    device = fleet.node(name).device
    if what == "everything":
        for one in IMPROVEMENTS[:-1]:
            fleet = better(fleet, name, one, factor)
        return fleet
    if what == "links":
        links = {pair: Link(link.latency / factor, link.bandwidth * factor) for pair, link in fleet.links.items()}
        link = fleet.default_link
        return dataclasses.replace(
            fleet, links=links, default_link=Link(link.latency / factor, link.bandwidth * factor)
        )
    if what == "disk":
        nodes = (
            dataclasses.replace(node, disk_bandwidth=node.disk_bandwidth * factor) if node.name == name else node
            for node in fleet.nodes
        )
        return dataclasses.replace(fleet, nodes=tuple(nodes))
    speeds = {"flops": device.flops * factor, "memory_bandwidth": device.memory_bandwidth * factor}
    return changed(fleet, name, **({"memory": int(device.memory * factor)} if what == "memory" else speeds))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(IMPROVEMENTS), st.floats(1.0, 4.0), st.booleans())
def test_better_machines_never_make_it_worse(homes, brute_force, seed, what, factor, streaming):
    fleet, spec, goal = brute_force.instance(homes, seed)
    goal = dataclasses.replace(goal, streaming=streaming)
    lucky = better(fleet, fleet.nodes[seed % len(fleet.nodes)].name, what, factor)
    before = cost(brute_force, fleet, spec, goal)
    # Of what is streamed, waiting depends on how reading and computing meet: by up to a layer's time.
    assert cost(brute_force, lucky, spec, goal) <= before * (1 + (0.02 if streaming else 1e-5))


def test_a_crippled_node_is_left_out_and_told_why(homes, smollm2):
    half = NODE_OVERHEAD + 480 * MIB
    crippled = homes.node("crippled", 0.1, 2**33)
    plan = solve(homes.fleet(homes.node("a", 60, half), homes.node("b", 30, half), crippled), smollm2, Goal())
    assert set(plan.nodes) == {"a", "b"}
    assert plan.reasons["crippled"].startswith(
        "left out: a layer takes 439 ms here, 1.46 ms on b, and coming here takes "
    )
    pinned = solve(
        homes.fleet(homes.node("a", 60, half), homes.node("b", 30, half), crippled),
        smollm2,
        Goal(pinned=frozenset({"crippled"})),
    )
    assert plan.prediction.time_per_token < pinned.prediction.time_per_token and "crippled" in pinned.nodes


def test_equal_nodes_get_equal_shares(homes, smollm2):
    room = NODE_OVERHEAD + 500 * MIB
    plan = solve(
        homes.fleet(*(homes.node(name, 60, room, bandwidth=2e10) for name in "ab"), latency=0.02), smollm2, Goal()
    )
    layers = {node: sum(len(s.layers) for s in plan.routes[0].stages if s.node == node) for node in plan.nodes}
    assert sum(layers.values()) == 30 and abs(layers["a"] - layers["b"]) <= 8, "the head counts as work"


def test_a_share_bounds_memory_and_time(homes, smollm2):
    home = homes.fleet(homes.node("laptop", 60), homes.node("pc", 30))
    goal = Goal(shares={"laptop": 0.3})
    plan = solve(home, smollm2, goal)
    assert solve(home, smollm2, Goal()).nodes == ("laptop",)
    weights, kv = plan.prediction.weight_bytes.get("laptop", 0), plan.prediction.kv_bytes.get("laptop", 0)
    assert weights + kv + NODE_OVERHEAD <= 0.3 * home.node("laptop").device.memory
    assert "pc" in plan.nodes


@pytest.mark.parametrize("aim", ["latency", "throughput", "balanced"])
def test_what_is_aimed_at_is_what_is_best(homes, smollm2, aim):
    home = homes.fleet(*(homes.node(name, 30, bandwidth=2e9) for name in "abc"), latency=0.005)
    plans = {one: solve(home, smollm2, Goal(aim=one)) for one in ("latency", "throughput", "balanced")}
    costs = {one: objective(plan.prediction, Goal(aim=aim)) for one, plan in plans.items()}
    assert costs[aim] == pytest.approx(min(costs.values()), rel=1e-6)
    assert len(plans["throughput"].nodes) > len(plans["latency"].nodes) or plans["latency"].proof.strategy == "group"


def test_metal_never_streams(homes, smollm2):
    room = NODE_OVERHEAD + 300 * MIB
    mac = Node("mac", (Device("metal", 1e12, 1e11, room),), 7e9)
    with pytest.raises(DoesNotFit):
        solve(homes.fleet(mac), smollm2, Goal(kv_tokens=512))
    pc = dataclasses.replace(mac, name="mac", devices=(Device("cpu", 1e12, 1e11, room),))
    assert solve(homes.fleet(pc), smollm2, Goal(kv_tokens=512)).nodes == ("mac",)


def test_rounds_that_are_asked_for(homes, smollm2):
    home = homes.fleet(*(homes.node(name, 60, NODE_OVERHEAD + 300 * MIB) for name in "abcd"), latency=0.05)
    plan = solve(home, smollm2, Goal(rounds=3))
    visits = [stage.node for stage in plan.routes[0].stages if stage.layers]
    assert max(visits.count(node) for node in plan.nodes) == 3


def test_fewest_and_all(homes, smollm2):
    home = homes.fleet(*(homes.node(name, speed) for name, speed in zip("abcd", (60, 50, 40, 1), strict=True)))
    assert len(solve(home, smollm2, Goal(spread="fewest", aim="throughput")).nodes) == 1
    assert len(solve(home, smollm2, Goal(spread="all")).nodes) == 4


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"shares": {"a": 0.0}}, "share of 0%; exclude it"),
        ({"shares": {"a": 1.5}}, "share of 150%; a share is above 0% and at most 100%"),
        ({"shares": {"a": 0.5}, "excluded": frozenset({"a"})}, "'a' is excluded, but has a share of 50%"),
        ({"aim": "speed"}, "aim 'speed' is not known; use one of 'latency', 'throughput', 'balanced'"),
        ({"solver": "greedy"}, "solver 'greedy' is not known; use one of 'exact', 'proportional'"),
    ],
)
def test_goals_that_contradict_themselves(goal, message):
    with pytest.raises(ValueError, match=message):
        Goal(**goal)


def test_a_share_of_an_unknown_node(homes, smollm2):
    with pytest.raises(ValueError, match="has no node 'bb'"):
        solve(homes.fleet(homes.node("aa"), homes.node("ab")), smollm2, Goal(shares={"bb": 0.5}))


def test_a_group_where_links_are_quick_and_a_pipeline_where_they_are_not(homes, brute_force, smollm2):
    def chosen(latency, grouping=True, cores=0.0):
        nodes = [homes.node(name, 3, NODE_OVERHEAD + 600 * MIB, bandwidth=1e9) for name in "abcd"]
        fleet = homes.fleet(
            *(dataclasses.replace(node, cores=cores) for node in nodes), latency=latency, bandwidth=1.25e9
        )
        return solve(fleet, smollm2, Goal(grouping=grouping))

    near, far = chosen(5e-5), chosen(0.02)
    for without in (chosen(5e-5, grouping=False), chosen(5e-5, cores=0.5)):
        assert not any(stage.is_group for stage in without.routes[0].stages)
    assert chosen(5e-5, cores=1.0).proof.strategy == "group"
    assert near.proof.strategy == "group" and not near.proof.is_optimal and near.proof.bound > 0
    assert far.proof.strategy in brute_force.SEQUENTIAL and far.proof.is_optimal
    assert near.alternatives and near.alternatives[0].seconds > near.proof.seconds


# What is promised is a third: 8 nodes in 1 s, 32 in 5 s, 1,000 in a minute, of a processor that others use, too.
DEADLINES = {8: 3, 32: 15, 1000: 180}


def planned_in_time(fleet, spec, goal):
    begun = time.process_time()
    plan = solve(fleet, spec, goal)
    assert time.process_time() - begun < DEADLINES[len(fleet.nodes)]
    validate(plan, fleet, spec)
    assert plan.proof.bound > 0
    return plan.proof.gap


@pytest.mark.parametrize(
    ("count", "gaps"),
    [
        (8, {"latency": 0.1, "throughput": 0.1, "balanced": 0.1}),
        (32, {"latency": 0.55, "throughput": 0.13, "balanced": 0.6}),
        (1000, {"latency": 0.1, "throughput": 0.06, "balanced": 0.1}),
    ],
)
def test_large_fleets_are_planned_in_time(homes, brute_force, count, gaps):
    rng = random.Random(count)
    spec = homes.model(80, vocab=32000, hidden=8192, ffn=28672, heads=64, kv_heads=8, head_dim=128)
    nodes = [brute_force.node(rng, f"n{index}", 16 * 2**30) for index in range(count)]
    links = {(a.name, b.name): Link(rng.uniform(1e-4, 4e-3), 1.25e8) for a in nodes[:40] for b in nodes[:40] if a != b}
    fleet = Fleet(tuple(nodes), nodes[0].name, Link(5e-4, 1.25e8), links, "home")
    for aim, most in gaps.items():
        assert planned_in_time(fleet, spec, Goal(dtype="bfloat16", kv_tokens=4096, aim=aim)) < most, aim


@pytest.mark.parametrize(("count", "most"), [(8, 0.12), (32, 0.35)])
def test_quantised_models_are_planned_in_time_on_uneven_fleets(brute_force, count, most):
    """Disks, links a thousand times apart, and quick ones, so that groups, rings and replicas are all of use."""
    rng = random.Random(count)
    spec = with_quantization(shipped_spec("meta-llama/Llama-3.3-70B-Instruct"), "int4")
    nodes = [brute_force.node(rng, f"n{index}", rng.choice([4, 8, 16]) * 2**30) for index in range(count)]
    links = {
        (a.name, b.name): Link(rng.choice([1e-5, 3e-4, 3e-3, rng.uniform(0, 1e-2)]), rng.choice([1e7, 1.25e8, 1.25e9]))
        for a, b in permutations(nodes, 2)
        if rng.random() < 0.7
    }
    fleet = Fleet(tuple(nodes), nodes[0].name, Link(1e-3, 1.25e8), links, "home")
    for aim in ("latency", "throughput", "balanced"):
        assert planned_in_time(fleet, spec, Goal(dtype="quantized", kv_tokens=4096, aim=aim)) < most, aim
