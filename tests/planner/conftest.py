"""Fixtures of the planner's tests."""

import importlib.util
import sys
from pathlib import Path

import pytest


def _beside(file):
    """A module beside this file (tests/ is no package)."""
    name = f"planner_tests_{file}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{file}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def homes():
    """Models, fleets, and how to draw them."""
    return _beside("homes")


@pytest.fixture(scope="session")
def brute_force():
    """Small homes drawn at random, and every plan for them."""
    return _beside("brute_force")


@pytest.fixture
def smollm2(homes):
    return homes.model(30, vocab=49152, hidden=576, ffn=1536, heads=9, kv_heads=3, head_dim=64, tied_head=True)


@pytest.fixture(scope="session")
def prima_testbed():
    """PRIMA.CPP's machines, models and measurements."""
    return _beside("prima_testbed")


@pytest.fixture(scope="session")
def prima_rows(prima_testbed):
    """The rows of PRIMA.CPP's table as plans."""
    return _beside("prima_rows")


@pytest.fixture(scope="session")
def prima_predicted(prima_rows):
    """ms per token of PRIMA.CPP's table as predicted, by size and row."""
    return prima_rows.predicted()
