"""What this machine can do: which compute type it multiplies natively, and how fast one core is."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import msgspec
import psutil

from potluck.deploy.emulate import Machine
from potluck.kernels.native_module import VECTORS
from potluck.models.costs import FormatSpeed
from potluck.models.sizes import keeps_encodings

_FILE = "machine.json"
_PLAIN = {"float32": "F32", "float16": "F16"}  # the format of dense matrices; BF16 in all other types


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


def measure_machine(cache: Path, dtype: str, encodings: Iterable[str] = ()) -> Machine:
    """Speed of one core, all of them busy, with a compute type and weight formats; measured once per processor.

    Raises:
        CalibrationError: torch cannot run here.
    """
    plain, unrounded = _PLAIN.get(dtype, "BF16"), " unrounded" if dtype == "weight-only" else ""
    names = {name: name + unrounded for name in sorted(set(encodings))} if keeps_encodings(dtype) else {}
    speeds, cores = _speeds(cache, [plain, *names.values()]), os.cpu_count() or 1
    return Machine(speeds[plain].flops, speeds[plain].bandwidth, cores, {name: speeds[n] for name, n in names.items()})


def _speeds(cache: Path, names: Sequence[str]) -> dict[str, FormatSpeed]:
    key = f"{_cpu_lines(('model name', 'Hardware')) or platform.processor()}|potluck {version('potluck')}"
    known = _read(cache / _FILE)
    measured = known.setdefault(key, {})
    if missing := [name for name in names if name not in measured]:
        measured |= _measure(missing)
        cache.mkdir(parents=True, exist_ok=True)
        (cache / _FILE).write_text(json.dumps(known, indent=1), "utf-8")
    return {name: FormatSpeed(*measured[name]) for name in names}


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


def _measure(names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The slowest of all cores at once. In processes of their own, so that the command never waits for torch."""
    command = [sys.executable, "-m", "potluck.worker.core_speed", *names]
    with ThreadPoolExecutor(cores := os.cpu_count() or 1) as pool:
        found = list(pool.map(_output, [command] * cores))
    return {name: tuple(map(min, zip(*(one[name] for one in found), strict=True))) for name in names}


def _output(command: Sequence[str]) -> dict[str, tuple[float, float]]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    try:
        return msgspec.json.decode(done.stdout, type=dict[str, tuple[float, float]])
    except msgspec.DecodeError:
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


def _read(path: Path) -> dict[str, dict[str, tuple[float, float]]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, tuple[float, float]]])
    except (OSError, msgspec.DecodeError):
        return {}
