"""The backends of the extension, NEON's emulated where no processor has it, and paged KV for attention."""

import importlib.util
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from potluck.kernels import packed

BACKENDS = ["avx512", "avx2", "neon", "neon_plain", "generic"]
IS_ARM = platform.machine() in ("aarch64", "arm64")
HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "kernels" / "csrc"


def pytest_generate_tests(metafunc):
    """Cases for backends that are here, not hundreds of skips for others: `any_backend` skips once for each."""
    if "any_backend" in metafunc.fixturenames:
        metafunc.parametrize("any_backend", BACKENDS)
    if "backend" in metafunc.fixturenames:
        found = [name for name in BACKENDS if packed.available() and packed.backend(name)]
        if packed.available():
            packed.backend()
        if getattr(metafunc.module, "EMULATES", False) and not IS_ARM:
            found += ["emulated neon", "emulated neon_plain"]
        metafunc.parametrize("backend", found, indirect=True)


@pytest.fixture
def backend(request, monkeypatch):
    """The name of a backend, while it is the one in use."""
    if request.param.startswith("emulated"):
        monkeypatch.setattr(packed, "_native", request.getfixturevalue("emulated_neon"))
    assert packed.backend(request.param.removeprefix("emulated ")) is not None
    yield request.param
    packed.backend()


@pytest.fixture(scope="session")
def paged():
    """The module paged_pools: spans_of, filled, naive."""
    spec = importlib.util.spec_from_file_location("kernel_tests_paged_pools", HERE / "paged_pools.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulated_neon(tmp_path_factory):
    """The extension with backends neon and neon_plain alone."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    headers = Path(sysconfig.get_paths()["include"])
    if sys.platform == "win32" or compiler is None or not (headers / "Python.h").exists():
        pytest.skip("there is no C++ compiler, or it has no Python.h")
    built = tmp_path_factory.mktemp("neon") / "_native.so"
    # Hidden, so that nothing in it is taken for the installed extension's.
    command = [compiler, "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-ffp-contract=off"]
    command += ["-fvisibility=hidden", "-fPIC", "-shared", "-pthread"]
    command += ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    command += [f"-I{folder}" for folder in (HERE / "neon_emulated", SOURCES, headers)]
    command += [
        str(HERE / "neon_emulated" / "backend.cpp"),
        *(str(SOURCES / f"{name}.cpp") for name in ("decode", "guard", "module", "pack", "products")),
    ]
    done = subprocess.run([*command, "-o", str(built)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("_native", built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
