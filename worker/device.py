"""What a worker computes on: the CPU, or the first GPU that CUDA shows."""

from __future__ import annotations

from importlib import import_module

import torch

CPU = torch.device("cpu")
# Older ones have no bfloat16 in their matrix units, and Triton does not compile for them.
_LEAST_CAPABILITY = (8, 0)


class DeviceError(Exception):
    """The device that was asked for cannot be had; one line."""


def choose_device(wanted: str) -> torch.device:
    """The device of `auto`, `cpu` or `cuda`; auto takes a GPU where one can be used.

    Raises:
        DeviceError: `cuda` cannot be had; the message says why.
    """
    missing = "" if wanted == "cpu" else _missing()
    if wanted == "cuda" and missing:
        raise DeviceError(f"--device cuda: {missing}")
    return CPU if wanted == "cpu" or missing else torch.device("cuda", 0)


def wait_for(device: torch.device) -> None:
    """Return once the device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_memory(device: torch.device) -> tuple[int, int]:
    """Bytes that are free on a GPU and bytes that it has. What torch keeps for its next tensors is free."""
    free, total = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total


def _missing() -> str:
    """Why no GPU can be used here, or nothing."""
    if not torch.cuda.is_available():
        return "torch finds no GPU; this machine has none, or torch was installed without CUDA"
    capability = torch.cuda.get_device_capability(0)
    # On AMD's these numbers mean something else.
    if not torch.version.hip and capability < _LEAST_CAPABILITY:
        found, least = (".".join(map(str, version)) for version in (capability, _LEAST_CAPABILITY))
        return f"the GPU has compute capability {found}; {least} is the least that the kernels need"
    try:
        import_module("triton")
    except ImportError:
        return "Triton is not installed, which the GPU's kernels are written in (pip install triton)"
    return ""
