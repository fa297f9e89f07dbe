"""Fixtures of the compute half: the in-process pipeline and the oracles."""

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest


def _beside(name):
    """A module beside this file: tests/ is no package (import-mode importlib)."""
    full = f"worker_tests_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


@pytest.fixture(scope="session")
def in_process():
    """The module in_process: Pipeline, Placement, spread, Request."""
    return _beside("in_process")


@pytest.fixture(scope="session")
def members():
    """The module members: Model, cuts, rows, weight, run_together."""
    return _beside("members")


@pytest.fixture(scope="session")
def in_group(in_process):
    """The module in_group, with the class GroupPipeline."""
    module = _beside("in_group")
    module.GroupPipeline = module.group_class(in_process.Pipeline)
    return module


@pytest.fixture(scope="session")
def tiny_oracle(oracles, tiny_model):
    """tiny_oracle(family, layers=4, **config) -> Oracle."""
    made = {}

    def make(family, layers=4, **config):
        folder = tiny_model(family, layers, **config)
        if folder not in made:
            made[folder] = oracles.tiny(folder)
        return made[folder]

    return make


@pytest.fixture(scope="session")
def memory_limit():
    """memory_limit(name, bytes): a context that gives what puts a process under a limit."""
    return _beside("memory_group").limited


@pytest.fixture(scope="session")
def limited_launch():
    """limited_launch(name, bytes): a context that gives the WorkerLaunch of a worker under a limit."""
    return _beside("memory_group").limited_launch


@pytest.fixture(scope="session")
def processes():
    """The module processes: Worker, Model, client."""
    return _beside("processes")


@pytest.fixture(scope="session")
def authorities():
    """authorities(folder) -> Authority, which signs certificates for nodes."""
    return _beside("authority").Authority


def pytest_generate_tests(metafunc):
    """`bad_frame`: (epoch -> gRPC messages, the status they earn)."""
    if "bad_frame" in metafunc.fixturenames:
        cases = _beside("bad_frames").CASES
        metafunc.parametrize("bad_frame", cases.values(), ids=list(cases))


@pytest.fixture(scope="module")
def two_workers(processes, tmp_path_factory, request):
    """Two worker processes, "a" and "b", shared by a module's tests; frames travel by TCP, or as the parameter says."""
    cache, wire = tmp_path_factory.mktemp("workers"), getattr(request, "param", "tcp")
    with processes.running(*(processes.Worker(name, cache, wire=wire) for name in "ab")) as workers:
        yield workers


@pytest.fixture(scope="module")
def epochs():
    """Numbers for epochs, each larger than the last."""
    return itertools.count(1)


@pytest.fixture(scope="session")
def served(processes, tiny_model):
    """The tiny model that processes load."""
    return processes.Model(tiny_model("qwen3"))


@pytest.fixture(scope="module")
def expected(tiny_oracle, processes):
    tokens = []
    for _ in range(4):
        tokens.append(int(tiny_oracle("qwen3").logprobs([*processes.PROMPT, *tokens])[-1].argmax()))
    return tokens


@pytest.fixture(scope="module")
def neighbour(two_workers, processes, served, epochs, expected):
    """(worker, epoch, Neighbour): worker a runs the whole model for a client that must notice nothing."""
    worker, epoch = two_workers[0], next(epochs)
    worker.load(served.whole(epoch, worker))
    with processes.client(epoch, worker) as client:
        running = processes.Neighbour(client, expected)
        yield worker, epoch, running
        running.end()
    assert not running.wrong


@pytest.fixture
def undisturbed(neighbour, processes):
    """(worker, epoch); fails when the neighbour did not get two right answers more after the test's deed."""
    worker, epoch, running = neighbour
    yield worker, epoch
    before = running.rounds
    assert processes.wait_for(lambda: running.wrong or running.rounds >= before + 2, 20)
    assert not running.wrong
