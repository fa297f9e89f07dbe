"""What the pipeline costs: a hop, three nodes against one, eight requests against one, and the time to the first token.

    python bench/pipeline.py [--json] [--save]

Workers are real processes on loopback, one thread each, neither links nor compute slowed. Ratios come from one run, in
which the two sides take turns. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from hop import measure_hop
from kept import keep

from potluck.coordinator.deployment import Deployment, Serving
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.fabric import LocalFabric, WorkerLaunch
from potluck.coordinator.generation import Generation
from potluck.coordinator.metrics import Metrics
from potluck.deploy.prepare import model_files
from potluck.deploy.progress import JsonProgress
from potluck.models.source import locate
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.goal import Goal
from potluck.proto.step import Sampling
from potluck.worker.hardware import native_dtype

_NODE = Device("cpu", 60e9, 20e9, 8 << 30)


class Silent(JsonProgress):
    """Shows nothing."""

    def say(self, event: str, **facts: object) -> None:
        """Nothing."""


def deploy(nodes: int, cache: Path) -> Deployment:
    """SmolLM2 over that many equal, unslowed workers."""
    names = [NodeName(f"n{number}") for number in range(nodes)]
    fleet = Fleet(tuple(Node(name, (_NODE,)) for name in names), names[0], Link(1e-4, 1e9))
    files = model_files(locate("smollm2", cache))
    goal = Goal(dtype=native_dtype(), kv_tokens=8192, solver="proportional")
    launches = [WorkerLaunch(name, str(cache), log=str(cache / f"{name}.log")) for name in names]
    engine = ServingEngine("smollm2", 2048, Metrics())
    deployment = Deployment(LocalFabric(launches), engine, files, Serving(goal, 2048, fleet=fleet))
    deployment.start(Silent())
    return deployment


async def token_times(engine: ServingEngine, requests: int, tokens: int, prompt: int = 32) -> list[list[float]]:
    """When each token of each of several concurrent greedy requests came."""
    sampling = Sampling(temperature=0.0, prompt_tokens=prompt)
    generations = [
        Generation(tuple(range(100 + 37 * number, 100 + 37 * number + prompt)), sampling, tokens, frozenset())
        for number in range(requests)
    ]

    async def one(stream) -> list[float]:  # noqa: ANN001
        return [time.perf_counter() async for drawn in stream]

    streams = [engine.submit([generation])[0] for generation in generations]
    return list(await asyncio.gather(*(one(stream) for stream in streams)))


def per_token(engine: ServingEngine, tokens: int) -> float:
    """Seconds per decoded token of a lone request."""
    (times,) = asyncio.run(token_times(engine, 1, tokens))
    return (times[-1] - times[0]) / (len(times) - 1)


def rate(engine: ServingEngine, requests: int, tokens: int) -> float:
    """Decode tokens per second while all requests are running."""
    times = asyncio.run(token_times(engine, requests, tokens))
    begin, end = max(one[0] for one in times), min(one[-1] for one in times)
    counted = sum(begin < at <= end for one in times for at in one)
    return counted / (end - begin)


def ready_seconds() -> tuple[float, list[dict[str, object]]]:
    """From `cluster serve smollm2 --fleet trio` to the first streamed token, and what the command said meanwhile."""
    begun = time.perf_counter()
    command = [str(Path(sys.executable).parent / "cluster"), "serve", "smollm2", "--fleet", "trio", "--port", "0"]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as server:
        events = []
        try:
            for line in server.stdout or ():
                events.append(json.loads(line))
                if events[-1]["event"] == "listening":
                    break
            body = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
            request = urllib.request.Request(
                f"{events[-1]['url']}/v1/chat/completions",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request) as answer:
                answer.readline()
                return time.perf_counter() - begun, events
        finally:
            server.terminate()


def measure(rounds: int, cache: Path) -> dict[str, object]:
    """Every figure of the table."""
    results: dict[str, object] = {
        "hop_8k_us_p50": round(measure_hop()["p50"], 1),
        "hop_8k_grpc_us_p50": round(measure_hop(wire="grpc")["p50"], 1),
    }
    one, three = deploy(1, cache), deploy(3, cache)
    try:
        per_token(one.engine, 16), per_token(three.engine, 16)
        singles, triples = [], []
        for _ in range(rounds):
            singles.append(per_token(one.engine, 96))
            triples.append(per_token(three.engine, 96))
        results["one_node_ms_per_token"] = round(statistics.median(singles) * 1e3, 2)
        results["three_nodes_ms_per_token"] = round(statistics.median(triples) * 1e3, 2)
        results["three_nodes_over_one"] = round(statistics.median(map(ratio, triples, singles)), 3)
        three.stop()
        alone, eight = [], []
        for _ in range(rounds):
            alone.append(rate(one.engine, 1, 128))
            eight.append(rate(one.engine, 8, 128))
        results["decode_1_tokens_per_second"] = round(statistics.median(alone), 1)
        results["decode_8_tokens_per_second"] = round(statistics.median(eight), 1)
        results["batch8_over_1"] = round(statistics.median(map(ratio, eight, alone)), 2)
    finally:
        one.stop()
        three.stop()
    ready_seconds()
    seconds, events = ready_seconds()
    results["ready_s"] = round(seconds, 1)
    results["ready_phases"] = [[event["event"], event["seconds"]] for event in events]
    return results


def ratio(over: float, under: float) -> float:
    """One divided by the other."""
    return over / under


def machine() -> str:
    """What this ran on, in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    import os

    return f"{os.cpu_count()} cores, {model}, {platform.system()}, Python {platform.python_version()}, {native_dtype()}"


def table(results: dict[str, object]) -> str:
    """The results as Markdown."""
    limits = {"hop_8k_us_p50": "<= 200", "three_nodes_over_one": "<= 1.15", "batch8_over_1": ">= 4", "ready_s": "<= 20"}
    rows: Sequence[str] = [
        f"| {key} | {value} | {limits.get(key, '')} |" for key, value in results.items() if key != "ready_phases"
    ]
    return "\n".join(["| figure | measured | goal |", "|---|---|---|", *rows])


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=5, help="turns per side (default: 5)")
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results/pipeline.md")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        results = measure(flags.rounds, Path(cache))
    print(json.dumps(results, indent=2) if flags.json else table(results))
    if flags.save:
        text = f"# bench/pipeline.py\n\n{machine()}; one thread per process; {time.strftime('%Y-%m-%d')}\n\n"
        keep("pipeline", text + table(results))


if __name__ == "__main__":
    main()
