"""Several groups in one route: chosen where one does not hold the model, within memory, and run as predicted."""

import dataclasses
from collections import Counter

import pytest

from potluck.planner.executable import executable_stages
from potluck.planner.goal import Goal
from potluck.planner.group_growth import Growth
from potluck.planner.memory import NODE_OVERHEAD
from potluck.planner.objective import objective
from potluck.planner.offers import Request
from potluck.planner.places import Places
from potluck.planner.predict import predict
from potluck.planner.problem import Problem
from potluck.planner.simulator.load import Arrival, Load
from potluck.planner.simulator.simulate import simulate
from potluck.planner.solve import solve
from potluck.planner.validate import validate

MIB = 2**20
# Two rooms with a switch each; between them it takes long.
ROOMS = ("abcd", "wxyz")


def rooms(homes, memory=120, speeds=None, near=5e-5, far=3e-3):
    """Nodes of which four hold half of SmolLM2 or a little more."""
    names = "".join(ROOMS)
    nodes = [
        homes.node(name, 3, NODE_OVERHEAD + memory * MIB, bandwidth=(speeds or {}).get(name, 1e9)) for name in names
    ]
    links = {
        (one, other): homes.fleet(nodes[0], latency=near if same else far, bandwidth=1.25e9).default_link
        for one in names
        for other in names
        if one != other
        for same in [any(one in room and other in room for room in ROOMS)]
    }
    return homes.fleet(*nodes, links=links)


def grouped(plan):
    return [stage for stage in plan.routes[0].stages if stage.is_group]


def test_two_groups_where_one_does_not_hold_the_model(homes, smollm2):
    home, goal = rooms(homes), Goal(kv_tokens=256)
    plan = solve(home, smollm2, goal)
    validate(plan, home, smollm2)
    executable_stages(plan)
    layered = [stage for stage in grouped(plan) if len(stage.layers)]
    assert len(layered) >= 2 and not set(layered[0].nodes) & set(layered[1].nodes)
    assert all(set(stage.nodes) <= set(room) for stage in layered for room in ROOMS if stage.nodes[0] in room)
    alone = solve(home, smollm2, dataclasses.replace(goal, grouping=False))
    assert plan.prediction.time_per_token < 0.8 * alone.prediction.time_per_token
    assert plan.proof.bound <= plan.proof.seconds and plan.proof.gap < 0.6


def test_a_route_of_groups_runs_as_it_is_predicted(homes, smollm2):
    home, goal = rooms(homes), Goal(kv_tokens=256, context=24)
    plan = solve(home, smollm2, goal)
    assert len(grouped(plan)) >= 2
    one = simulate(plan, home, smollm2, goal, Load((Arrival(0.0, 8, 33),))).requests[0]
    between = (one.tokens_at[-1] - one.tokens_at[0]) / (len(one.tokens_at) - 1)
    assert between == pytest.approx(predict(plan, home, smollm2, goal).time_per_token, rel=0.02)


def problem_of(fleet, spec, goal):
    places = Places(fleet, Request(spec, goal))
    return Problem.over(fleet, Request(spec, goal), [places.node(node) for node in fleet.nodes])


def test_shares_go_by_speed_and_where_that_holds_too_little_by_memory(homes, smollm2):
    home = rooms(homes, speeds={"a": 4e9})
    growth = Growth(problem_of(home, smollm2, Goal(kv_tokens=256)), range(8))
    quick = growth.weights((0, 1), 2, beyond=1e-3)
    assert quick[0] / quick[1] == pytest.approx(4, rel=0.05)
    roomy = growth.weights((0, 1), 30, beyond=1.0)
    assert float(roomy[0]) == pytest.approx(0.5, abs=0.01), "with others a thousand times slower all memory is used"


def test_the_quickest_group_of_every_size_is_grown(homes, smollm2):
    home = rooms(homes)
    growth = Growth(problem_of(home, smollm2, Goal(kv_tokens=256)), range(8))
    grown = growth.grown()
    assert set(grown) >= {2, 3, 4} and all(len(set(members)) == size for size, members in grown.items())
    assert Counter(members < (4,) for members in grown.values() if len(members) <= 4)[True] >= 3, "in one room"
    assert growth.seconds(grown[4]) < growth.seconds((0, 1, 4, 5))
    assert not set(growth.grown(taken=grown[4])[4]) & set(grown[4])


def test_a_lone_user_gets_a_group_and_the_others_routes_beside_it(homes, smollm2):
    nodes = [homes.node(name, 3, NODE_OVERHEAD + 200 * MIB, bandwidth=1e9) for name in "abcdefghijkl"]
    home = homes.fleet(*nodes, latency=5e-5, bandwidth=1.25e9)
    plan = solve(home, smollm2, Goal(kv_tokens=256, aim="balanced"))
    validate(plan, home, smollm2)
    executable_stages(plan)
    costs = {
        aim: objective(solve(home, smollm2, Goal(kv_tokens=256, aim=aim)).prediction, Goal(aim="balanced"))
        for aim in ("latency", "throughput")
    }
    assert plan.proof.seconds <= min(costs.values()) * (1 + 1e-9)
    assert plan.proof.strategy == "replicas" and grouped(plan) and len(plan.routes) > 1
    assert not plan.proof.is_optimal and 0 < plan.proof.bound < plan.proof.seconds
    assert set(plan.reasons) == set("abcdefghijkl") and plan.reasons[plan.nodes[0]].startswith("route 1: ")
