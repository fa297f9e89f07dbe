"""What this machine can do: whether it multiplies quantised weights quickly, and how fast one core is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import msgspec

from potluck.deploy.emulate import Machine
from potluck.kernels.native_module import VECTORS
from potluck.models.costs import FormatSpeed
from potluck.models.sizes import keeps_encodings
from potluck.worker.hardware import processor

_FILE = "machine.json"
_PLAIN = {"float32": "F32", "float16": "F16"}  # the format of dense matrices; BF16 in all other types


class CalibrationError(Exception):
    """This machine could not be measured."""


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
    key = f"{processor()}|potluck {version('potluck')}"
    known = _read(cache / _FILE)
    measured = known.setdefault(key, {})
    if missing := [name for name in names if name not in measured]:
        measured |= _measure(missing)
        cache.mkdir(parents=True, exist_ok=True)
        (cache / _FILE).write_text(json.dumps(known, indent=1), "utf-8")
    return {name: FormatSpeed(*measured[name]) for name in names}


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


def _read(path: Path) -> dict[str, dict[str, tuple[float, float]]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, tuple[float, float]]])
    except (OSError, msgspec.DecodeError):
        return {}
