"""Measures this node: products of every weight format, software per layer, memory, disk. Links: `link_probe.py`.

What changes by the minute (free memory, swap) is told anew whenever somebody asks, what the hardware decides only to
who does not know it yet: a reply carries the fingerprint of what was measured, a request one that its sender knows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from potluck.models.costs import ATTENTION, NARROW
from potluck.proto import cluster_pb2 as pb
from potluck.worker.attention_speed import AttentionBench
from potluck.worker.capacity import host_memory_free, host_memory_total, swap_space, usable_cores
from potluck.worker.device import CPU, device_memory
from potluck.worker.disk_speed import DiskSpeed, measure_disk
from potluck.worker.emulation import DescribedDevice, Emulation
from potluck.worker.hardware import native_dtype
from potluck.worker.heap import give_back
from potluck.worker.kernel_speed import KernelBench, formats_here, in_turn, narrow, plain_encoding, pool_size
from potluck.worker.layer_overhead import measure_layer_overhead
from potluck.worker.sample_products import filled_pool

_DEVICE_RESERVE = 0.1  # of a GPU's: activations, logits, what kernels and libraries load
_LAST_RESERVE = 0.1  # half of what plans leave to the machine's other programs
_SECONDS = 9.0  # for products; formats that are left over then are taken to be as fast as the compute type


@dataclass(frozen=True, slots=True)
class Subject:
    """The node that is measured.

    Attributes:
        cache: where its shard files lie.
        memory: its budget in bytes, None for what is free.
        fingerprint: of its hardware, and how it was told to compute.
        emulation: the node that it imitates; the disk's speed is taken from it.
    """

    device: torch.device
    threads: int
    cache: Path
    memory: int | None
    fingerprint: str
    emulation: Emulation


def measure_node(subject: Subject, request: pb.ProbeRequest, dtype: torch.dtype) -> pb.ProbeReply:
    """What the node has and does; without what the hardware decides where the request has its fingerprint."""
    reply = _present(subject)
    if request.known == subject.fingerprint:
        reply.unchanged = True
        return reply
    begun = time.perf_counter()
    _add_speeds(reply, subject, request)
    _add_overheads(reply, subject, dtype)
    give_back()
    reply.seconds = time.perf_counter() - begun
    return reply


def _present(subject: Subject) -> pb.ProbeReply:
    """What it takes no time to ask for."""
    swap = swap_space()
    return pb.ProbeReply(
        device=subject.device.type,
        device_name=device_name(subject.device, subject.threads),
        memory_free=free_memory(subject.memory, subject.device),
        memory_total=total_memory(subject.device),
        swap_total=swap.total,
        swap_free=swap.free,
        cores=usable_cores(),
        native_dtype=device_dtype(subject.device),
        fingerprint=subject.fingerprint,
    )


def _add_speeds(reply: pb.ProbeReply, subject: Subject, request: pb.ProbeRequest) -> None:
    """Products in the compute type, and of the formats that are wanted and multiplied here."""
    plain = plain_encoding(request.dtype or "float32")
    wanted = [name for name in formats_here() if name in request.formats]
    bench = kernel_bench(subject.device, subject.emulation.device, request.dtype == "weight-only")
    until = time.perf_counter() + _SECONDS
    numbers = [plain, narrow(plain)] if _tells(subject, NARROW) else [plain]
    # A described node takes as long at every time.
    always = numbers if subject.emulation.device is None else ()
    speeds = in_turn([*numbers, *wanted], bench, lambda: time.perf_counter() > until, always)
    compute = speeds.pop(plain)
    reply.flops, reply.memory_bandwidth = compute.flops, compute.bandwidth
    for name, speed in speeds.items():
        known_as = NARROW if name == narrow(plain) else name
        reply.formats.add(format=known_as, flops=speed.flops, bandwidth=speed.bandwidth)


def _add_overheads(reply: pb.ProbeReply, subject: Subject, dtype: torch.dtype) -> None:
    """Software per layer, the disk, copies to a GPU."""
    described = subject.emulation.disk
    disk = DiskSpeed(described) if described else measure_disk(subject.cache)
    reply.disk_bandwidth, reply.disk_random = disk
    imitated = subject.emulation.device
    if subject.device.type == "cpu" and (imitated is None or imitated.layer_overhead):
        reply.layer_overhead = measure_layer_overhead(dtype, imitated)
    if _tells(subject, ATTENTION):
        speed = AttentionBench(dtype, imitated).speed()
        reply.formats.add(format=ATTENTION, flops=speed.flops, bandwidth=speed.bandwidth)
    if subject.device.type != "cpu":
        from potluck.worker.gpu.copy_speed import measure_copy_bandwidth

        # Decode steps are replayed graphs there: what a layer costs beside its kernels has never been measured.
        reply.copy_bandwidth = measure_copy_bandwidth(subject.device)


def _tells(subject: Subject, kind: str) -> bool:
    """Whether this node has a speed of its own for what is no weight format: a described one where it is described.

    On a GPU launches, which short rows have as many of, are hidden in its graphs.
    """
    imitated = subject.emulation.device
    return subject.device.type == "cpu" and (imitated is None or kind in imitated.formats)


def kernel_bench(
    device: torch.device = CPU, described: DescribedDevice | None = None, exact: bool = False
) -> KernelBench:
    """What measures products on a device, with as much memory as may be taken for it."""
    return KernelBench(filled_pool(pool_size(device, host_memory_free())), described, device, exact)


def measure_memory_bandwidth() -> float:
    """Bytes per second when matrices of float32, more than any cache holds, are multiplied by one row."""
    return in_turn(["F32"], kernel_bench(), lambda: False)["F32"].bandwidth


def free_memory(budget: int | None, device: torch.device = CPU) -> int:
    """Bytes a worker may use: the budget, or most of what the GPU, or the machine and its control groups, have free."""
    if budget is not None:
        return budget
    if device.type == "cuda":
        return int(device_memory(device)[0] * (1.0 - _DEVICE_RESERVE))
    return host_memory_free()


def memory_left(device: torch.device = CPU) -> int:
    """Bytes that may be taken when it comes to it: plans take all that was measured, and what is free changes."""
    return free_memory(None, device) if device.type == "cuda" else host_memory_free(_LAST_RESERVE)


def total_memory(device: torch.device) -> int:
    """Bytes that the device has in all."""
    return device_memory(device)[1] if device.type == "cuda" else host_memory_total()


def device_name(device: torch.device, threads: int) -> str:
    """What a person calls it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


def device_dtype(device: torch.device = CPU) -> str:
    """The compute type that is quickest without loss that matters: bfloat16 where it is multiplied natively."""
    return "bfloat16" if device.type == "cuda" else native_dtype()
