"""The exact solver: against brute force, and against what must hold of every optimum."""

import dataclasses
import random
import time
from itertools import combinations, pairwise, permutations, product
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.planner.costs import Pass, kv_bytes_per_token, layer_parts, seconds, weight_bytes
from potluck.planner.executable import executable_stages
from potluck.planner.fleet import Device, Fleet, Link, Node
from potluck.planner.goal import Goal
from potluck.planner.memory import NODE_OVERHEAD
from potluck.planner.objective import objective
from potluck.planner.offers import ENDS
from potluck.planner.plan import Plan, Route, Share, Stage
from potluck.planner.predict import predict
from potluck.planner.ring import joined, ring_windows
from potluck.planner.solve import DoesNotFit, solve
from potluck.planner.streaming import cut_route
from potluck.planner.validate import validate

MIB = 2**20
INSTANCES = 500
SEQUENTIAL = ("single node", "pipeline", "ring")


# Brute force ----------------------------------------------------------------------------------------------------------


class Brute:
    """Every plan of one place per stage, by arithmetic of its own; what streams, as `predict` says.

    The family: the layers go to an ordered set of nodes in k rounds, every node at least k; embedding and head are on
    any nodes. Where the layers of a node do not fit, any number of them may stay that leaves room for one more.
    """

    def __init__(self, fleet, spec, goal):
        self.fleet, self.spec, self.goal = fleet, spec, goal
        self.layers, self.nodes = len(spec.layers), {node.name: node for node in fleet.nodes}
        self.layer, self.embedding, self.head = (self.taken(parts) for parts in (layer_parts([0]), ENDS[:1], ENDS[1:]))
        self.kv = goal.kv_tokens * kv_bytes_per_token(spec, goal.dtype)
        row, soft = spec.hidden * 4, goal.software
        self.hop = {(name, name): 0.0 for name in self.nodes}
        for a, b in permutations(self.nodes, 2):
            self.hop[a, b] = fleet.link(a, b).latency + row / fleet.link(a, b).bandwidth + soft.frame + soft.stage
        self.steady = soft.step + 2 * soft.frame + soft.stage
        self.best, self.bytes = inf, {}

    def taken(self, parts):
        work = Pass(1, 1, self.goal.context)
        return {
            name: seconds(self.spec, parts, work, (node.device, self.goal.dtype)) for name, node in self.nodes.items()
        }

    def least(self):
        """The least seconds; infinite where nothing fits."""
        for count in range(1, len(self.nodes) + 1):
            for ring in combinations(self.nodes, count):
                for rounds in range(1, 2 if count == 1 else self.layers // count + 1):
                    self.over(ring, rounds)
        return self.best

    def over(self, ring, rounds):
        ways = [(self.way(order, rounds), order) for order in permutations(ring)]
        for counts in splits(self.layers, len(ring), rounds):
            for start, head in product(self.nodes, repeat=2):
                self.try_(dict(zip(ring, counts, strict=True)), rounds, (start, head), ways)

    def way(self, order, rounds):
        return rounds * sum(self.hop[pair] for pair in pairwise(order)) + (rounds - 1) * self.hop[order[-1], order[0]]

    def try_(self, counts, rounds, ends, ways):
        start, head = ends
        kept = {}
        for name in {*counts, *ends}:
            most = self.most_kept(name, counts.get(name, 0), rounds if len(counts) > 1 else 0, ends)
            if most is None:
                return
            if most < counts.get(name, 0):
                kept[name] = most
        busy = self.embedding[start] + self.head[head] + sum(self.layer[name] * counts[name] for name in counts)
        busy += self.steady + self.fleet.link(self.fleet.engine, start).latency
        busy += self.fleet.link(head, self.fleet.engine).latency
        hops = [(way + self.hop[start, order[0]] + self.hop[order[-1], head], order) for way, order in ways]
        if not kept:
            self.best = min(self.best, busy + min(hops)[0])
            return
        for stay in product(*(range(most, -1, -1) for most in kept.values())):
            some = dict(zip(kept, stay, strict=True))
            for hop, order in hops:
                if max(busy + hop, self.reading(counts, some)) < self.best:
                    self.best = min(self.best, self.predicted(counts, rounds, ends, (order, some)))

    def reading(self, counts, kept):
        return max((counts[name] - kept[name]) * self.weights(name) / self.nodes[name].disk_bandwidth for name in kept)

    def weights(self, name, parts=None):
        key = name, tuple(layer_parts([0]) if parts is None else parts)
        if key not in self.bytes:
            self.bytes[key] = weight_bytes(self.spec, key[1], self.goal.dtype, self.nodes[name].device.kind)
        return self.bytes[key]

    def most_kept(self, name, count, rounds, ends):
        """Layers that stay in memory; None where it does not fit. No rounds: one node has all layers."""
        node = self.nodes[name]
        parts = [part for part, end in zip(ENDS, ends, strict=True) if end == name]
        free = node.device.memory - NODE_OVERHEAD - self.weights(name, parts) - count * self.kv
        if free >= count * self.weights(name):
            return count
        kept = free // self.weights(name) - 1
        streams = node.disk_bandwidth and node.device.kind != "metal"
        return min(kept, count - 1) if count and streams and kept >= 0 else None

    def predicted(self, counts, rounds, ends, streaming):
        order, kept = streaming
        windows = [(window.node, layer_parts(window.layers)) for window in ring_windows(order, counts, rounds)]
        stages = joined([(ends[0], ENDS[:1]), *windows, (ends[1], ENDS[1:])])
        route = cut_route(
            Route(tuple(Stage(parts, (Share(name),)) for name, parts in stages)), kept, dict.fromkeys(kept, self.layers)
        )
        plan = Plan("tiny", self.goal.dtype, (route,), self.goal.kv_tokens)
        return predict(plan, self.fleet, self.spec, self.goal).time_per_token


def splits(layers, count, least):
    """Every way to give so many layers to so many nodes, each at least so many."""
    if count == 1:
        yield (layers,)
        return
    for first in range(least, layers - least * (count - 1) + 1):
        yield from ((first, *rest) for rest in splits(layers - first, count - 1, least))


def instance(homes, seed):
    """A small fleet and model, drawn at random."""
    rng = random.Random(seed)
    layers = rng.randint(3, 7)
    spec = homes.model(
        layers, vocab=8192, hidden=1024, ffn=2816, heads=8, kv_heads=4, head_dim=128, tied_head=rng.random() < 0.5
    )
    names = "abcd"[: rng.choice([2, 2, 3, 3, 4])]
    tight = rng.choice([0.3, 0.6, 0.9, 1.2, 2.0])
    nodes = [node(rng, name, 48 * MIB * (2 + tight * layers / len(names))) for name in names]
    links = {
        pair: Link(rng.choice([1e-5, 3e-4, 3e-3, rng.uniform(0, 1e-2)]), rng.choice([1e6, 1e7, 1e9]))
        for pair in permutations(names, 2)
        if rng.random() < 0.7
    }
    fleet = Fleet(tuple(nodes), rng.choice(names), Link(1e-3, 1e8), links, "home")
    return fleet, spec, Goal(kv_tokens=rng.choice([16, 256, 2048]))


def node(rng, name, memory):
    bandwidth = rng.choice([1e9, 5e9, 2e10, 1e11]) * rng.uniform(0.7, 1.3)
    kind = rng.choice(["cpu", "cpu", "cuda", "metal"])
    device = Device(kind, bandwidth * 3, bandwidth, int(NODE_OVERHEAD + memory * rng.uniform(0.4, 1.2)))
    return Node(name, (device,), rng.choice([0.0, 1e8, 2e9, 7e9, 7e9]))


def sequential(plan):
    """What the best plan without groups costs."""
    known = {one.strategy: one.seconds for one in plan.alternatives} | {plan.proof.strategy: plan.proof.seconds}
    return min(seconds for strategy, seconds in known.items() if strategy in SEQUENTIAL)


@pytest.mark.parametrize("part", range(10))
def test_the_cost_is_that_of_brute_force(homes, part):
    for seed in range(part, INSTANCES, 10):
        fleet, spec, goal = instance(homes, seed)
        best = Brute(fleet, spec, goal).least()
        try:
            plan = solve(fleet, spec, goal)
        except DoesNotFit as error:
            assert best == inf, f"instance {seed}: {error}"
            continue
        validate(plan, fleet, spec)
        executable_stages(plan)
        assert plan.prediction.time_per_token == pytest.approx(plan.proof.seconds)
        assert sequential(plan) == pytest.approx(best, rel=1e-5), f"instance {seed}"


# What holds of every optimum ------------------------------------------------------------------------------------------


def cost(fleet, spec, goal):
    """What the best plan without groups costs; infinite where nothing fits."""
    try:
        return sequential(solve(fleet, spec, goal))
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


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(["memory", "speed", "links"]), st.floats(1.0, 4.0))
def test_better_machines_never_make_it_worse(homes, seed, what, factor):
    fleet, spec, goal = instance(homes, seed)
    # Of what is streamed, predictions follow windows layer by layer, which is not monotone to the last microsecond.
    goal = dataclasses.replace(goal, streaming=False)
    lucky = fleet.nodes[seed % len(fleet.nodes)]
    device = lucky.device
    better = {
        "memory": lambda: changed(fleet, lucky.name, memory=int(device.memory * factor)),
        "speed": lambda: changed(
            fleet, lucky.name, flops=device.flops * factor, memory_bandwidth=device.memory_bandwidth * factor
        ),
        "links": lambda: dataclasses.replace(
            fleet,
            links={pair: Link(link.latency / factor, link.bandwidth * factor) for pair, link in fleet.links.items()},
        ),
    }[what]()
    assert cost(better, spec, goal) <= cost(fleet, spec, goal) * (1 + 1e-5)


