"""Real worker processes, shared by the whole session; every case is one more epoch of theirs."""

import asyncio
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from potluck.coordinator.assignments import BLOCK_SIZE, Loading, assignments, entries, kv_blocks
from potluck.coordinator.calls import Callers
from potluck.coordinator.deployment import ModelFiles
from potluck.coordinator.driver import Driver, Observers
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.fabric import LocalFabric, WorkerLaunch
from potluck.coordinator.generation import Generation
from potluck.coordinator.metrics import Metrics
from potluck.coordinator.scheduler.scheduler import Limits, Scheduler
from potluck.models.open import open_checkpoint, read_spec
from potluck.planner.agreement import agreements
from potluck.planner.executable import executable_stages
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.goal import Goal
from potluck.planner.memory import goes_ahead, steps_at_once, stream_budgets
from potluck.planner.plan import Plan, Route, Share, Stage
from potluck.planner.plan_file import plan_from_data
from potluck.planner.solve import solve
from potluck.planner.validate import validate
from potluck.planner.yaml_text import read_yaml
from potluck.proto.link import LinkTarget
from potluck.proto.step import Sampling

TOKEN = "t" * 32
NODES = [NodeName(f"n{number}") for number in range(5)]
# Speeds that give each node another number of layers.
SPEEDS = dict(zip(NODES, (5.0, 3.0, 2.0, 4.0, 1.0), strict=True))


def _beside(path, name):
    """A module by its file: tests/ is no package (import-mode importlib)."""
    full = f"system_tests_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, path)
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


def files_of(path):
    return ModelFiles(read_spec(path), str(path), open_checkpoint(path).fingerprint)


class RecordedSteps(Scheduler):
    """A scheduler that keeps the steps it packed."""

    def __init__(self, limits):
        super().__init__(limits)
        self.steps = []

    def next_step(self):
        step = super().next_step()
        self.steps += [step] if step else []
        return step


