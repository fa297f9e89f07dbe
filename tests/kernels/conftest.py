"""Paged KV for attention; the NEON backend, emulated beside the installed extension, where no processor has it."""

import importlib.util
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "kernels" / "csrc"


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
    if platform.machine() in ("aarch64", "arm64"):
        pytest.skip("this processor has NEON: the tests of neon and neon_plain run on it")
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
        *(str(SOURCES / f"{name}.cpp") for name in ("guard", "module", "pack")),
    ]
    done = subprocess.run([*command, "-o", str(built)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("_native", built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
