"""Nodes on this machine that only the kernel holds back (root, Linux, control groups v1, tc).

Each node is a network namespace behind a bridge, with a token bucket (tbf) on both ends of its wire, a CFS quota, and a
memory limit that counts its page cache. A worker in it runs in real time and knows nothing of all this.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from potluck.coordinator.fabric import WorkerLaunch
from potluck.planner.units import BYTES_PER_SECOND, parse, parse_bytes

_GROUPS = Path("/sys/fs/cgroup")
# Short, so that a token takes many periods. The kernel's clock ticks every 4 ms; it carries over what was too much.
_PERIOD_US = 10_000
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
    """A node that is up: its namespace, address and control groups."""

    name: str
    space: str
    address: str
    groups: tuple[Path, Path]


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
        entered = ["env", f"CPU={cpu}", f"MEMORY={memory}", "sh", "-c", _ENTER, "sh"]
        return ["nsenter", f"--net=/run/netns/{self.within.space}", *entered, *words]


def why_not() -> str:
    """Why nodes cannot be held here; empty where they can."""
    if os.geteuid() != 0:
        return "needs root"
    if missing := [one for one in ("ip", "tc", "nsenter") if shutil.which(one) is None]:
        return f"needs {missing[0]}"
    if not (_GROUPS / "cpu" / "cpu.cfs_quota_us").exists() and not (_GROUPS / "cpu").is_dir():
        return "needs control groups v1"
    return ""


@contextlib.contextmanager
def held(holds: Mapping[str, Hold]) -> Iterator[list[HeldNode]]:
    """Nodes of these names, up; gone afterwards, whatever happens."""
    bridge, number = f"plk{os.getpid() % 10000}", os.getpid() % 200
    nodes = [
        HeldNode(name, f"{bridge}n{place}", f"10.79.{number}.{place + 1}", _groups(name))
        for place, name in enumerate(holds)
    ]
    try:
        _run(f"ip link add {bridge} type bridge", f"ip link set {bridge} up")
        for node in nodes:
            _wire(node, bridge, holds[node.name].rate)
            _limit(node, holds[node.name])
        yield nodes
    finally:
        for node in nodes:
            subprocess.run(["ip", "netns", "del", node.space], check=False, capture_output=True)
            for group in node.groups:
                with contextlib.suppress(OSError):
                    group.rmdir()
        subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)


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
    (cpu / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
    (cpu / "cpu.cfs_quota_us").write_text(str(round(_PERIOD_US * hold.cpu / 100)))
    (memory / "memory.limit_in_bytes").write_text(str(hold.memory))


def _run(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True, capture_output=True, text=True)
