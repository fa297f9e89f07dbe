"""Limits of the control groups that this process is in: memory, swap, processor time. Linux; elsewhere there are none.

A process is in a group of each hierarchy, and the limits of all groups above hold, too. In a container the path that
the kernel tells may be the host's: what is not there is passed over, down to the root that the container sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the groups allow; None without a limit.

    Attributes:
        memory, memory_left: bytes in all, and that are left. Pages of files that the system may take back are left.
        swap, swap_left: bytes.
        cores: processors' worth of time.
    """

    memory: int | None = None
    memory_left: int | None = None
    swap: int | None = None
    swap_left: int | None = None
    cores: float | None = None


def read_limits(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> Limits:
    """The least of what every group allows."""
    groups = list(_groups(root, membership))
    memory = [found for group in groups if (found := _memory(group))]
    swap = [found for group in groups if (found := _swap(group))]
    return Limits(
        memory=min((limit for limit, _ in memory), default=None),
        memory_left=min((max(0, limit - used) for limit, used in memory), default=None),
        swap=min((limit for limit, _ in swap), default=None),
        swap_left=min((max(0, limit - used) for limit, used in swap), default=None),
        cores=min((cores for group in groups if (cores := _cores(group))), default=None),
    )


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """The folders of all groups: of version 2, and of version 1's hierarchies for memory and processor time."""
    try:
        lines = membership.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = [""] if number == "0" else [name for name in controllers.split(",") if name in ("memory", "cpu")]
        for name in names:
            # Where both versions are mounted, the second has a folder of its own.
            for top in [root / name] if name else [root, root / "unified"]:
                yield from _upwards(top, path)


def _upwards(top: Path, path: str) -> Iterator[Path]:
    own = PurePosixPath("/", path)
    for group in (own, *own.parents):
        folder = top / str(group).lstrip("/")
        if ".." not in group.parts and folder.is_dir():
            yield folder


def _memory(group: Path) -> tuple[int, int] | None:
    """Limit and use; pages of files count as used by nobody, those of shards that were let go of included."""
    for limit, used, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        most, taken = _number(group / limit), _number(group / used)
        if most is not None and taken is not None:
            pages = [_entry(group / "memory.stat", f"{prefix}{kind}_file") for kind in ("active", "inactive")]
            return most, max(0, taken - sum(pages))
    return None


def _swap(group: Path) -> tuple[int, int] | None:
    """Limit and use; version 1 limits memory and swap together, and is passed over."""
    most, taken = _number(group / "memory.swap.max"), _number(group / "memory.swap.current")
    return None if most is None or taken is None else (most, taken)


def _cores(group: Path) -> float | None:
    quota, period = _words(group / "cpu.max", 2) or [
        *(_words(group / "cpu.cfs_quota_us", 1) or ["max"]),
        *(_words(group / "cpu.cfs_period_us", 1) or ["0"]),
    ]
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return None
    return int(quota) / int(period)


def _number(path: Path) -> int | None:
    """The number that a file has; None where it is missing, says `max`, or has version 1's for no limit."""
    words = _words(path, 1)
    if not words or not words[0].isdigit():
        return None
    # Version 1 says the largest number of pages.
    return number if (number := int(words[0])) < 1 << 60 else None


def _entry(path: Path, name: str) -> int:
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return 0
    return next((int(value) for key, _, value in (line.partition(" ") for line in lines) if key == name), 0)


def _words(path: Path, count: int) -> list[str] | None:
    try:
        words = path.read_text("utf-8").split()
    except OSError:
        return None
    return words if len(words) == count else None
