"""The exact solver: against brute force, and against what must hold of every optimum."""

import random
from itertools import combinations, pairwise, permutations, product
from math import inf

import pytest

from potluck.planner.costs import Pass, kv_bytes_per_token, layer_parts, seconds, weight_bytes
from potluck.planner.executable import executable_stages
from potluck.planner.fleet import Device, Fleet, Link, Node
from potluck.planner.goal import Goal
from potluck.planner.hops import STAGE_SECONDS
from potluck.planner.memory import NODE_OVERHEAD
from potluck.planner.objective import objective
from potluck.planner.offers import ENDS
from potluck.planner.solve import DoesNotFit, solve
from potluck.planner.validate import validate

MIB = 2**20
INSTANCES = 500
SEQUENTIAL = ("single node", "pipeline", "ring")


# Brute force ----------------------------------------------------------------------------------------------------------


class Brute:
    """Every plan of one place per stage, by arithmetic of its own.

    The family: the layers go to an ordered set of nodes in k rounds, every node at least k; embedding and head are on
    any nodes. Where k > 1, or one node has all layers, layers may be streamed through room for two windows.
    """

    def __init__(self, fleet, spec, goal):
        self.fleet, self.spec, self.goal = fleet, spec, goal
        self.row = spec.hidden * 4
        self.layers = len(spec.layers)
        work = Pass(1, 1, goal.context)
        parts = list(spec.parts())
        self.nodes = {node.name: node for node in fleet.nodes}

        def taken(node, some):
            return seconds(spec, some, work, (node.device, goal.dtype))

        self.layer = {name: taken(node, layer_parts([0])) for name, node in self.nodes.items()}
        self.embedding = {name: taken(node, parts[:1]) for name, node in self.nodes.items()}
        self.head = {name: taken(node, parts[-1:]) for name, node in self.nodes.items()}
        self.kv = goal.kv_tokens * kv_bytes_per_token(spec, goal.dtype)
        self.hop = {
            (a, b): 0.0 if a == b else fleet.link(a, b).latency + self.row / fleet.link(a, b).bandwidth + STAGE_SECONDS
            for a, b in product(self.nodes, repeat=2)
        }

    def best(self):
        """The least seconds; infinite where nothing fits."""
        best = inf
        for count in range(1, len(self.nodes) + 1):
            for ring in combinations(self.nodes, count):
                for rounds in range(1, 2 if count == 1 else self.layers // count + 1):
                    best = min(best, self.over(ring, rounds))
        return best

    def over(self, ring, rounds):
        hops = {}
        for order in permutations(ring):
            way = rounds * sum(self.hop[pair] for pair in pairwise(order))
            way += (rounds - 1) * self.hop[order[-1], order[0]]
            key = order[0], order[-1]
            hops[key] = min(hops.get(key, inf), way)
        return min(
            (
                self.total(dict(zip(ring, counts, strict=True)), rounds, ends, hops)
                for counts in splits(self.layers, len(ring), rounds)
                for ends in product(self.nodes, repeat=2)
            ),
            default=inf,
        )

    def total(self, counts, rounds, ends, hops):
        start, head = ends
        reading, busy = 0.0, self.embedding[start] + self.head[head]
        for name in {*counts, start, head}:
            away = self.away(name, counts.get(name, 0), rounds if len(counts) > 1 else 0, ends)
            if away is None:
                return inf
            if away:
                reading = max(reading, away / self.nodes[name].disk_bandwidth)
            busy += counts.get(name, 0) * self.layer[name]
        way = min(cost + self.hop[start, a] + self.hop[b, head] for (a, b), cost in hops.items())
        engine = self.fleet.link(self.fleet.engine, start).latency + self.fleet.link(head, self.fleet.engine).latency
        return max(busy + way + engine, reading)

    def away(self, name, count, rounds, ends):
        """Bytes that a node reads for a token; None where it does not fit. No rounds: one node has all layers."""
        node, spec, dtype = self.nodes[name], self.spec, self.goal.dtype
        kind = node.device.kind
        parts = [part for part, end in zip(ENDS, ends, strict=True) if end == name]
        weights = weight_bytes(spec, layer_parts([0]), dtype, kind)
        free = node.device.memory - NODE_OVERHEAD - weight_bytes(spec, parts, dtype, kind) - count * self.kv
        if free >= count * weights:
            return 0
        window = 1 if not rounds else -(-count // rounds)
        kept = free // weights - 2 * window
        streams = node.disk_bandwidth and rounds != 1 and kind != "metal"
        return (count - kept) * weights if count and streams and kept >= 0 else None


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
        best = Brute(fleet, spec, goal).best()
        try:
            plan = solve(fleet, spec, goal)
        except DoesNotFit as error:
            assert best == inf, f"instance {seed}: {error}"
            continue
        validate(plan, fleet, spec)
        executable_stages(plan)
        assert objective(plan, fleet, spec, goal) == pytest.approx(plan.proof.seconds)
        assert sequential(plan) == pytest.approx(best, rel=1e-5), f"instance {seed}"
