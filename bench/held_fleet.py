"""Nodes on this machine that only the kernel holds back (root, Linux, control groups v1, tc).

Each node is a network namespace behind a bridge, with a token bucket (tbf) on both ends of its wire, a CFS quota on one
processor, and a memory limit that counts page cache. A worker in it runs in real time and knows nothing of all this.

A quota alone is no slow processor: a stage that was idle finds the quota of its period unspent and runs at full speed
until that is gone. So a process of the lowest class, which any other stops at once, spends what a node leaves.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from potluck.coordinator.fabric import WorkerLaunch
from potluck.planner.units import BYTES_PER_SECOND, parse, parse_bytes

_GROUPS = Path("/sys/fs/cgroup")
# The kernel's tick, at which quotas are looked at: so 2 to 17 ms of work took within 12 % of what they should,
# with other periods up to three times that. The kernel hands out no less than 1 ms.
_PERIOD_US, _LEAST_US = 4_000, 1_000
_ENTER = 'for group in "$CPU" "$MEMORY"; do echo $$ > "$group/cgroup.procs"; done; exec "$@"'


@dataclass(frozen=True, slots=True)
class Hold:
    """What the kernel leaves a node: hundredths of one core, bytes of memory, bytes per second in and out."""

    cpu: float
    memory: int
    rate: float

    @classmethod
    def of(cls, data: Mapping[str, object]) -> Hold:
        """From its line in accuracy_fleets.yaml."""
        return cls(float(str(data["cpu"])), parse_bytes(data["memory"]), parse(data["rate"], BYTES_PER_SECOND))


@dataclass(frozen=True, slots=True)
class HeldNode:
    """A node that is up: its namespace, address, control groups and processor."""

    name: str
    space: str
    address: str
    groups: tuple[Path, Path]
    core: int


@dataclass(frozen=True, slots=True)
class HeldLaunch(WorkerLaunch):
    """A worker that starts inside a held node."""

    within: HeldNode | None = None

    def command(self) -> list[str]:
        """The command line, which enters namespace and groups first."""
        words = super(HeldLaunch, self).command()
        if self.within is None:
            return words
        cpu, memory = self.within.groups
        entered = [
            "taskset",
            "-c",
            str(self.within.core),
            "env",
            f"CPU={cpu}",
            f"MEMORY={memory}",
            "sh",
            "-c",
            _ENTER,
            "sh",
        ]
        return ["nsenter", f"--net=/run/netns/{self.within.space}", *entered, *words]


def why_not() -> str:
    """Why nodes cannot be held here; empty where they can."""
    if os.geteuid() != 0:
        return "needs root"
    if missing := [one for one in ("ip", "tc", "nsenter", "taskset") if shutil.which(one) is None]:
        return f"needs {missing[0]}"
    if not (_GROUPS / "cpu" / "cpu.cfs_quota_us").exists() and not (_GROUPS / "cpu").is_dir():
        return "needs control groups v1"
    return ""


@contextlib.contextmanager
def held(holds: Mapping[str, Hold]) -> Iterator[list[HeldNode]]:
    """Nodes of these names, up; gone afterwards, whatever happens."""
    idlers: list[subprocess.Popen[bytes]] = []
    cores = _cores(holds)
    bridge, number = f"plk{os.getpid() % 10000}", os.getpid() % 200
    nodes = [
        HeldNode(name, f"{bridge}n{place}", f"10.79.{number}.{place + 1}", _groups(name), cores[name])
        for place, name in enumerate(holds)
    ]
    try:
        _run(f"ip link add {bridge} type bridge", f"ip link set {bridge} up")
        for node in nodes:
            _wire(node, bridge, holds[node.name].rate)
            _limit(node, holds[node.name])
            idlers.append(_idler(node))
        yield nodes
    finally:
        for idler in idlers:
            idler.kill()
            idler.wait()
        for node in nodes:
            subprocess.run(["ip", "netns", "del", node.space], check=False, capture_output=True)
            for group in node.groups:
                with contextlib.suppress(OSError):
                    group.rmdir()
        subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)


def _cores(holds: Mapping[str, Hold]) -> dict[str, int]:
    """A processor for each node, the largest first, always the one that has least to do.

    What keeps a small node's quota busy weighs as much as a worker beside it: only within a group is it of the lowest
    class. With its 25 % on the core of a node of 60 % that one's tokens took 40 ms, of 34 predicted.
    """
    busy, cores = [0.0] * (os.cpu_count() or 1), {}
    for name, hold in sorted(holds.items(), key=lambda item: -item[1].cpu):
        cores[name] = busy.index(min(busy))
        busy[cores[name]] += hold.cpu
    return cores


def _groups(name: str) -> tuple[Path, Path]:
    own = f"potluck_{name}_{os.getpid()}"
    return _GROUPS / "cpu" / own, _GROUPS / "memory" / own


def _wire(node: HeldNode, bridge: str, rate: float) -> None:
    inside, outside = "eth0", node.space
    shaped = f"root tbf rate {round(8 * rate)}bit burst 64kb latency 200ms"
    _run(
        f"ip netns add {node.space}",
        f"ip link add {outside} type veth peer name {inside} netns {node.space}",
        f"ip link set {outside} master {bridge} up",
        f"ip -n {node.space} link set lo up",
        f"ip -n {node.space} addr add {node.address}/24 dev {inside}",
        f"ip -n {node.space} link set {inside} up",
        f"tc -n {node.space} qdisc add dev {inside} {shaped}",
        f"tc qdisc add dev {outside} {shaped}",
    )


def _limit(node: HeldNode, hold: Hold) -> None:
    cpu, memory = node.groups
    for group in node.groups:
        group.mkdir()
    period = max(_PERIOD_US, round(_LEAST_US * 100 / hold.cpu))
    (cpu / "cpu.cfs_period_us").write_text(str(period))
    (cpu / "cpu.cfs_quota_us").write_text(str(round(period * hold.cpu / 100)))
    (memory / "memory.limit_in_bytes").write_text(str(hold.memory))


def _idler(node: HeldNode) -> subprocess.Popen[bytes]:
    """Spends the time that the node's worker leaves."""

    def enter() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.sched_setaffinity(0, {node.core})
        (node.groups[0] / "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=enter)  # noqa: PLW1509 - this process has one thread


def _run(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True, capture_output=True, text=True)
