"""What is said of all groups, against groups of every kind, and how close it comes."""

import dataclasses
import random
from fractions import Fraction
from itertools import combinations
from math import inf

import pytest

from potluck.planner.fleet import Link
from potluck.planner.goal import Goal
from potluck.planner.group_bound import least_seconds_of_groups
from potluck.planner.memory import NODE_OVERHEAD
from potluck.planner.offers import Request
from potluck.planner.places import Places
from potluck.planner.problem import Problem
from potluck.planner.ring_search import best_ring
from potluck.planner.solve import solve
from potluck.planner.splitting import SplitError
from potluck.planner.strategy_single import single

MIB = 2**20


def problem_of(fleet, spec, goal):
    places = Places(fleet, Request(spec, goal))
    return Problem.over(fleet, Request(spec, goal), [places.node(node) for node in fleet.nodes])


def grouped(problem, rng):
    """What the best plans with any group cost: any members, lead and weights, with the other nodes beside it."""
    places, names = Places(problem.fleet, problem.request), [place.name for place in problem.places]
    for count in range(2, len(names) + 1):
        for members in combinations(names, count):
            nodes = [problem.fleet.node(name) for name in rng.sample(members, count)]
            weights = [Fraction(rng.choice([1, 1, 2, 5])) for _ in nodes]
            try:
                group = places.group(nodes, weights)
            except SplitError:
                continue
            others = [dataclasses.replace(one, disk=0.0) for one in problem.places if one.name not in members]
            over = Problem.over(problem.fleet, problem.request, [group, *others])
            yield from (search.best.seconds for search in (single(over, inf), best_ring(over, 1, inf)) if search.best)


def teamed(problem, rng):
    """What the best plans cost that have two groups, of any members and weights."""
    places, names = Places(problem.fleet, problem.request), [place.name for place in problem.places]
    for count in range(2, len(names) - 1):
        for members in combinations(names, count):
            others = [name for name in names if name not in members]
            nodes = [[problem.fleet.node(name) for name in some] for some in (members, others)]
            weights = [[Fraction(rng.choice([1, 2, 5])) for _ in some] for some in nodes]
            try:
                team = list(map(places.group, nodes, weights))
            except SplitError:
                continue
            over = Problem.over(problem.fleet, problem.request, team)
            yield from (search.best.seconds for search in (single(over, inf), best_ring(over, 1, inf)) if search.best)


@pytest.mark.parametrize("aim", ["latency", "throughput", "balanced"])
def test_no_two_groups_are_quicker(homes, brute_force, aim):
    seen, rng = 0, random.Random(0)
    for seed in range(80):
        fleet, spec, goal = brute_force.instance(homes, seed)
        fast = dataclasses.replace(fleet, links={}, default_link=Link(rng.choice([1e-6, 1e-5, 3e-4]), 1e9))
        problem = problem_of(fast, spec, dataclasses.replace(goal, aim=aim))
        costs = list(teamed(problem, rng))
        seen += len(costs)
        assert least_seconds_of_groups(problem) <= min(costs, default=inf) * (1 + 1e-6), f"instance {seed}"
    assert seen > 20


def test_what_groups_can_hold_raises_the_bound(homes, smollm2):
    """Two nodes that are ten times as quick hold a fourth of the model: the bound counts on the others for the rest."""

    def bound(memory):
        quick = [homes.node(name, 30, NODE_OVERHEAD + memory * MIB, bandwidth=1e10) for name in "ab"]
        slow = [homes.node(name, 3, NODE_OVERHEAD + 600 * MIB, bandwidth=1e9) for name in "cd"]
        return least_seconds_of_groups(
            problem_of(homes.fleet(*quick, *slow, latency=1e-5, bandwidth=1.25e9), smollm2, Goal(kv_tokens=64))
        )

    assert bound(60) > 2 * bound(600)


@pytest.mark.parametrize("aim", ["latency", "throughput", "balanced"])
def test_no_group_is_quicker(homes, brute_force, aim):
    seen = 0
    for seed in range(30):
        fleet, spec, goal = brute_force.instance(homes, seed)
        problem = problem_of(fleet, spec, dataclasses.replace(goal, aim=aim))
        costs = list(grouped(problem, random.Random(seed)))
        seen += len(costs)
        assert least_seconds_of_groups(problem) <= min(costs, default=inf) * (1 + 1e-6), f"instance {seed}"
    assert seen > 50


@pytest.mark.parametrize(("count", "latency"), [(2, 5e-5), (4, 5e-5), (4, 3e-4), (6, 1e-4)])
def test_it_is_close_where_nodes_are_alike(homes, smollm2, count, latency):
    nodes = [homes.node(name, 3, NODE_OVERHEAD + 600 * MIB, bandwidth=1e9) for name in "abcdef"[:count]]
    fleet = homes.fleet(*nodes, latency=latency, bandwidth=1.25e9)
    plan = solve(fleet, smollm2, Goal())
    assert plan.proof.strategy == "group" and plan.proof.gap < 0.25
    assert least_seconds_of_groups(problem_of(fleet, smollm2, Goal())) <= plan.proof.seconds
