"""The memory of an emulated node, held by the kernel."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_ALLOWANCE = 768 << 20  # buffers, thread stacks and allocator slack on top of an emulated node's budget


def limit_memory(budget: int) -> None:
    """Let the kernel refuse what an emulated node would not have (Linux: private writable memory)."""
    if sys.platform != "linux":
        return
    data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = data + budget + _ALLOWANCE
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
