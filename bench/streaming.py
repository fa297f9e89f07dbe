"""What prefetching is worth to a ring whose weights do not fit its memory, on a disk of a stated speed.

    python bench/streaming.py [--disk 400] [--json] [--save]

One node of a ring (`streamed_ring.py`): three windows of 66 MiB, memory for two of them beside the process, and half a
second for the other nodes after each window. Needs root and control groups v1: the memory limit and the disk's speed
(MB/s, 0 for as fast as it is) are the kernel's own. Every figure is a median over the steps after the first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kept import keep
from pipeline import machine

_GROUPS = Path("/sys/fs/cgroup")
_MEMORY = 310 << 20
_RING = Path(__file__).with_name("streamed_ring.py")


@contextlib.contextmanager
def limits(disk: int, folder: Path) -> Iterator[list[Path]]:
    """Control groups with the memory limit and the disk's speed; what a process has to be written into."""
    device = folder.stat().st_dev
    groups = [_GROUPS / kind / f"potluck_bench_{os.getpid()}" for kind in ("memory", *(["blkio"] if disk else []))]
    for group in groups:
        group.mkdir()
    try:
        (groups[0] / "memory.limit_in_bytes").write_text(str(_MEMORY))
        if disk:
            speed = f"{os.major(device)}:{os.minor(device)} {disk * 1_000_000}"
            (groups[1] / "blkio.throttle.read_bps_device").write_text(speed)
        yield [group / "cgroup.procs" for group in groups]
    finally:
        for group in groups:
            with contextlib.suppress(OSError):
                group.rmdir()


def ring(folder: Path, mode: str, disk: int) -> dict[str, float]:
    """Medians of one mode."""
    with limits(disk, folder) as entries:

        def enter() -> None:
            for entry in entries:
                entry.write_text(str(os.getpid()))

        command = [sys.executable, str(_RING), str(folder), mode]
        done = subprocess.run(command, preexec_fn=enter, capture_output=True, text=True, timeout=600, check=True)
    steps = json.loads(done.stdout)[1:]
    return {name: round(statistics.median(step[name] for step in steps), 3) for name in steps[0]}


@contextlib.contextmanager
def read_ahead(folder: Path, kib: int) -> Iterator[str]:
    """The disk with this read-ahead (0: as it is), and what it then is, in KiB."""
    device = folder.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    setting = next(place / "queue/read_ahead_kb" for place in (block, block.parent) if (place / "queue").is_dir())
    before = setting.read_text()
    try:
        if kib:
            setting.write_text(str(kib))
        yield setting.read_text().strip()
    finally:
        setting.write_text(before)


def table(found: dict[str, dict[str, float]]) -> str:
    """The results as Markdown."""
    rows = [
        "| | read per step, of the shard | windows there before their compute | computing and waiting, s per step |",
        "|---|---|---|---|",
    ]
    for mode, row in found.items():
        rows.append(f"| {mode} | {row['read']:.3f} | {row['resident']:.0%} | {row['busy']:.3f} |")
    return "\n".join(rows)


def speed_ups(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """The node's turns, and whole steps with the other nodes' 1.5 s, without prefetching over with it."""
    ups = {}
    for mode, row in found.items():
        if mode.startswith("prefetch"):
            without = found[mode.replace("prefetch", "none")]["busy"]
            ups[mode.replace("prefetch, ", "turns, ")] = round(without / row["busy"], 1)
            ups[mode.replace("prefetch, ", "steps, ")] = round((without + 1.5) / (row["busy"] + 1.5), 2)
    return ups


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--disk", type=int, default=400, help="MB/s the disk may give; 0: all it has (default: 400)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", action="store_true", help="keep the table in bench/results/streaming.md")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        folder = Path(place)
        subprocess.run([sys.executable, str(_RING), place, "none", "build"], check=True)
        found = {}
        for kib in (0, 128):
            with read_ahead(folder, kib) as ahead:
                for mode in ("prefetch", "none"):
                    found[f"{mode}, read_ahead_kb {ahead}"] = ring(folder, mode, flags.disk)
    results = found | {"speed_up": speed_ups(found)}
    print(json.dumps(results, indent=2) if flags.json else table(found))
    if flags.save:
        where = f"{machine()}; disk held to {flags.disk} MB/s; {time.strftime('%Y-%m-%d')}"
        said = "\n".join(f"- {what}: {times}" for what, times in speed_ups(found).items())
        text = (
            f"# bench/streaming.py\n\n{where}\n\n{table(found)}\n\nTimes faster than without prefetching:\n\n{said}\n"
        )
        keep("streaming", text)


if __name__ == "__main__":
    main()
