"""Whether plans take what they were predicted to take, and whether the plan that was chosen is the quickest.

    python bench/planner_accuracy.py [--json] [--save] [--rounds N] [--only NAME ...]

Every fleet of accuracy_fleets.yaml serves a real model from worker processes. The planner sees only what the workers
measured of themselves and their links; several plans then take turns on the same workers. Fleets are of two kinds:
emulated, where workers wait as long as the node described would take, and held, which run in real time and are held
back by the kernel alone (root; left out with a word where that cannot be had). Errors are |predicted / measured - 1|.
Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from accuracy_run import MODEL, deploy, facts, goal_in
from held_fleet import HeldLaunch, HeldNode, Hold, held, why_not
from kept import keep
from pipeline import machine

from potluck.coordinator.calls import CallError
from potluck.coordinator.deployment import DeploymentError
from potluck.deploy.prepare import emulated_fleet, model_files
from potluck.models.source import locate

_FLEETS = Path(__file__).with_name("accuracy_fleets.yaml")
# A quota is handed out every few milliseconds: in float32 a stage computes long enough for that to matter little.
_DTYPE = {"emulated": "bfloat16", "held": "float32"}
_AS_GOOD = 1.05  # a plan within 5 % of the quickest was as good a choice


def emulated(data: Mapping[str, Any], rounds: int, cache: Path) -> dict[str, Any]:
    """One emulated fleet's facts."""
    path = cache / f"{data['name']}.yaml"
    path.write_text(yaml.safe_dump(dict(data), sort_keys=False))
    fleet = emulated_fleet(str(path), cache, model_files(locate(MODEL, cache)).spec, goal_in(_DTYPE["emulated"]))
    deployment = deploy(
        fleet.launches(cache), goal_in(_DTYPE["emulated"]), str(fleet.fleet.engine), fleet.engine_links(), cache
    )
    try:
        return facts(deployment, rounds) | {"time_scale": fleet.scale}
    finally:
        deployment.stop()


def held_back(data: Mapping[str, Any], rounds: int, cache: Path) -> dict[str, Any]:
    """One held fleet's facts, from a process within its first node's network, where requests arrive."""
    with held({name: Hold.of(line) for name, line in data["nodes"].items()}) as nodes:
        given = [[node.name, node.space, node.address, *map(str, node.groups), node.core] for node in nodes]
        command = [
            sys.executable,
            __file__,
            "--within",
            json.dumps(given),
            "--rounds",
            str(rounds),
            "--cache",
            str(cache),
        ]
        entered = ["nsenter", f"--net=/run/netns/{nodes[0].space}", *command]
        done = subprocess.run(entered, stdout=subprocess.PIPE, text=True, timeout=1800, check=True)
    return dict(json.loads(done.stdout))


def within(given: Sequence[Sequence[Any]], rounds: int, cache: Path) -> dict[str, Any]:
    """The same, seen from within."""
    nodes = [HeldNode(name, space, at, (Path(cpu), Path(memory)), core) for name, space, at, cpu, memory, core in given]
    launches = [
        HeldLaunch(
            node.name,
            str(cache / "held" / node.space / node.name),
            listen=f"{node.address}:0",
            log=str(cache / "logs" / f"{node.name}.log"),
            device="cpu",
            within=node,
        )
        for node in nodes
    ]
    deployment = deploy(launches, goal_in(_DTYPE["held"]), nodes[0].name, {}, cache)
    try:
        return facts(deployment, rounds)
    finally:
        deployment.stop()


def measure(rounds: int, only: Sequence[str], cache: Path) -> Iterator[dict[str, Any]]:
    """Fleet after fleet."""
    described = yaml.safe_load(_FLEETS.read_text())
    reason = why_not()
    for kind, run in (("emulated", emulated), ("held", held_back)):
        for data in described[kind]:
            if only and data["name"] not in only:
                continue
            if kind == "held" and reason:
                print(f"{data['name']}: left out, {reason}", file=sys.stderr)
                continue
            begun = time.monotonic()
            try:
                found = {"name": data["name"], "kind": kind} | run(data, rounds, cache)
            except (subprocess.CalledProcessError, DeploymentError, CallError) as error:
                # Its own process has said why; the others' figures are not to be lost.
                print(f"{data['name']}: failed: {error}", file=sys.stderr)
                continue
            print(f"{line(found)}   ({time.monotonic() - begun:.0f} s)", file=sys.stderr, flush=True)
            yield found