def test_a_crippled_node_is_left_out_and_told_why(homes, smollm2):
    half = NODE_OVERHEAD + 480 * MIB
    crippled = homes.node("crippled", 0.1, 2**33)
    plan = solve(homes.fleet(homes.node("a", 60, half), homes.node("b", 30, half), crippled), smollm2, Goal())
    assert set(plan.nodes) == {"a", "b"}
    assert plan.reasons["crippled"].startswith(
        "left out: a layer takes 437 ms here, 1.46 ms on b, and coming here takes "
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


def test_a_group_where_links_are_quick_and_a_pipeline_where_they_are_not(homes, smollm2):
    def chosen(latency):
        nodes = [homes.node(name, 3, NODE_OVERHEAD + 600 * MIB, bandwidth=1e9) for name in "abcd"]
        return solve(homes.fleet(*nodes, latency=latency, bandwidth=1.25e9), smollm2, Goal())

    near, far = chosen(5e-5), chosen(0.02)
    assert near.proof.strategy == "group" and not near.proof.is_optimal and near.proof.bound > 0
    assert far.proof.strategy in SEQUENTIAL and far.proof.is_optimal
    assert near.alternatives and near.alternatives[0].seconds > near.proof.seconds


@pytest.mark.parametrize(("count", "most"), [(8, 3), (32, 15), (1000, 180)])
def test_large_fleets_are_planned_in_time(homes, count, most):
    rng = random.Random(count)
    spec = homes.model(80, vocab=32000, hidden=8192, ffn=28672, heads=64, kv_heads=8, head_dim=128)
    nodes = [node(rng, f"n{index}", 16 * 2**30) for index in range(count)]
    links = {(a.name, b.name): Link(rng.uniform(1e-4, 4e-3), 1.25e8) for a in nodes[:40] for b in nodes[:40] if a != b}
    fleet = Fleet(tuple(nodes), nodes[0].name, Link(5e-4, 1.25e8), links, "home")
    begun = time.process_time()
    plan = solve(fleet, spec, Goal(dtype="bfloat16", kv_tokens=4096))
    assert time.process_time() - begun < most
    validate(plan, fleet, spec)
    assert 0 <= plan.proof.gap < (1 if plan.proof.strategy == "group" else 0.5)
