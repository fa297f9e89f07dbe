"""Small homes and models drawn at random, and every plan for them by arithmetic of its own."""

import random
from itertools import combinations, pairwise, permutations, product
from math import inf

from potluck.models.costs import Pass, seconds
from potluck.models.sizes import kv_bytes_per_token, layer_parts, weight_bytes
from potluck.planner.fleet import Device, Fleet, Link, Node
from potluck.planner.goal import Goal
from potluck.planner.memory import NODE_OVERHEAD
from potluck.planner.offers import ENDS
from potluck.planner.plan import Plan, Route, Share, Stage
from potluck.planner.predict import predict
from potluck.planner.ring import joined, ring_windows
from potluck.planner.streaming import cut_route

MIB = 2**20
SEQUENTIAL = ("single node", "pipeline", "ring")


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
        past = busy + self.steady + self.fleet.link(self.fleet.engine, start).latency
        past += self.fleet.link(head, self.fleet.engine).latency
        # What is drawn is where it is needed; two steps are under way.
        ahead = {*counts, *ends} == {start} and not kept
        busy = max(busy + self.goal.software.again, past / 2) if ahead else past
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
    layers = rng.randint(3, 6)
    spec = homes.model(
        layers, vocab=8192, hidden=1024, ffn=2816, heads=8, kv_heads=4, head_dim=128, tied_head=rng.random() < 0.5
    )
    names = "abcd"[: rng.choice([2, 2, 2, 3, 3, 3, 4])]
    tight = rng.choice([0.0, 0.3, 0.6, 0.9, 1.2, 2.0])
    disks = rng.choice([(0.0,), (0.0, 1e8, 2e9, 7e9, 7e9), (2e9, 7e9), (7e9, 2e10)])
    nodes = [node(rng, name, 48 * MIB * (2 + tight * layers / len(names)), disks) for name in names]
    links = {
        pair: Link(rng.choice([1e-5, 3e-4, 3e-3, rng.uniform(0, 1e-2)]), rng.choice([1e6, 1e7, 1e9]))
        for pair in permutations(names, 2)
        if rng.random() < 0.7
    }
    fleet = Fleet(tuple(nodes), rng.choice(names), Link(1e-3, 1e8), links, "home")
    return fleet, spec, Goal(kv_tokens=rng.choice([16, 256, 2048]))


def node(rng, name, memory, disks=(0.0, 1e8, 2e9, 7e9, 7e9)):
    """A machine of any kind."""
    bandwidth = rng.choice([1e9, 5e9, 2e10, 1e11]) * rng.uniform(0.7, 1.3)
    kind = rng.choice(["cpu", "cpu", "cuda", "metal"])
    device = Device(kind, bandwidth * 3, bandwidth, int(NODE_OVERHEAD + memory * rng.uniform(0.4, 1.2)))
    return Node(name, (device,), rng.choice(disks))


def sequential(plan):
    """What the best plan without groups costs."""
    known = {one.strategy: one.seconds for one in plan.alternatives} | {plan.proof.strategy: plan.proof.seconds}
    return min((seconds for strategy, seconds in known.items() if strategy in SEQUENTIAL), default=inf)