def chosen(fleet: Mapping[str, Any]) -> Mapping[str, Any]:
    """The solver's trial."""
    return next(trial for trial in fleet["trials"] if "solver" in trial["names"])


def over_best(fleet: Mapping[str, Any]) -> float:
    """How much longer the chosen plan takes for a token than the quickest, measured."""
    return float(chosen(fleet)["tpot"][1] / min(trial["tpot"][1] for trial in fleet["trials"]))


def error(pair: Sequence[float]) -> float:
    """How far a prediction is off."""
    return abs(pair[0] / pair[1] - 1)


def summary(fleets: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The figures that the goals are about; of chosen plans, and of all that were tried."""
    results: dict[str, float] = {"fleets": len(fleets)}
    results |= _errors("", [chosen(fleet) for fleet in fleets])
    for kind in ("emulated", "held"):
        results |= _errors(f"_{kind}", [chosen(fleet) for fleet in fleets if fleet["kind"] == kind])
    results |= _errors("_all_plans", [trial for fleet in fleets for trial in fleet["trials"]])
    results["best_plan_chosen"] = sum(over_best(fleet) <= _AS_GOOD for fleet in fleets)
    return results


def _errors(suffix: str, trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    results = {}
    for what in ("tpot", "ttft"):
        errors = [error(trial[what]) for trial in trials] or [float("nan")]
        results[f"{what}_error_median{suffix}"] = round(statistics.median(errors), 3)
        results[f"{what}_error_worst{suffix}"] = round(max(errors), 3)
    return results


def line(fleet: Mapping[str, Any]) -> str:
    """One fleet as a row of the table."""
    of = chosen(fleet)
    words = [fleet["kind"], fleet["name"], " > ".join(f"{'+'.join(map(str, s[:-1]))}:{s[-1]}" for s in of["stages"])]
    for what in ("tpot", "ttft"):
        words += [
            f"{1e3 * of[what][0]:.1f}",
            f"{1e3 * of[what][1]:.1f}",
            f"{100 * (of[what][0] / of[what][1] - 1):+.0f} %",
        ]
    rest = [trial for trial in fleet["trials"] if trial is not of]
    shown = ", ".join(f"{'/'.join(trial['names'])} {1e3 * trial['tpot'][1]:.1f}" for trial in rest)
    return f"| {' | '.join(words)} | {shown} |"


_GOALS = {
    "fleets": ">= 12",
    "tpot_error_median": "<= 0.15",
    "tpot_error_worst": "<= 0.30",
    "ttft_error_median": "<= 0.15",
    "ttft_error_worst": "<= 0.30",
    "best_plan_chosen": ">= 11 of 12",
}


def table(fleets: Sequence[Mapping[str, Any]]) -> str:
    """The results as Markdown."""
    rows = [f"| {key} | {value} | {_GOALS.get(key, '')} |" for key, value in summary(fleets).items()]
    heads = ["| figure | measured | goal |", "|---|---|---|"]
    columns = ["kind", "fleet", "stages of the chosen plan, layers", "ms per token predicted", "measured", "off by"]
    columns += ["ms to first token predicted", "measured", "off by", "other plans, measured ms per token"]
    legend = ["", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*heads, *rows, *legend, *map(line, fleets)])


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--save", action="store_true", help="keep the tables in bench/results/planner_accuracy.md")
    parser.add_argument("--rounds", type=int, default=3, help="turns per plan (default: 3)")
    parser.add_argument("--only", nargs="+", default=[], help="names of the fleets to measure (default: all)")
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    parser.add_argument("--within", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.within:
        print(json.dumps(within(json.loads(flags.within), flags.rounds, Path(flags.cache))))
        return
    with tempfile.TemporaryDirectory() as folder:
        fleets = list(measure(flags.rounds, flags.only, Path(flags.cache or folder)))
    print(json.dumps(summary(fleets) | {"measured": fleets}, indent=2) if flags.json else table(fleets))
    if flags.save:
        model = f"{MODEL}, emulated in {_DTYPE['emulated']}, held in {_DTYPE['held']}"
        about = f"{machine()}; {model}; one thread per process; {time.strftime('%Y-%m-%d')}"
        text = f"# bench/planner_accuracy.py\n\n{about}\n\n{table(fleets)}\n"
        keep("planner_accuracy", text)


if __name__ == "__main__":
    main()
