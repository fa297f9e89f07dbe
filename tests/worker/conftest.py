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
def tiny_oracle(tiny_model):
    """tiny_oracle(family, layers=4) -> Oracle."""
    made = {}

    def make(family, layers=4):
        if (family, layers) not in made:
            made[family, layers] = _beside("oracle").tiny(tiny_model(family, layers))
        return made[family, layers]

    return make


@pytest.fixture(scope="session")
def smollm2_oracle(smollm2_path):
    """SmolLM2 in transformers, with the de-quantised weights of the GGUF file."""
    return _beside("oracle").smollm2(smollm2_path)


@pytest.fixture(scope="session")
def gemma3_oracle(gemma3_path):
    """Gemma 3 270M in transformers, with the de-quantised weights of the GGUF file."""
    return _beside("oracle").gemma3(gemma3_path)


@pytest.fixture(scope="session")
def processes():
    """The module processes: Worker, Model, client."""
    return _beside("processes")


@pytest.fixture(scope="module")
def two_workers(processes, tmp_path_factory):
    """Two worker processes, "a" and "b", shared by a module's tests."""
    cache = tmp_path_factory.mktemp("workers")
    with processes.running(*(processes.Worker(name, cache) for name in "ab")) as workers:
        yield workers


@pytest.fixture(scope="module")
def epochs():
    """Numbers for epochs, each larger than the last."""
    return itertools.count(1)


@pytest.fixture(scope="session")
def served(processes, tiny_model):
    """The tiny model that processes load."""
    return processes.Model(tiny_model("qwen3"))
