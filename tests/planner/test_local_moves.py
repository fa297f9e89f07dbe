"""Fleets too large for brute force: no small change of the best plan of single nodes makes it better."""

import random
from dataclasses import replace
from itertools import combinations, permutations
from math import inf

import pytest

from potluck.planner.exact import STRATEGIES
from potluck.planner.fleet import Fleet, Link
from potluck.planner.goal import Goal
from potluck.planner.offers import Request
from potluck.planner.places import Places
from potluck.planner.problem import Problem
from potluck.planner.stream_moves import kept_by_window

MIB = 2**20


def problem_of(homes, brute_force, seed, aims):
    """5 to 8 nodes of any kind, some of which have a disk to stream from, and a model that fits more or less."""
    rng = random.Random(seed)
    count, layers = rng.randint(5, 8), rng.randint(12, 24)
    spec = homes.model(
        layers, vocab=8192, hidden=1024, ffn=2816, heads=8, kv_heads=4, head_dim=128, tied_head=rng.random() < 0.5
    )
    tight, disks = rng.choice([0.6, 0.9, 1.2, 2.0]), rng.choice([(0.0,), (0.0,), (2e9, 7e9)])
    memory = 48 * MIB * (2 + tight * layers / count)
    nodes = [brute_force.node(rng, f"n{index}", memory, disks) for index in range(count)]
    names = [node.name for node in nodes]
    links = {
        pair: Link(rng.choice([1e-5, 3e-4, 3e-3, rng.uniform(0, 1e-2)]), rng.choice([1e6, 1e7, 1e9]))
        for pair in permutations(names, 2)
        if rng.random() < 0.7
    }
    fleet = Fleet(tuple(nodes), rng.choice(names), Link(1e-3, 1e8), links, "home")
    request = Request(spec, Goal(kv_tokens=rng.choice([16, 256, 2048]), aim=rng.choice(aims)))
    places = Places(fleet, request)
    return Problem.over(fleet, request, [places.node(node) for node in nodes])


def best_of(problem):
    """The best plan of single nodes, if any."""
    best = None
    for name in ("pipeline", "single node", "ring"):
        found = STRATEGIES[name](problem, best.seconds if best else inf).best
        best = min((one for one in (best, found) if one), key=lambda one: one.seconds, default=None)
    return best


def moved(layout, nodes):
    """One or two layers, or all, to another node; two nodes in each other's place; an end elsewhere; other rounds."""
    counts, order = layout.counts, layout.order
    for giver in order:
        for taker in range(nodes):
            for some in {1, 2, counts[giver]} if taker != giver else ():
                new = {**counts, giver: counts[giver] - some, taker: counts.get(taker, 0) + some}
                ways = (
                    [order] if taker in order else [(*order[:at], taker, *order[at:]) for at in range(len(order) + 1)]
                )
                yield from ((new, way, {}) for way in ways if new[giver] >= 0)
    for one, two in combinations(order, 2):
        turned = {one: two, two: one}
        yield counts, tuple(turned.get(place, place) for place in order), {}
        yield {**counts, one: counts[two], two: counts[one]}, order, {}
    for place in range(nodes):
        yield counts, order, {"embedding": place}
        yield counts, order, {"head": place}
    for rounds in (layout.rounds - 1, layout.rounds + 1):
        yield counts, order, {"rounds": rounds}


def fits(problem, layout):
    if not 1 <= layout.rounds <= min(layout.counts.values()):
        return False
    held = [(problem.places[used], layout.ends(used), layout.counts.get(used, 0)) for used in layout.used]
    return all(place.room(ends) >= 0 and place.most(ends) >= count for place, ends, count in held)


def neighbours(problem, layout):
    for counts, order, other in moved(layout, len(problem.places)):
        some = {place: count for place, count in counts.items() if count}
        order = tuple(place for place in order if place in some)
        near = replace(layout, counts=some, order=order, kept={}, runs={}, **other)
        if fits(problem, near):
            yield replace(near, kept=kept_by_window(near, problem))


# Seeds 13, 47 and 22 once were improved: by 6 % with one node less, by 1.5 % with a layer moved, by 2.5 % turned round.
@pytest.mark.parametrize(
    ("aims", "seeds"),
    [(("latency",), (13, 47, 0, 1)), (("latency",), range(2, 8)), (("throughput", "balanced"), (22, 0, 1, 2, 3))],
)
def test_no_small_move_is_better(homes, brute_force, aims, seeds):
    tried = 0
    for seed in seeds:
        problem = problem_of(homes, brute_force, seed, aims)
        best = best_of(problem)
        for near in neighbours(best.problem, best.layout) if best else ():
            tried += 1
            assert best.problem.seconds(near) >= best.seconds * (1 - 0.01), (seed, near)
    assert tried > 100
