"""Several routes side by side: what they give together, against brute force, and who gets them."""

import random
from dataclasses import replace
from itertools import pairwise, permutations, product

import pytest

from potluck.models.sizes import layer_parts
from potluck.planner.capacity import least_seconds
from potluck.planner.executable import executable_stages
from potluck.planner.fleet import Device, Fleet, Link, Node
from potluck.planner.goal import Goal
from potluck.planner.memory import NODE_OVERHEAD
from potluck.planner.objective import objective
from potluck.planner.offers import ENDS, Request
from potluck.planner.places import Places
from potluck.planner.plan import Plan, Route, Share, Stage
from potluck.planner.predict import predict
from potluck.planner.problem import Problem
from potluck.planner.ring import joined
from potluck.planner.simulator.load import Arrival, Load
from potluck.planner.simulator.simulate import simulate
from potluck.planner.solve import solve
from potluck.planner.validate import PlanError, validate

MIB = 2**20


def divisions(names):
    """Every way to divide names into sets, by their first member's set."""
    if not names:
        yield []
        return
    first, *rest = names
    for division in divisions(rest):
        yield [[first], *division]
        for number in range(len(division)):
            yield [one if other != number else [first, *one] for other, one in enumerate(division)]


def routes_over(names, layers):
    """Every pipeline over some of these nodes, the ends on any of them."""
    for order in (order for count in range(1, len(names) + 1) for order in permutations(names, count)):
        for cuts in product(range(1, layers), repeat=len(order) - 1):
            ends = [0, *cuts, layers]
            if all(low < high for low, high in pairwise(ends)):
                for start, head in product(names, repeat=2):
                    windows = zip(order, pairwise(ends), strict=True)
                    visits = [(start, ENDS[:1]), *((n, layer_parts(range(*w))) for n, w in windows), (head, ENDS[1:])]
                    yield Route(tuple(Stage(parts, (Share(name),)) for name, parts in joined(visits)))


def best_rate(names, fleet, spec, goal):
    """The most tokens per second of one route over some of these nodes."""
    best = 0.0
    for route in routes_over(names, len(spec.layers)):
        plan = Plan("tiny", goal.dtype, (route,), goal.kv_tokens)
        try:
            validate(plan, fleet, spec)
        except PlanError:
            continue
        best = max(best, predict(plan, fleet, spec, goal).tokens_per_second)
    return best


def drawn(homes, seed):
    rng = random.Random(seed)
    layers = rng.randint(2, 4)
    spec = homes.model(layers, vocab=8192, hidden=1024, ffn=2816, heads=8, kv_heads=4, head_dim=128)
    nodes = []
    for name in "abc":
        speed = rng.choice([2e9, 5e9, 2e10])
        room = rng.choice([0.7, 1.3, 1.3]) * 48 * MIB * (layers + 2)
        nodes.append(Node(name, (Device("cpu", speed * 3, speed, int(NODE_OVERHEAD + room)),)))
    return Fleet(tuple(nodes), "a", Link(rng.choice([1e-4, 2e-3]), 1e8), {}, "home"), spec, Goal(kv_tokens=64)


@pytest.mark.parametrize("seed", range(10))
def test_the_most_tokens_per_second_are_those_of_brute_force(homes, seed):
    fleet, spec, goal = drawn(homes, seed)
    goal = replace(goal, aim="throughput")
    names = [node.name for node in fleet.nodes]
    rates = {}
    for division in divisions(names):
        for one in division:
            key = frozenset(one)
            rates[key] = rates.get(key) or best_rate(one, fleet, spec, goal)
    best = max(sum(rates[frozenset(one)] for one in division) for division in divisions(names))
    plan = solve(fleet, spec, goal)
    validate(plan, fleet, spec)
    executable_stages(plan)
    assert plan.prediction.tokens_per_second >= best * (1 - 1e-5)
    places = Places(fleet, Request(spec, goal))
    problem = Problem.over(fleet, Request(spec, goal), [places.node(node) for node in fleet.nodes])
    assert 0.2 / best < least_seconds(problem) <= (1 + 1e-9) / best, "a bound, and not a useless one"
    if plan.proof.strategy != "group":
        assert plan.prediction.tokens_per_second == pytest.approx(best, rel=1e-5) and plan.proof.is_optimal


def two_of(homes, smollm2, **goal):
    home = homes.fleet(*(homes.node(name, 30, bandwidth=4e9) for name in "ab"), homes.node("c", 3), latency=2e-3)
    return home, solve(home, smollm2, Goal(**{"aim": "throughput"} | goal))


def test_one_user_gets_one_route_and_many_get_several(homes, smollm2):
    home, many = two_of(homes, smollm2)
    assert len(many.routes) > 1 and many.proof.strategy == "replicas"
    assert len(set(many.nodes)) == sum(len(set(alone.nodes)) for alone in many.replicas)
    assert len(two_of(homes, smollm2, aim="latency")[1].routes) == 1
    alone = [predict(one, home, smollm2, Goal()).tokens_per_second for one in many.replicas]
    assert many.prediction.tokens_per_second == pytest.approx(sum(alone))
    assert many.reasons["a"].startswith("route ") and set(many.reasons) == {"a", "b", "c"}


def test_balanced_counts_the_quickest_route_and_all_of_them(homes, smollm2):
    home, both = two_of(homes, smollm2, aim="balanced")
    times = [predict(one, home, smollm2, Goal()).time_per_token for one in both.replicas]
    assert both.prediction.time_per_token == min(times)
    others = (two_of(homes, smollm2, aim=aim)[1] for aim in ("latency", "throughput"))
    least = min(objective(other.prediction, Goal(aim="balanced")) for other in others)
    assert both.proof.seconds <= least * (1 + 1e-9)
    assert both.proof.bound <= both.proof.seconds


def test_everybody_pinned_or_named_by_spread_has_a_layer(homes, smollm2):
    assert "c" in two_of(homes, smollm2, pinned=frozenset("c"))[1].nodes
    assert set(two_of(homes, smollm2, spread="all")[1].nodes) == set("abc")
    assert "b" not in two_of(homes, smollm2, excluded=frozenset("b"))[1].nodes


def test_the_simulator_finds_the_same_tokens_per_second(homes, smollm2):
    home, plan = two_of(homes, smollm2)
    goal = Goal(context=24)
    load = Load(tuple(Arrival(0.0, 8, 400) for _ in plan.nodes))
    served = simulate(plan, home, smollm2, goal, load).requests
    # As long as all routes have something to do.
    end = min(one.tokens_at[-1] for one in served)
    rate = sum(at <= end for one in served for at in one.tokens_at) / end
    assert rate == pytest.approx(predict(plan, home, smollm2, goal).tokens_per_second, rel=0.1)


def test_no_bound_is_above_what_is_possible(homes):
    for seed in range(3):
        fleet, spec, goal = drawn(homes, seed)
        for aim, batch in product(("throughput", "balanced", "latency"), (1, 4)):
            asked = replace(goal, aim=aim, batch=batch)
            costs = [
                objective(solve(fleet, spec, replace(asked, aim=other)).prediction, asked)
                for other in ("latency", "throughput", "balanced")
            ]
            assert solve(fleet, spec, asked).proof.bound <= min(costs) * (1 + 1e-9)
