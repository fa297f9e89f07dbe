"""What a group of two gains over one node, and where a pipeline is better.

    python bench/tensor_parallel.py [--json] [--save] [--rounds N]

A llama of 1B random weights in Q4_0. Workers are real processes on loopback, one thread each, neither links nor compute
slowed; the two sides take turns in one run. The ideal time of a decoded token is what both members together need for
nothing but their halves of the products, both cores busy, plus two measured all-reduces per layer. The last table holds
the same two nodes, as a group and as a pipeline, over emulated links. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from all_reduce import echo
from all_reduce import measure as measure_sums
from hop import measure_hop
from kept import keep
from pipeline import Silent, machine, per_token, token_times
from synthetic import write_model

from potluck.coordinator.deployment import Deployment, Serving
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.fabric import LocalFabric, WorkerLaunch
from potluck.coordinator.metrics import Metrics
from potluck.deploy.prepare import model_files
from potluck.models.open import open_checkpoint, read_spec
from potluck.models.source import locate
from potluck.models.spec import ModelSpec
from potluck.planner.all_reduce import AllReduce
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.goal import Goal
from potluck.planner.plan import Plan, Route, Share, Stage
from potluck.planner.splitting import split_shares
from potluck.proto.shaper import Shape
from potluck.worker.cut import Cut
from potluck.worker.lone_shard import whole_model
from potluck.worker.packing import Packer
from potluck.worker.pieces import Unit, head_unit, pieces_of
from potluck.worker.weights import Assembly

DTYPE = "quantized"
_NAMES = NodeName("one"), NodeName("two")
_NODE = Device("cpu", 60e9, 20e9, 8 << 30)
_LATENCIES = 0.0001, 0.001, 0.005
_KV_TOKENS = 4096
_PROMPT = 512


def grouped(spec: ModelSpec, pieces: int | None = None) -> Plan:
    """Both nodes run everything, half each; sums of many rows travel in so many pieces."""
    parts = tuple(spec.parts())
    shares = split_shares(spec, parts, [Share(name) for name in _NAMES], [Fraction(1)] * 2)
    return _plan(spec, [Stage(parts, shares, all_reduce=AllReduce(pieces=pieces))])


def piped(spec: ModelSpec) -> Plan:
    """Half of the layers each, embedding and head with the first node."""
    parts = list(spec.parts())
    middle = 1 + 2 * (len(spec.layers) // 2)
    first, second, head = parts[:middle], parts[middle:-1], parts[-1:]
    ring = zip((first, second, head), (_NAMES[0], _NAMES[1], _NAMES[0]), strict=True)
    return _plan(spec, [Stage(tuple(some), (Share(name),)) for some, name in ring])


def alone(spec: ModelSpec) -> Plan:
    """One node runs everything."""
    return _plan(spec, [Stage(tuple(spec.parts()), (Share(_NAMES[0]),))])


def _plan(spec: ModelSpec, stages: Sequence[Stage]) -> Plan:
    return Plan(spec.name, DTYPE, (Route(tuple(stages)),), _KV_TOKENS)


def deploy(path: Path, plan: Plan, cache: Path, latency: float = 0.0) -> Deployment:
    """The plan over unslowed workers; links have this emulated latency one way, and 1 Gbit/s where they have one."""
    link = Link(latency or 1e-5, 125e6 if latency else 4e9)
    fleet = Fleet(tuple(Node(name, (_NODE,)) for name in plan.nodes), plan.nodes[0], link)
    emulate = json.dumps({"links": {"": [link.latency, link.bandwidth]}}) if latency else None
    launches = [
        WorkerLaunch(name, str(cache), emulate=emulate, log=str(cache / f"{name}.log"), device="cpu")
        for name in plan.nodes
    ]
    links = {_NAMES[1]: Shape(link.latency, link.bandwidth)} if latency else {}
    files, goal = model_files(locate(str(path), cache)), Goal(dtype=DTYPE, kv_tokens=_KV_TOKENS)
    engine = ServingEngine("synthetic", 2048, Metrics())
    serving = Serving(goal, 2048, fleet=fleet, plan=plan, links=links, max_rows=_PROMPT)
    deployment = Deployment(LocalFabric(launches), engine, files, serving)
    deployment.start(Silent())
    return deployment


def first_token(engine: ServingEngine) -> float:
    """Seconds from a prompt to its first token, computed in one step."""
    begun = time.perf_counter()
    ((at, *_),) = asyncio.run(token_times(engine, 1, 1, _PROMPT))
    return at - begun


class Halves:
    """Two processes that at once read their halves of the weights: all products of one token, and nothing else."""

    def __init__(self, path: Path) -> None:
        context = get_context("spawn")
        pipes = [context.Pipe() for _ in _NAMES]
        self._near = [near for near, _ in pipes]
        for place, (_, far) in enumerate(pipes):
            context.Process(target=_half, args=(path, place, far), daemon=True).start()
        self._answers()

    def seconds(self) -> float:
        """Of one token, the slower half's."""
        for near in self._near:
            near.send("go")
        return max(self._answers())

    def close(self) -> None:
        """End them."""
        for near in self._near:
            near.send("")

    def _answers(self) -> list[float]:
        return [near.recv() for near in self._near]