class Rig:
    """Five workers; `serve` puts a model on some of them under a new epoch and gives the engine."""

    def __init__(self, cache):
        # One cache for all: a layer that another placement had on another node is checked, not packed again.
        launches = [WorkerLaunch(node, str(cache), threads=1, log=str(cache / f"{node}.log")) for node in NODES]
        self.fabric = LocalFabric(launches)
        self.workers = {worker.node: worker for worker in self.fabric.start(TOKEN)}
        self.callers = Callers(list(self.workers.values()), TOKEN)
        assert self.callers.silent(NODES, 0, 60.0) == {}
        self.epoch = 0
        self.driver = None
        self.plan = None
        self.scheduler = None

    def fleet(self, nodes, readers=NODES):
        devices = {node: Device("cpu", SPEEDS[node] * 1e10, SPEEDS[node] * 1e10, 4 << 30) for node in NODES}
        chosen = tuple(Node(node, (devices[node],), checkpoint=node in readers) for node in NODES[:nodes])
        return Fleet(chosen, NODES[0], Link(1e-4, 1e9))

    def plan_for(self, files, nodes, rounds=1, dtype="float32", kv_tokens=4096, head="home"):
        plan = solve(
            self.fleet(nodes), files.spec, Goal(dtype=dtype, kv_tokens=kv_tokens, rounds=rounds, solver="proportional")
        )
        return self.head_at(plan, head)

    def plan_by_hand(self, files, pieces, dtype="float32"):
        """A plan of (node number, parts) pieces, in order, whose parts are consecutive pieces of the model."""
        parts = list(files.spec.parts())
        stages = []
        for node, count in pieces:
            stages.append(Stage(tuple(parts[:count]), (Share(NODES[node]),)))
            parts = parts[count:]
        plan = Plan(files.spec.name, dtype, (Route(tuple(stages)),), 4096)
        validate(plan, self.fleet(len(NODES)), files.spec)
        executable_stages(plan)
        return plan

    def plan_from_text(self, files, stages, dtype="float32", kv_tokens=4096):
        """The plan of a plan file with these stages (YAML)."""
        text = f"{{model: {files.spec.name}, dtype: {dtype}, kv_tokens: {kv_tokens}, stages: [{','.join(stages)}]}}"
        plan = plan_from_data(read_yaml(text), files.spec)
        validate(plan, self.fleet(len(NODES)), files.spec)
        executable_stages(plan)
        return plan

    def head_at(self, plan, where):
        """The same plan, but for the head: "home" beside the embedding, or with the "last" layers."""
        *others, last = plan.routes[0].stages
        first, head = plan.routes[0].stages[0], last.parts[-1:]
        if others and len(last.parts) == 1:
            *others, last = others
        elif len(last.parts) > 1:
            last = Stage(last.parts[:-1], last.shares)
        if where == "last" or last.node == first.node:
            stages = (*others, Stage(last.parts + head, last.shares))
        else:
            stages = (*others, last, Stage(head, first.shares))
        return replace(plan, routes=(Route(stages),))

    def serve(self, files, plan, max_rows=64, sources=None, wire="tcp"):
        """Load a plan; `sources` (node -> ModelFiles) lets one node read other weights than the rest."""
        self.ports = self.callers.data_ports if wire == "tcp" else {}
        self.close()
        self.epoch += 1
        self.plan = plan
        for node, assignment in assignments(plan, self._loading(files, plan, max_rows)).items():
            other = (sources or {}).get(node)
            if other:
                assignment.checkpoint, assignment.fingerprint = other.path, other.fingerprint
            self.callers.load({node: assignment}, lambda *_: None)
        engine = ServingEngine("model", 2048, Metrics())
        at_once = {"depth": steps_at_once(plan), "ahead": goes_ahead(plan)}
        limits = Limits(kv_blocks(plan), BLOCK_SIZE, 2048, max_rows, **at_once)
        observers = Observers(engine.delivered, engine.stepped, lambda node, why: engine.detach(f"{node}: {why}"))
        self.scheduler = RecordedSteps(limits)
        self.driver = Driver(self.epoch, self.scheduler, entries(plan), observers)
        self.driver.connect({node: self._target(node) for node in plan.nodes})
        engine.attach(self.driver)
        return engine

    def _target(self, node):
        address, port = self.workers[node].address, self.ports.get(node, 0)
        return LinkTarget(NODES[0], node, address, TOKEN, self.epoch, "coordinator", data_port=port)

    def _loading(self, files, plan, max_rows):
        fleet = self.fleet(len(NODES))
        return Loading(
            self.epoch,
            files.spec,
            files.path,
            files.fingerprint,
            self.callers.addresses,
            self.ports,
            frozenset(NODES),
            NODES,
            max_rows,
            stream_budgets(plan, fleet, files.spec),
            agreements(plan, fleet),
        )

    def close(self):
        if self.driver is not None:
            self.driver.close()
            self.callers.release(self.plan.nodes, self.epoch)
            self.driver = None

    def stop(self):
        self.close()
        self.callers.close()
        self.fabric.stop()


def ask(prompt, tokens, **sampling):
    """One greedy (unless told otherwise) generation that no token ends."""
    options = {"temperature": 0.0, "prompt_tokens": len(prompt)} | sampling
    return Generation(tuple(prompt), Sampling(**options), tokens, frozenset())


def answers(engine, generations):
    """All of them at once; what each drew."""

    async def one(stream):
        return [drawn async for drawn in stream]

    async def together():
        streams = [engine.submit([generation])[0] for generation in generations]
        return await asyncio.gather(*(one(stream) for stream in streams))

    return asyncio.run(asyncio.wait_for(together(), 120))


def texts(engine, generations):
    """The token ids of `answers`."""
    return [[drawn.token for drawn in one if drawn.token is not None] for one in answers(engine, generations)]


@pytest.fixture(scope="session")
def rig(tmp_path_factory):
    rig = Rig(tmp_path_factory.mktemp("rig"))
    yield rig
    rig.stop()


@pytest.fixture(scope="session")
def tools():
    """The functions above, for test modules."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def real(request):
    """real(name) -> (ModelFiles, Oracle) of smollm2 or gemma3."""
    made = {}

    def make(name):
        if name not in made:
            path = request.getfixturevalue(f"{name}_path")
            made[name] = files_of(path), request.getfixturevalue(f"{name}_oracle")
        return made[name]

    return make


@pytest.fixture(scope="session")
def served():
    """The module served: the command as a process."""
    return _beside(Path(__file__).with_name("served.py"), "served")


@pytest.fixture(scope="session")
def start(served, tiny_model, calibrated):
    """start(folder, *flags) -> a `Served` of a tiny model, in that folder, on three nodes of this machine."""

    def begin(folder, *flags):
        calibrated(folder / "cache")
        return served.Served(tiny_model("llama3", 6), folder, "--local", *flags)

    return begin
