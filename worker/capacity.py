"""What this machine has, and has left: memory, swap, processors; control groups' limits heeded. Needs no torch."""

from __future__ import annotations

import os
from typing import NamedTuple

import psutil

from potluck.worker.control_groups import read_limits

_RESERVE = 0.2  # of the free memory stays with the machine's other programs


class Swap(NamedTuple):
    """Bytes in all, and free."""

    total: int
    free: int


def host_memory_free(reserve: float = _RESERVE) -> int:
    """Bytes that a worker may use of the host's memory: what the machine and its control groups have free, but for a
    reserve of it."""
    left = read_limits().memory_left
    free: int = psutil.virtual_memory().available
    return int((free if left is None else min(free, left)) * (1.0 - reserve))


def host_memory_total() -> int:
    """Bytes of the host's memory that this process could have at most."""
    limit, total = read_limits().memory, int(psutil.virtual_memory().total)
    return total if limit is None else min(total, limit)


def swap_space() -> Swap:
    """The machine's swap, or what control groups allow of it."""
    limits, swap = read_limits(), psutil.swap_memory()
    total = swap.total if limits.swap is None else min(swap.total, limits.swap)
    return Swap(total, swap.free if limits.swap_left is None else min(swap.free, limits.swap_left))


def usable_cores() -> float:
    """Processors that this process may run on, as many as control groups give time for; hyper-threads count."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    quota = read_limits().cores
    return count if quota is None else min(count, quota)


def default_threads() -> int:
    """Compute threads where nobody says how many: one per physical core that may be used."""
    return max(1, min(psutil.cpu_count(logical=False) or 1, int(usable_cores())))
