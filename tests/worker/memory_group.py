"""A memory limit on a process, by control group v1 or v2 (root). Test modules use the fixture `memory_limit`."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from potluck.coordinator.processes import WorkerLaunch

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@contextlib.contextmanager
def limited(name, nbytes):
    """A function for Popen's preexec_fn that puts the process into a group of so many bytes.

    Raises:
        OSError: groups cannot be made here.
    """
    with group_of(name, nbytes) as group:
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()))


@contextlib.contextmanager
def limited_launch(name, nbytes):
    """A WorkerLaunch whose worker is in a group of so many bytes.

    Raises:
        OSError: groups cannot be made here.
    """
    with group_of(name, nbytes) as group:

        @dataclass(frozen=True, slots=True)
        class Limited(WorkerLaunch):
            def command(self):
                enter = f'echo $$ > "{group}/cgroup.procs"; exec "$@"'
                return ["sh", "-c", enter, "sh", *WorkerLaunch.command(self)]

        yield Limited


@contextlib.contextmanager
def group_of(name, nbytes):
    """The folder of a control group of so many bytes."""
    parent, limit = (V1, "memory.limit_in_bytes") if (V1 / "memory.limit_in_bytes").exists() else (V2, "memory.max")
    group = parent / f"potluck_{name}_{os.getpid()}"
    group.mkdir()
    try:
        (group / limit).write_text(str(nbytes))
        yield group
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()
