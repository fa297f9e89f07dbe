"""The rows of PRIMA.CPP's table 4 (arXiv 2504.08791 v2) as plans, run through the predictions.

By what the paper says of them:

- prima: GPUs are filled, the rest goes where the paper's own sum objective is least (appendix A.3). Its head is D3: 15
  ms for 8B, llama.cpp's time on D3 alone, leave no hop. What it has stays in memory (`prima_testbed`), so that more
  rounds than one would only add hops.
- no prefetch: the same, but what was taken back in the meantime is read when it is needed.
- no Halda: layers in the ratio of memory, cards' and machines' alike, one round, the first device is the head. A node
  whose layers do not fit reads all of them for every token, and twice: what is prefetched drives out what comes next
  (appendix A.1). Its head is not prefetched: it is read once.
- llama.cpp: D3 alone, without prefetching; what does not fit beside the GPU is read anew for every token (the least
  recently used page goes).
- exo: the ratio of memory on D1 to D3, in RAM and of 16 bits: the paper's memory pressure on D2 and D3, 51 and 42 %, is
  4.1 and 6.8 GiB, nine tenths of what their layers take in 16 bits, and more than the whole model takes in 4.
- dllama: all matrices split in equal parts among the four CPUs, sums by a star.

A card that has all layers has the output layer too, as in llama.cpp, and nothing is left in RAM.

Where the paper is silent (what buffers take, which device is the head, how a machine's share is divided between RAM and
card) one rule holds for all rows and sizes, found by looking at the table as a whole. No constant is a row's own.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

# Made known by conftest.py, as tests/ is no package.
from planner_tests_prima_testbed import GOAL, TABLE, TAKEN_BACK, TESTBED, head_bytes, layer_bytes, machines, model

from potluck.models.spec import ModelSpec
from potluck.planner.all_reduce import Algorithm, AllReduce
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.plan import Plan, Route, Share, Stage
from potluck.planner.predict import predict
from potluck.planner.ring import ring_route, ring_windows
from potluck.planner.splitting import split_shares


def seconds(spec: ModelSpec, route: Route, fleet: Fleet, dtype: str = GOAL.dtype) -> float:
    """What is predicted per token, all that is held being in memory."""
    plan = Plan(spec.name, dtype, (route,), GOAL.kv_tokens)
    return predict(plan, fleet, spec, replace(GOAL, dtype=dtype)).time_per_token


def in_turns(counts: dict[str, int], fleet: Fleet) -> Route:
    """Every device once, in order; the engine's has the head, or its card if that has all layers."""
    layers = {NodeName(node): count for node, count in counts.items() if count}
    head = next(iter(layers)) if len(layers) == 1 else fleet.engine
    return ring_route(ring_windows(list(layers), layers, 1), head, head)


def in_memory(spec: ModelSpec, counts: dict[str, int], head: str) -> dict[str, tuple[int, int]]:
    """Bytes of layers and of the output layer in the machines' memory, cards aside."""
    on_card = sum(map(bool, counts.values())) == 1 and not counts.get(head)
    return {
        node: (counts.get(node, 0) * layer_bytes(spec), head_bytes(spec) * (node == head and not on_card))
        for node in TESTBED
    }


def thrashing(spec: ModelSpec, counts: dict[str, int], head: str, times: int = 1) -> float:
    """Seconds that disks take where not everything fits: the least recently used page goes, which is needed next.

    `times`: that a layer is read.
    """
    held = in_memory(spec, counts, head)
    over = [node for node, nbytes in held.items() if sum(nbytes) > TESTBED[node].held]
    return sum(TESTBED[node].reading(times * held[node][0] + held[node][1]) for node in over)


def on_demand(spec: ModelSpec, counts: dict[str, int], head: str) -> float:
    """Seconds for what was taken back since the last token where nobody reads ahead."""
    held = in_memory(spec, counts, head)
    there = {node: sum(nbytes) for node, nbytes in held.items() if sum(nbytes) <= TESTBED[node].held}
    return TAKEN_BACK * sum(TESTBED[node].reading(nbytes) for node, nbytes in there.items())