def _half(path: Path, place: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    spec = read_spec(path)
    shares = split_shares(spec, tuple(spec.parts()), [Share(name) for name in _NAMES], [Fraction(1)] * 2)
    share, group = shares[place], spec.heads // spec.kv_heads
    first, end = share.kv_heads or (0, spec.kv_heads)
    cut = Cut((first * group, end * group), share.ffn_columns or (0, spec.ffn), share.vocabulary or (0, spec.vocab))
    config = whole_model(_KV_TOKENS, DTYPE)
    packer, assembly = Packer(spec, open_checkpoint(path)), Assembly(spec, config.form, config.residence)
    products = []
    for number in range(len(spec.layers)):
        unit = Unit("layer", number, cut)
        layer = assembly.layer(unit, packer.place(pieces_of(spec, unit, config.form)))
        attended = (cut.heads[1] - cut.heads[0]) * spec.head_dim
        widths = spec.hidden, attended, spec.hidden, cut.columns[1] - cut.columns[0]
        products += list(zip((layer.qkv, layer.output, layer.gate_up, layer.down), widths, strict=True))
    unit, norm = head_unit(spec, cut), Unit("output_norm")
    placed = [packer.place(pieces_of(spec, one, config.form)) for one in (norm, unit)]
    products.append((assembly.head(placed[0], unit, placed[1]).output, spec.hidden))
    work = [(product, torch.randn(1, width)) for product, width in products]
    pipe.send(0.0)
    while pipe.recv():
        times = []
        for _ in range(64):
            begun = time.perf_counter()
            for product, x_TI in work:
                product(x_TI)
            times.append(time.perf_counter() - begun)
        pipe.send(statistics.median(times[8:-8]))


def measure(rounds: int, folder: Path) -> dict[str, float]:
    """Every figure but those over emulated links."""
    path = folder / "synthetic.gguf"
    write_model(path, locate("smollm2", folder).path)
    spec = read_spec(path)
    size = 4 * spec.hidden
    ((sum_us, _),) = measure_sums(2, [("direct", "float32", size)])
    sums, halves = 2 * len(spec.layers) * sum_us * 1e-6, Halves(path)
    one, two = deploy(path, alone(spec), folder), deploy(path, grouped(spec), folder)
    try:
        kinds = "alone", "group", "ideal", "prefill_alone", "prefill_group"
        figures: dict[str, list[float]] = {kind: [] for kind in kinds}
        for deployment in (one, two):
            per_token(deployment.engine, 16)
            first_token(deployment.engine)
        for _ in range(rounds):
            figures["alone"].append(per_token(one.engine, 64))
            figures["group"].append(per_token(two.engine, 64))
            # In turns, too: how fast memory is changes from minute to minute where others have part of it.
            figures["ideal"].append(halves.seconds() + sums)
            figures["prefill_alone"].append(first_token(one.engine))
            figures["prefill_group"].append(first_token(two.engine))
    finally:
        halves.close()
        one.stop()
        two.stop()
    median = {name: statistics.median(values) for name, values in figures.items()}
    return {
        "tcp_echo_8k_us_p50": round(echo(size), 1),
        "grpc_hop_8k_us_p50": round(measure_hop(pace=None, wire="grpc")["p50"], 1),
        "allreduce_8k_us_p50": round(sum_us, 1),
        "decode_alone_tokens_per_second": round(1 / median["alone"], 1),
        "decode_group_tokens_per_second": round(1 / median["group"], 1),
        "decode_speedup_2": round(statistics.median(map(_over, figures["alone"], figures["group"])), 2),
        "decode_ideal_ms": round(median["ideal"] * 1e3, 2),
        "decode_time_over_ideal": round(statistics.median(map(_over, figures["group"], figures["ideal"])), 3),
        "prefill_alone_tokens_per_second": round(_PROMPT / median["prefill_alone"], 1),
        "prefill_group_tokens_per_second": round(_PROMPT / median["prefill_group"], 1),
        "prefill_speedup_2": round(
            statistics.median(map(_over, figures["prefill_alone"], figures["prefill_group"])), 2
        ),
    }


def over_links(folder: Path) -> list[tuple[float, float, float]]:
    """Latency, and milliseconds per token of the group and of the pipeline."""
    path = folder / "synthetic.gguf"
    spec, rows = read_spec(path), []
    for latency in _LATENCIES:
        times = []
        for plan in (grouped(spec), piped(spec)):
            deployment = deploy(path, plan, folder, latency)
            try:
                per_token(deployment.engine, 4)
                times.append(1e3 * per_token(deployment.engine, 24))
            finally:
                deployment.stop()
        rows.append((latency, *times))
    return rows


def prefill_over_links(rounds: int, folder: Path) -> dict[str, float]:
    """Tokens per second of a prompt over 1 Gbit/s and 0.5 ms: sums whole, and in pieces under the products."""
    path = folder / "synthetic.gguf"
    spec = read_spec(path)
    both = [deploy(path, grouped(spec, pieces), folder, 0.0005) for pieces in (1, None)]
    try:
        times = [[first_token(one.engine) for one in both] for _ in range(rounds + 1)][1:]
    finally:
        for one in both:
            one.stop()
    whole, pieces = (_PROMPT / statistics.median(side) for side in zip(*times, strict=True))
    return {
        "prefill_1gbit_tokens_per_second": round(whole, 1),
        "prefill_1gbit_pieces_tokens_per_second": round(pieces, 1),
    }


def _over(over: float, under: float) -> float:
    return over / under


_GOALS = {
    "allreduce_8k_us_p50": "<= 80",
    "decode_time_over_ideal": "<= 1.1",
    "prefill_speedup_2": ">= 1.7",
    "decode_group_tokens_per_second": ">= 58 (1.7 x the best peer's 34)",
    "prefill_group_tokens_per_second": ">= 201 (1.7 x the best peer's 118)",
}


def table(results: dict[str, float], links: list[tuple[float, float, float]]) -> str:
    """The results as Markdown."""
    rows = [f"| {key} | {value} | {_GOALS.get(key, '')} |" for key, value in results.items()]
    over = [f"| {1e3 * latency:g} | {group:.1f} | {pipe:.1f} |" for latency, group, pipe in links]
    heads = ["| figure | measured | goal |", "|---|---|---|"]
    legend = ["", "| link, ms one way | group, ms per token | pipeline, ms per token |", "|---|---|---|"]
    return "\n".join([*heads, *rows, *legend, *over])


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=5, help="turns per side (default: 5)")
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results/tensor_parallel.md")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(flags.rounds, Path(folder)) | prefill_over_links(flags.rounds, Path(folder))
        links = over_links(Path(folder))
    print(json.dumps(results | {"links": links}, indent=2) if flags.json else table(results, links))
    if flags.save:
        text = f"# bench/tensor_parallel.py\n\n{machine()}; one thread per process; {time.strftime('%Y-%m-%d')}\n\n"
        keep("tensor_parallel", text + table(results, links))


if __name__ == "__main__":
    main()
