"""A memory limit on a process, by control group v1 or v2 (root). Test modules use the fixture `memory_limit`."""

import contextlib
import os
from pathlib import Path

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@contextlib.contextmanager
def limited(name, nbytes):
    """A function for Popen's preexec_fn that puts the process into a group of so many bytes.

    Raises:
        OSError: groups cannot be made here.
    """
    parent, limit = (V1, "memory.limit_in_bytes") if (V1 / "memory.limit_in_bytes").exists() else (V2, "memory.max")
    group = parent / f"potluck_{name}_{os.getpid()}"
    group.mkdir()
    try:
        (group / limit).write_text(str(nbytes))
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()
