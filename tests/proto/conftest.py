"""Fixtures of the wire's tests."""

import importlib.util
import sys
from pathlib import Path

# tests/ is no package (import-mode importlib); test modules import this one by the name given here.
_NAME = "proto_messages"
if _NAME not in sys.modules:
    _SPEC = importlib.util.spec_from_file_location(_NAME, Path(__file__).with_name("messages.py"))
    sys.modules[_NAME] = importlib.util.module_from_spec(_SPEC)
    _SPEC.loader.exec_module(sys.modules[_NAME])
