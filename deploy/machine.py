"""What this machine can do: which compute type it multiplies natively, and how fast one core is."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil

from potluck.deploy.emulate import Machine
from potluck.kernels.native_module import VECTORS

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


def native_dtype() -> str:
    """bfloat16 where the processor multiplies it natively, else float32."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        asked = subprocess.run(
            ["sysctl", "-n", "hw.optional.arm.FEAT_BF16"], capture_output=True, text=True, check=False, timeout=5
        )
        return "bfloat16" if asked.stdout.strip() == "1" else "float32"
    words = set(_cpu_lines(("flags", "Features")).split())
    return "bfloat16" if words & {"avx512_bf16", "amx_bf16", "bf16"} else "float32"


def can_multiply_quantized() -> bool:
    """Whether this installation multiplies quantised weights faster than bfloat16: with vectors, not in plain C++."""
    return VECTORS


def measure_machine(cache: Path) -> Machine:
    """Speed of one core in float32 matrix products, as fleet files state it; measured once per processor and torch.

    Raises:
        CalibrationError: torch cannot run here.
    """
    key = f"{_cpu_lines(('model name', 'Hardware')) or platform.processor()}|torch {version('torch')}"
    known = _read(cache / _FILE)
    if key not in known:
        known[key] = _measure()
        cache.mkdir(parents=True, exist_ok=True)
        (cache / _FILE).write_text(json.dumps(known, indent=1), "utf-8")
    return Machine(known[key], os.cpu_count() or 1)


def hardware_fingerprint() -> str:
    """What speeds depend on: processor, cores, memory, GPUs, and the versions of what computes. One line of text."""
    gpus = sorted(_gpu(path) for path in Path("/proc/driver/nvidia/gpus").glob("*/information"))
    cpu = _cpu_lines(("model name", "Hardware")) or platform.processor()
    memory = f"{psutil.virtual_memory().total >> 20} MiB"
    versions = [f"{name} {version(name)}" for name in ("potluck", "torch")]
    return "|".join([cpu, f"{os.cpu_count()} cores", memory, *gpus, *versions])


def _gpu(information: Path) -> str:
    """The model's line of what NVIDIA's driver says about a GPU."""
    try:
        lines = information.read_text("utf-8", "replace").splitlines()
    except OSError:
        return "an unknown GPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model")), "an unknown GPU")


def _measure() -> float:
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=False, timeout=120)
    try:
        return float(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CalibrationError(f"this machine's speed cannot be measured: {reason}; is torch installed?") from None


def _cpu_lines(names: tuple[str, ...]) -> str:
    """The first line of /proc/cpuinfo with one of these names; empty where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def _read(path: Path) -> dict[str, float]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in data.items() if isinstance(value, float)} if isinstance(data, dict) else {}