def on_cards(spec: ModelSpec, fleet: Fleet) -> dict[str, int]:
    """Layers that each card holds."""
    rooms = {str(node.name): node.device.memory for node in fleet.nodes if node.name.endswith("gpu")}
    return {name: room // layer_bytes(spec) for name, room in rooms.items()}


def llama_cpp(spec: ModelSpec) -> float:
    fleet, layers = machines("d3"), len(spec.layers)
    card = min(on_cards(spec, fleet)["d3.gpu"], layers)
    counts = {"d3": layers - card, "d3.gpu": card}
    waits = thrashing(spec, counts, "d3") + on_demand(spec, counts, "d3")
    return seconds(spec, in_turns(counts, fleet), fleet) + waits


def halda(spec: ModelSpec, fleet: Fleet) -> dict[str, int]:
    """Layers: cards first, the largest first; the rest by the sum of everybody's seconds, by what is available."""
    layers, cards, size = len(spec.layers), on_cards(spec, fleet), layer_bytes(spec)
    first = min(layers, cards["d3.gpu"])
    second = min(layers - first, cards["d2.gpu"])
    rest = layers - first - second

    def cost(node: str, count: int) -> float:
        device, head = fleet.node(NodeName(node)).device, head_bytes(spec) * (node == "d3")
        overflow = max(0, count - max(0, device.memory - head) // size)
        return count * size / device.memory_bandwidth + TESTBED[node].reading(overflow * size) + 5e-3 * (count > 0)

    costs = {node: [cost(node, count) for count in range(rest + 1)] for node in TESTBED}
    splits = (
        (one, two, rest - one - two - four, four)
        for one in range(rest + 1)
        for two in range(rest - one + 1)
        for four in range(rest - one - two + 1)
    )
    best = min(splits, key=lambda split: sum(costs[node][count] for node, count in zip(TESTBED, split, strict=True)))
    held = dict(zip(TESTBED, best, strict=True))
    return {"d3": held["d3"], "d3.gpu": first, "d2.gpu": second, "d2": held["d2"], "d4": held["d4"], "d1": held["d1"]}


def prima(spec: ModelSpec) -> float:
    fleet = machines("d3")
    counts = halda(spec, fleet)
    return seconds(spec, in_turns(counts, fleet), fleet) + thrashing(spec, counts, "d3")


def no_prefetch(spec: ModelSpec) -> float:
    return prima(spec) + on_demand(spec, halda(spec, machines("d3")), "d3")


def by_memory(layers: int, memory: dict[str, float]) -> dict[str, int]:
    total, ends, sum_ = sum(memory.values()), [0], 0.0
    for one in memory.values():
        sum_ += one
        ends.append(round(layers * sum_ / total))
    return dict(zip(memory, (end - start for start, end in pairwise(ends)), strict=True))


def no_halda(spec: ModelSpec) -> float:
    fleet, pools = machines("d1"), {}
    for name, machine in TESTBED.items():
        pools |= {name: machine.available} | ({f"{name}.gpu": machine.vram} if machine.vram else {})
    counts = by_memory(len(spec.layers), pools)
    return seconds(spec, in_turns(counts, fleet), fleet) + thrashing(spec, counts, "d1", times=2)


def exo(spec: ModelSpec) -> float:
    ratio = {name: TESTBED[name].available + TESTBED[name].vram for name in ("d1", "d2", "d3")}
    fleet, plain = machines("d1"), replace(spec, encodings={})
    return seconds(plain, in_turns(by_memory(len(spec.layers), ratio), fleet), fleet, "bfloat16")


def dllama(spec: ModelSpec) -> float:
    parts = tuple(spec.parts())
    shares = split_shares(spec, parts, [Share(NodeName(name)) for name in TESTBED], [1, 1, 1, 1])
    stage = Stage(parts, shares, all_reduce=AllReduce(Algorithm.STAR))
    return seconds(spec, Route((stage,)), machines("d1"))


ROWS = {
    "llama.cpp": llama_cpp, "exo": exo, "dllama": dllama,
    "no Halda": no_halda, "no prefetch": no_prefetch, "prima": prima,
}  # fmt: skip


def predicted() -> dict[str, dict[str, float]]:
    """ms per token, by size and row."""
    return {size: {row: 1e3 * ROWS[row](model(size)) for row in rows} for size, rows in TABLE.items()}
