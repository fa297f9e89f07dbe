"""A home of worker processes on this machine that serves a tiny model. Test modules use the fixture `home`."""

import asyncio
import json
import threading
import time

import psutil

from potluck.coordinator.deployment import Deployment, ModelFiles, Serving
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.fabric import LocalFabric, WorkerLaunch
from potluck.coordinator.generation import Generation, GenerationError
from potluck.coordinator.metrics import Metrics
from potluck.models.open import open_checkpoint, read_spec
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.goal import Goal
from potluck.proto.step import Sampling


class Diary:
    """An observer that remembers what it was told; `until` waits for it."""

    def __init__(self):
        self.entries, self._told = [], threading.Condition()

    def tell(self, *entry):
        with self._told:
            self.entries.append(entry)
            self._told.notify_all()

    def until(self, what, count=1, seconds=20.0):
        """Wait for the count-th entry of a kind."""

        def met():
            return [entry for entry in self.entries if entry[0] == what][count - 1 :]

        with self._told:
            assert self._told.wait_for(met, seconds), f"no {what} in {self.entries}"
            return met()[0]

    def phase(self, what):
        self.tell("phase", what)

    def planned(self, plan, fleet):
        self.tell("planned", plan)

    def loading(self, node, progress):
        self.tell("loading", node, progress.activity)

    def serving(self):
        self.tell("serving")

    def lost(self, node, reason):
        self.tell("lost", node, reason)

    def spare_lost(self, node, reason):
        self.tell("spare_lost", node, reason)

    def refused(self, reason):
        self.tell("refused", reason)

    def compared(self, comparison):
        self.tell("compared", comparison)

    def remeasuring(self, cause, figure):
        self.tell("remeasuring", cause, figure)

    def remeasured(self, outcome, described):
        self.tell("remeasured", outcome, described)


class Home:
    """Equal nodes n0, n1, ... that serve a model folder; those in `fetching` may not read it themselves.

    `serving` are further fields of `Serving`; `emulate` says which nodes are slowed down, and by what.
    """

    def __init__(
        self,
        folder,
        cache,
        nodes=3,
        memory=1 << 30,
        fetching=(),
        fabric=LocalFabric,
        silent=10.0,
        emulate=(),
        serving=(),
        **goal,
    ):
        self.folder, self.diary, self.metrics = folder, Diary(), Metrics()
        names = [NodeName(f"n{number}") for number in range(nodes)]
        device = Device("cpu", 1e10, 1e10, memory)
        self.fleet = Fleet(
            tuple(Node(name, (device,), checkpoint=name not in fetching) for name in names), names[0], Link(1e-4, 1e9)
        )
        slowed = dict(emulate)
        self.fabric = fabric(
            [
                WorkerLaunch(name, str(cache / name), log=str(cache / f"{name}.log"), emulate=slowed.get(name))
                for name in names
            ]
        )
        files = ModelFiles(read_spec(folder), str(folder), open_checkpoint(folder).fingerprint)
        self.engine = ServingEngine("tiny", 512, self.metrics)
        how = Serving(
            Goal(**{"kv_tokens": 4096, "solver": "proportional"} | goal),
            512,
            **{"fleet": self.fleet, "max_rows": 64, "silent_seconds": silent} | dict(serving),
        )
        self.deployment = Deployment(self.fabric, self.engine, files, how)

    def start(self):
        self.deployment.start(self.diary)
        self.processes = {node: psutil.Process(process.pid) for node, process in self.fabric.workers.items()}
        return self

    def stop(self):
        self.deployment.stop()

    def kill(self, *nodes):
        for node in nodes:
            self.processes[node].kill()

    async def answers(self, *asked):
        """What each of several concurrent generations drew."""

        async def read(stream):
            return [drawn async for drawn in stream]

        streams = [self.engine.submit([one])[0] for one in asked]
        return await asyncio.wait_for(asyncio.gather(*(read(stream) for stream in streams)), 60)

    async def texts(self, *asked):
        """The token ids of `answers`."""
        return [[drawn.token for drawn in one if drawn.token is not None] for one in await self.answers(*asked)]

    async def refusal(self):
        """Why a new request is refused."""
        try:
            self.engine.submit([ask([1])])
        except GenerationError as error:
            return error
        raise AssertionError("the request was taken")


def slow(flops, memory_bandwidth):
    """What makes a worker a slow node."""
    return json.dumps({"device": {"flops": flops, "memory_bandwidth": memory_bandwidth}})


def ask(prompt, tokens=16, ends=(), score=False, **sampling):
    """A greedy generation, unless told otherwise."""
    options = {"temperature": 0.0, "prompt_tokens": len(prompt)} | sampling
    return Generation(tuple(prompt), Sampling(**options), tokens, frozenset(ends), score)


async def eventually(condition, seconds=5.0):
    """Wait until something holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came to hold"
        await asyncio.sleep(0.02)
