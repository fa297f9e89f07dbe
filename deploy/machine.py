"""What this machine can do: whether it multiplies quantised weights quickly, and how fast one core is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from potluck.deploy.emulate import Machine
from potluck.kernels.native_module import VECTORS
from potluck.worker.hardware import processor

_FILE = "machine.json"
# Measured in a process of its own, so that the command itself never waits for torch.
_MEASURE = """
import time, torch
torch.set_num_threads(1)
a = torch.randn(512, 512)
best, until = 1e9, time.perf_counter() + 0.5
while time.perf_counter() < until:
    begun = time.thread_time()
    a @ a
    best = min(best, time.thread_time() - begun)
print(2 * 512**3 / best)
"""


class CalibrationError(Exception):
    """This machine could not be measured."""


def can_multiply_quantized() -> bool:
    """Whether this installation multiplies quantised weights faster than bfloat16: with vectors, not in plain C++."""
    return VECTORS


def measure_machine(cache: Path) -> Machine:
    """Speed of one core in float32 matrix products, as fleet files state it; measured once per processor and torch.

    Raises:
        CalibrationError: torch cannot run here.
    """
    key = f"{processor()}|torch {version('torch')}"
    known = _read(cache / _FILE)
    if key not in known:
        known[key] = _measure()
        cache.mkdir(parents=True, exist_ok=True)
        (cache / _FILE).write_text(json.dumps(known, indent=1), "utf-8")
    return Machine(known[key], os.cpu_count() or 1)


def _measure() -> float:
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=False, timeout=120)
    try:
        return float(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CalibrationError(f"this machine's speed cannot be measured: {reason}; is torch installed?") from None


def _read(path: Path) -> dict[str, float]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in data.items() if isinstance(value, float)} if isinstance(data, dict) else {}
