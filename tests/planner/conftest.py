"""Fixtures of the planner's tests."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def homes():
    """The module homes beside this file (tests/ is no package): models, fleets, and how to draw them."""
    name = "planner_tests_homes"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("homes.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def smollm2(homes):
    return homes.model(30, vocab=49152, hidden=576, ffn=1536, heads=9, kv_heads=3, head_dim=64, tied_head=True)
