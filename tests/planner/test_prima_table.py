"""PRIMA.CPP's table 4 (arXiv 2504.08791 v2): its testbed and the plans of its rows, run through the predictions.

The testbed is its table 3: memory that is available, and disks, as published; memory bandwidths are the makers' for the
processors and cards named, of which GPUs are taken to reach 0.6 and CPUs 0.7, whatever the row. Weights lie as in Q4_K.
A machine with a GPU is two nodes, since a share has one device.

Rows, by what the paper says of them:

- prima: GPUs are filled, the rest goes where the paper's own sum objective is least (appendix A.3); what overloads D3
  may as well overload D2, whose disk is nearly as fast, and that and the number of rounds are as is best. Its head is
  D3: 15 ms for 8B, llama.cpp's time on D3 alone, leave no hop.
- no prefetch: the same, but a layer that is not there is read when it is needed.
- no Halda: layers in the ratio of memory, cards' and machines' alike, one round, the first device is the head. A node
  whose layers do not fit reads all of them for every token, and twice: what is prefetched drives out what comes next
  (appendix A.1).
- llama.cpp: D3 alone; what does not fit beside the GPU is read anew for every token (least recently used pages go).
- exo: the ratio of memory on D1 to D3, in RAM: the paper's memory pressure of 20 to 51 % says where the weights were.
- dllama: all matrices split in equal parts among the four CPUs, sums by a star.

14B, 45B and 60B are community models; their depth is what makes their size of the shape of 8B or 70B.

Where the paper is silent (what buffers take, which device is the head, how a machine's share is divided between RAM and
card) one rule holds for all rows and sizes, found by looking at the table as a whole. No constant is a row's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from potluck.models.roles import TensorKey, keys_of
from potluck.models.sizes import layer_parts, weight_bytes
from potluck.models.spec import LayerSpec, ModelSpec, Part, PartKind, Rope
from potluck.planner.all_reduce import Algorithm, AllReduce
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.goal import Goal
from potluck.planner.plan import Plan, Residency, Route, Share, Stage
from potluck.planner.predict import predict
from potluck.planner.ring import ring_route, ring_windows
from potluck.planner.splitting import split_shares

GIB = 2**30
GOAL = Goal(dtype="quantized", kv_tokens=512, context=128)
# Compute buffers and CUDA's own; 16 and 23 layers of 70B then fit the cards, as in the paper's figure 8.
RESERVE = 0.3 * GIB
# Layers of an overloaded node that are in use or on their way.
WINDOW = 2
GPU_REACHES, CPU_REACHES = 0.6, 0.7


@dataclass(frozen=True)
class Machine:
    """A device of table 3. Memory in GiB, bandwidths in GB/s."""

    ram: float
    disk: float
    bandwidth: float
    gflops: float
    vram: float = 0.0
    card: float = 0.0


TESTBED = {
    "d1": Machine(2.4, 0.72, 68.3, 200),  # M1, LPDDR4X
    "d2": Machine(4.1, 2.98, 51.2, 300, 8, 448),  # i9 laptop, DDR4; RTX 3070
    "d3": Machine(9.7, 3.17, 51.2, 400, 11, 616),  # i9 desktop, DDR4; RTX 2080 Ti
    "d4": Machine(1.9, 1.37, 44.0, 80),  # Kirin 9000, LPDDR5
}
# Table 4, ms per token.
TABLE = {
    "8B": {"llama.cpp": 15, "exo": 263, "dllama": 459, "no Halda": 78, "no prefetch": 15, "prima": 15},
    "14B": {"llama.cpp": 20, "no Halda": 131, "no prefetch": 20, "prima": 20},
    "30B": {"llama.cpp": 202, "no Halda": 258, "no prefetch": 79, "prima": 72},
    "45B": {"llama.cpp": 328, "no Halda": 409, "no prefetch": 263, "prima": 233},
    "60B": {"llama.cpp": 7965, "no Halda": 7053, "no prefetch": 532, "prima": 468},
    "65B": {"llama.cpp": 8807, "no Halda": 12253, "no prefetch": 688, "prima": 569},
    "70B": {"llama.cpp": 10120, "no Halda": 20848, "no prefetch": 755, "prima": 674},
}
SMALL = {"hidden": 4096, "ffn": 14336, "heads": 32, "kv_heads": 8, "vocab": 128256}
LARGE = {"hidden": 8192, "ffn": 28672, "heads": 64, "kv_heads": 8, "vocab": 128256}
SHAPES = {
    "8B": (32, SMALL),
    "14B": (59, SMALL),
    "30B": (60, {"hidden": 6656, "ffn": 17920, "heads": 52, "kv_heads": 52, "vocab": 32000}),
    "45B": (50, LARGE),
    "60B": (68, LARGE),
    "65B": (80, {"hidden": 8192, "ffn": 22016, "heads": 64, "kv_heads": 64, "vocab": 32000}),
    "70B": (80, LARGE),
}


def model(size: str) -> ModelSpec:
    layers, shape = SHAPES[size]
    rest = {"head_dim": 128, "context": 4096, "norm_eps": 1e-5, "attention_scale": 128**-0.5}
    spec = ModelSpec(size, "llama", (LayerSpec(Rope(1e4)),) * layers, **shape, **rest)
    keys: set[TensorKey] = {key for part in spec.parts() for key in keys_of(spec, part)}
    return replace(spec, encodings={str(key): "Q4_K" for key in keys if "norm" not in key.role})


def machines(engine: str) -> Fleet:
    nodes, near = [], {}
    for name, machine in TESTBED.items():
        cpu = Device(
            "cpu", machine.gflops * 1e9, CPU_REACHES * machine.bandwidth * 1e9, int(machine.ram * GIB - RESERVE)
        )
        nodes.append(Node(NodeName(name), (cpu,), machine.disk * 1e9))
        if machine.card:
            memory = int(machine.vram * GIB - RESERVE)
            # Of kind cpu: the weights of llama.cpp lie the same on both.
            gpu = Device("cpu", 10e12, GPU_REACHES * machine.card * 1e9, memory)
            nodes.append(Node(NodeName(f"{name}.gpu"), (gpu,)))
            pair = NodeName(name), NodeName(f"{name}.gpu")
            near |= {pair: Link(20e-6, 12e9), pair[::-1]: Link(20e-6, 12e9)}
    # Wi-Fi of 320 to 610 Mbit/s, 3 to 7 ms.
    return Fleet(tuple(nodes), NodeName(engine), Link(5e-3, 465e6 / 8), near)


def layer_bytes(spec: ModelSpec) -> int:
    return weight_bytes(spec, layer_parts([0]), "quantized")


def on_cards(spec: ModelSpec, fleet: Fleet) -> dict[str, int]:
    return {node.name: node.device.memory // layer_bytes(spec) for node in fleet.nodes if node.name.endswith("gpu")}


def plan_of(spec: ModelSpec, route: Route) -> Plan:
    return Plan(spec.name, "quantized", (route,), GOAL.kv_tokens)


def streaming(stage: Stage) -> Stage:
    return replace(stage, shares=(Share(stage.shares[0].node, residency=Residency.STREAMED, window=WINDOW),))


def seconds(spec: ModelSpec, route: Route, fleet: Fleet) -> float:
    return predict(plan_of(spec, route), fleet, spec, GOAL).time_per_token


# The rows -------------------------------------------------------------------------------------------------------------


def room(spec: ModelSpec, fleet: Fleet, node: str, head: str) -> int:
    """Layers that a CPU's memory holds; the head lies in the memory of its node."""
    ends = weight_bytes(spec, [Part(PartKind.HEAD)], "quantized") if node == head else 0
    return max(0, (fleet.node(NodeName(node)).device.memory - ends) // layer_bytes(spec))


def faulting(spec: ModelSpec, fleet: Fleet, counts: dict[str, int], read: dict[str, int]) -> float:
    """Seconds per token where layers are read when they are needed, `read` of them on each node."""
    disks = (count * layer_bytes(spec) / fleet.node(NodeName(node)).disk_bandwidth for node, count in read.items())
    return seconds(spec, in_turns(counts, str(fleet.engine)), fleet) + sum(disks)


def thrashing(spec: ModelSpec, fleet: Fleet, counts: dict[str, int]) -> dict[str, int]:
    """All layers of the nodes whose layers do not fit: the least recently used one goes, which is needed next."""
    held = {node: counts[node] for node in TESTBED if node in counts}
    return {node: count for node, count in held.items() if count > room(spec, fleet, node, str(fleet.engine))}


def in_turns(counts: dict[str, int], head: str, rounds: int = 1) -> Route:
    order = [NodeName(node) for node in counts]
    windows = ring_windows(order, {NodeName(node): count for node, count in counts.items()}, rounds)
    return ring_route(windows, NodeName(head), NodeName(head))


def llama_cpp(spec: ModelSpec) -> float:
    fleet = machines("d3")
    card = min(on_cards(spec, fleet)["d3.gpu"], len(spec.layers))
    counts = {"d3": len(spec.layers) - card, "d3.gpu": card}
    return faulting(spec, fleet, counts, thrashing(spec, fleet, counts))


def halda(spec: ModelSpec, fleet: Fleet) -> dict[str, int]:
    """Layers: cards first, the largest first; the rest by the sum of everybody's seconds."""
    layers, cards = len(spec.layers), on_cards(spec, fleet)
    first = min(layers, cards["d3.gpu"])
    second = min(layers - first, cards["d2.gpu"])
    rest, size = layers - first - second, layer_bytes(spec)

    def cost(node: str, count: int) -> float:
        device, disk = fleet.node(NodeName(node)).device, fleet.node(NodeName(node)).disk_bandwidth
        overflow = max(0, count - room(spec, fleet, node, "d3"))
        return count * size / device.memory_bandwidth + overflow * size / disk + 5e-3 * (count > 0)

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


def prima_route(spec: ModelSpec, counts: dict[str, int], rounds: int) -> Route:
    """Overloaded nodes keep what they have room for beside the window; what they stream is spread over the rounds."""
    fleet = machines("d3")
    over = {node: counts[node] - room(spec, fleet, node, "d3") for node in TESTBED if node in counts}
    left = {node: min(counts[node], count + WINDOW) for node, count in over.items() if count > 0}
    turns = dict.fromkeys(left, rounds)
    stages: list[Stage] = []
    for stage in in_turns(counts, "d3", rounds).stages:
        node = str(stage.node)
        away = min(len(stage.layers), -(-left[node] // turns[node])) if stage.layers and left.get(node) else 0
        if not away:
            stages.append(stage)
            continue
        left[node], turns[node] = left[node] - away, max(1, turns[node] - 1)
        kept, gone = _cut(stage, stage.layers[-away])
        stages += [one for one in (kept, streaming(gone)) if one.parts]
    return Route(tuple(stages))


def _cut(stage: Stage, first: int) -> tuple[Stage, Stage]:
    before = tuple(part for part in stage.parts if part.kind is PartKind.EMBEDDING or (part.layer or 0) < first)
    before = tuple(part for part in before if part.kind is not PartKind.HEAD)
    return replace(stage, parts=before), replace(stage, parts=tuple(part for part in stage.parts if part not in before))


def prima_counts(spec: ModelSpec) -> list[dict[str, int]]:
    counts = halda(spec, machines("d3"))
    plans = [{**counts, "d3": counts["d3"] - moved, "d2": counts["d2"] + moved} for moved in range(5)]
    return [{node: count for node, count in plan.items() if count} for plan in plans if plan["d3"] >= 0]


def prima(spec: ModelSpec) -> float:
    routes = (prima_route(spec, counts, rounds) for counts in prima_counts(spec) for rounds in (1, 2, 3, 4, 6))
    return min(seconds(spec, route, machines("d3")) for route in routes)


def no_prefetch(spec: ModelSpec) -> float:
    fleet, found = machines("d3"), []
    for counts in prima_counts(spec):
        over = {node: counts[node] - room(spec, fleet, node, "d3") for node in TESTBED if node in counts}
        found.append(faulting(spec, fleet, counts, {node: count for node, count in over.items() if count > 0}))
    return min(found)


def by_memory(layers: int, memory: dict[str, float]) -> dict[str, int]:
    total, ends, sum_ = sum(memory.values()), [0], 0.0
    for one in memory.values():
        sum_ += one
        ends.append(round(layers * sum_ / total))
    return dict(zip(memory, (end - start for start, end in pairwise(ends)), strict=True))


def no_halda(spec: ModelSpec) -> float:
    fleet = machines("d1")
    pools = {}
    for name, machine in TESTBED.items():
        pools |= {name: machine.ram} | ({f"{name}.gpu": machine.vram} if machine.vram else {})
    counts = {node: count for node, count in by_memory(len(spec.layers), pools).items() if count}
    return faulting(spec, fleet, counts, {node: 2 * n for node, n in thrashing(spec, fleet, counts).items()})


def exo(spec: ModelSpec) -> float:
    ratio = {name: TESTBED[name].ram + TESTBED[name].vram for name in ("d1", "d2", "d3")}
    return seconds(spec, in_turns(by_memory(len(spec.layers), ratio), "d1"), machines("d1"))


def dllama(spec: ModelSpec) -> float:
    parts = tuple(spec.parts())
    shares = split_shares(spec, parts, [Share(NodeName(name)) for name in TESTBED], [1, 1, 1, 1])
    stage = Stage(parts, shares, all_reduce=AllReduce(Algorithm.STAR))
    return seconds(spec, Route((stage,)), machines("d1"))


ROWS = {
    "llama.cpp": llama_cpp, "exo": exo, "dllama": dllama,
    "no Halda": no_halda, "no prefetch": no_prefetch, "prima": prima,
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    """ms per token, by size and row."""
    return {size: {row: 1e3 * ROWS[row](model(size)) for row in rows} for size, rows in TABLE.items()}


NOT_REPRODUCED = pytest.mark.xfail(
    reason="llama.cpp at 45B: 12.6 GiB beside the card are to come from 9.7 GiB that are available, and would be read "
    "anew for 4.6 s; measured were 0.33 s, so the machine had more memory than its table says",
)
MORE_MEMORY = pytest.mark.xfail(
    reason="without prefetching at 70B: seven layers more than the published memory holds, read when they are needed, "
    "cost 1.1 s; measured were 0.08 s more than with prefetching: as with llama.cpp at 45B, more memory was there",
)
SAME = pytest.mark.xfail(
    reason="all layers fit the memory of the published testbed, so that there is nothing to prefetch; measured were "
    "9 to 12 %, which no published figure (pages that a busy system takes back?) explains",
)


@pytest.mark.parametrize("size", [pytest.param(size, marks=[NOT_REPRODUCED] * (size == "45B")) for size in TABLE])
def test_the_rows_rank_as_measured(found, size):
    published, mine = TABLE[size], found[size]
    pairs = [(one, two) for one in published for two in published if {one, two} != {"prima", "no prefetch"}]
    for one, two in pairs:
        if published[one] < published[two]:
            assert mine[one] < mine[two], (one, two)
        elif published[one] == published[two]:
            assert mine[one] == pytest.approx(mine[two], rel=0.01), (one, two)


def test_all_other_rows_of_45b_rank_as_measured(found):
    assert found["45B"]["prima"] <= found["45B"]["no prefetch"] < found["45B"]["no Halda"]


@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=[SAME] * (size in ("30B", "45B", "60B"))) for size in list(TABLE)[2:]]
)
def test_prefetching_helps_where_it_did(found, size):
    assert found[size]["prima"] < found[size]["no prefetch"]


def assert_within_two(found, size, *rows):
    for row in rows:
        assert 0.5 < found[size][row] / TABLE[size][row] < 2, row


@pytest.mark.parametrize("size", TABLE)
def test_primas_times_are_within_a_factor_of_two(found, size):
    assert_within_two(found, size, "prima", "no Halda")


@pytest.mark.parametrize("size", [pytest.param(size, marks=[MORE_MEMORY] * (size == "70B")) for size in TABLE])
def test_times_without_prefetching_are_within_a_factor_of_two(found, size):
    assert_within_two(found, size, "no prefetch")


@pytest.mark.parametrize("size", [pytest.param(size, marks=[NOT_REPRODUCED] * (size == "45B")) for size in TABLE])
def test_the_other_systems_times_are_within_a_factor_of_two(found, size):
    assert_within_two(found, size, *({"llama.cpp", "exo", "dllama"} & TABLE[size].keys()))
