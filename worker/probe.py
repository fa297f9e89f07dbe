"""Measures this node: matrix products and memory of what it computes on, and disk. Links: `link_probe.py`."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from potluck.kernels.linear import Linear
from potluck.kernels.packed import PackedLinear, PackedMatrix, has_vectors
from potluck.worker.device import CPU, device_memory, wait_for
from potluck.worker.emulation import DescribedDevice
from potluck.worker.pace import at_least
from potluck.worker.residence import Product

_SIZE = 512
_DEVICE_SIZE = 4096  # smaller products do not fill a GPU
_STREAMED = 256 << 20
_MEASURE_SECONDS = 0.3
_RESERVE = 0.2  # of the free memory stays with the machine's other programs
_DEVICE_RESERVE = 0.1  # of a GPU's: activations, logits, what kernels and libraries load


def measure_flops(dtype: torch.dtype, device: torch.device = CPU, described: DescribedDevice | None = None) -> float:
    """Floating-point operations per second in matrix products of this type, as this (described) node does them."""
    size = _SIZE if device.type == "cpu" else _DEVICE_SIZE
    a = torch.randn(size, size, device=device).to(dtype)
    needed = described.seconds(2.0 * size**3, 0.0) if described else 0.0
    best, until = float("inf"), time.perf_counter() + _MEASURE_SECONDS
    while time.perf_counter() < until:
        best = min(best, _seconds(lambda: torch.mm(a, a), needed, device))
    return 2.0 * size**3 / best


def measure_memory_bandwidth(device: torch.device = CPU, described: DescribedDevice | None = None) -> float:
    """Bytes per second when a matrix larger than any cache is multiplied by one row, as a decode does."""
    if device.type == "cpu" and has_vectors():
        shape = (_STREAMED // 4 // 4096, 4096)
        weights = PackedMatrix("F32", shape, torch.zeros(_STREAMED, dtype=torch.uint8))
        product: Product = PackedLinear([weights])
    else:
        product = Linear(torch.zeros(_STREAMED // 4 // 4096, 4096, device=device))
    row = torch.ones(1, 4096, device=device)
    needed = described.seconds(0.0, _STREAMED) if described else 0.0
    return _STREAMED / min(_seconds(lambda: product(row), needed, device) for _ in range(3))


def _seconds(operation: Callable[[], object], needed: float, device: torch.device) -> float:
    """Seconds of an operation that takes the described node at least `needed`."""
    begun = time.perf_counter()
    with at_least(needed):
        operation()
        wait_for(device)
    return time.perf_counter() - begun


def free_memory(budget: int | None, device: torch.device = CPU) -> int:
    """Bytes a worker may use: the budget, or most of what the GPU, or the machine and its control group, have free."""
    if budget is not None:
        return budget
    if device.type == "cuda":
        return int(device_memory(device)[0] * (1.0 - _DEVICE_RESERVE))
    free = psutil.virtual_memory().available
    limit = _group_limit()
    if limit is not None:
        free = min(free, limit)
    return int(free * (1.0 - _RESERVE))


def total_memory(device: torch.device) -> int:
    """Bytes that the device has in all."""
    total: int = device_memory(device)[1] if device.type == "cuda" else psutil.virtual_memory().total
    return total


def device_name(device: torch.device, threads: int) -> str:
    """What a person calls it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


def native_dtype(device: torch.device = CPU) -> str:
    """The compute type that is quickest without loss that matters: bfloat16 where it is multiplied natively."""
    if device.type == "cuda":
        return "bfloat16"
    if platform.machine() == "x86_64":
        capable = _capability("avx512_bf16") or _capability("amx_bf16")
    else:
        capable = _capability("bf16")
    return "bfloat16" if capable else "float32"


def measure_disk(path: Path) -> float:
    """Bytes per second of reading this file's first part past the page cache; 0 where that cannot be measured."""
    if not hasattr(os, "posix_fadvise") or not path.is_file():
        return 0.0
    size = min(path.stat().st_size, 64 << 20)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_DONTNEED)
        begun, left = time.perf_counter(), size
        while left > 0 and (data := file.read(min(left, 4 << 20))):
            left -= len(data)
    return size / max(1e-6, time.perf_counter() - begun)


def _capability(flag: str) -> bool:
    try:
        return f" {flag}" in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False


def _group_limit() -> int | None:
    """Bytes left in this control group (v2, then v1); None without a limit."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            return max(0, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue
    return None
