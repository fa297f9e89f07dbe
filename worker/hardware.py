"""What this machine is, read without loading torch: its fingerprint, and the compute type it multiplies natively."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil

from potluck.worker.capacity import usable_cores


def native_dtype() -> str:
    """bfloat16 where the processor multiplies it natively, else float32."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        asked = subprocess.run(
            ["sysctl", "-n", "hw.optional.arm.FEAT_BF16"], capture_output=True, text=True, check=False, timeout=5
        )
        return "bfloat16" if asked.stdout.strip() == "1" else "float32"
    words = set(processor_line(("flags", "Features")).split())
    return "bfloat16" if words & {"avx512_bf16", "amx_bf16", "bf16"} else "float32"


def hardware_fingerprint() -> str:
    """What speeds depend on: machine, processor, cores, memory, GPUs, and the versions of what computes. One line."""
    gpus = sorted(_gpu(path) for path in Path("/proc/driver/nvidia/gpus").glob("*/information"))
    memory = f"{psutil.virtual_memory().total >> 20} MiB"
    versions = [f"{name} {version(name)}" for name in ("potluck", "torch")]
    return "|".join([platform.node(), processor(), f"{usable_cores():g} cores", memory, *gpus, *versions])


def node_fingerprint(device: str, threads: int, emulated: str = "") -> str:
    """The machine's, with how a worker was told to compute on it; `emulated` describes what node it imitates."""
    told = [f"device {device}", f"threads {threads}", emulated]
    return "|".join([hardware_fingerprint(), *(word for word in told if word)])


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    return processor_line(("model name", "Hardware")) or platform.processor()


def processor_line(names: tuple[str, ...]) -> str:
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


def _gpu(information: Path) -> str:
    """The model's line of what NVIDIA's driver says about a GPU."""
    try:
        lines = information.read_text("utf-8", "replace").splitlines()
    except OSError:
        return "an unknown GPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model")), "an unknown GPU")
