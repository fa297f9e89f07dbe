"""Many places divided by their order of speed, without a programme: against every cut, and against the programme."""

import random
from dataclasses import replace
from itertools import combinations, pairwise

import pytest

from potluck.planner.executable import executable_stages
from potluck.planner.goal import Goal
from potluck.planner.memory import NODE_OVERHEAD
from potluck.planner.offers import Request
from potluck.planner.places import Places
from potluck.planner.problem import Problem
from potluck.planner.solve import solve
from potluck.planner.strategy_ring import pipeline
from potluck.planner.stretches import poured, stretches
from potluck.planner.validate import validate

MIB = 2**20


def problem_of(homes, spec, seed, count):
    """Nodes of one speed or another that hold some layers of SmolLM2, and most of them an end."""
    rng, goal = random.Random(seed), Goal(kv_tokens=256, aim="throughput")
    memory = [NODE_OVERHEAD + int(rng.uniform(80, 200) * MIB) for _ in range(count)]
    speeds = [rng.choice([1e9, 4e9]) * rng.uniform(0.7, 1.3) for _ in range(count)]
    nodes = [homes.node(f"n{number}", 60, *of) for number, of in enumerate(zip(memory, speeds, strict=True))]
    fleet = homes.fleet(*nodes, latency=2e-4)
    request = Request(spec, goal)
    return Problem.over(fleet, request, [Places(fleet, request).node(node) for node in nodes])


def rate(problem, division):
    """Tokens per second of the pipelines poured over the sets of a division."""
    found = [poured(problem.narrowed(sorted(one))) for one in division]
    return sum(1 / one.seconds for one in found if one)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_cut_gives_much_more(homes, smollm2, seed):
    problem = problem_of(homes, smollm2, seed, 12)
    order = sorted(range(12), key=lambda number: problem.places[number].layer_seconds)
    known = {(first, end): rate(problem, [order[first:end]]) for first, end in combinations(range(13), 2)}
    best = 0.0
    for count in range(4):
        for cuts in combinations(range(1, 12), count):
            best = max(best, sum(known[ends] for ends in pairwise((0, *cuts, 12))))
    assert rate(problem, stretches(problem, range(12))) >= 0.9 * best


@pytest.mark.parametrize("seed", range(6))
def test_what_is_poured_is_close_to_what_the_programme_finds(homes, smollm2, seed):
    problem = problem_of(homes, smollm2, seed, 8)
    found, best = poured(problem), pipeline(problem, float("inf")).best
    plan = found.plan
    validate(plan, problem.fleet, smollm2)
    assert sorted(layer for stage in plan.routes[0].stages for layer in stage.layers) == list(range(30))
    assert best.seconds * (1 - 1e-6) <= found.seconds <= best.seconds * 1.35


def test_nothing_is_poured_where_a_share_or_a_pinned_node_would_be_passed_over(homes, smollm2):
    problem = problem_of(homes, smollm2, 0, 8)
    shared = tuple(replace(place, share=0.5) for place in problem.places)
    assert poured(replace(problem, places=shared)) is None
    slow = homes.node("slow", 0.001, 2**30)
    goal = Goal(kv_tokens=256, aim="throughput", pinned=frozenset({"slow"}))
    fleet = replace(problem.fleet, nodes=(*problem.fleet.nodes, slow))
    request = Request(smollm2, goal)
    assert poured(Problem.over(fleet, request, [Places(fleet, request).node(node) for node in fleet.nodes])) is None


def test_a_hundred_nodes_are_kept_busy(homes, smollm2):
    problem = problem_of(homes, smollm2, 1, 100)
    plan = solve(problem.fleet, smollm2, problem.request.goal)
    validate(plan, problem.fleet, smollm2)
    executable_stages(plan)
    assert plan.proof.strategy == "replicas" and len(plan.routes) > 10
    # The head is worth eight layers, and no bound knows that it lies somewhere.
    assert 0 < plan.proof.gap < 0.35
