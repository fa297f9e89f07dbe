"""A link that the kernel holds back: two workers, one of them in a network namespace of its own (Linux, root)."""

import os
import shutil
import subprocess
from dataclasses import dataclass

import pytest

from potluck.coordinator.calls import Callers
from potluck.coordinator.fabric import LocalFabric, WorkerLaunch
from potluck.coordinator.links import probe_links

TOKEN = "t" * 32
THERE, BACK = 80e6 / 8, 30e6 / 8  # bytes per second from a to b, and from b to a


def run(*words):
    subprocess.run(words, check=True, capture_output=True)


@dataclass(frozen=True)
class Inside(WorkerLaunch):
    """A worker in the namespace."""

    namespace: str = ""

    def command(self):
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *super().command()]


@pytest.fixture
def cable():
    """(namespace, address of this end, of the other); what leaves either end is held to its rate."""
    if os.geteuid() or not all(map(shutil.which, ("ip", "tc", "nsenter"))):
        pytest.skip("needs root, ip, tc and nsenter")
    name, net = f"plw{os.getpid()}", f"10.79.{os.getpid() % 256}"
    try:
        run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    try:
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "far", "netns", name)
        for before, device, address, rate in (([], name, 1, THERE), (["-n", name], "far", 2, BACK)):
            run("ip", *before, "addr", "add", f"{net}.{address}/30", "dev", device)
            run("ip", *before, "link", "set", device, "up")
            limit = ("rate", f"{rate * 8:.0f}bit", "burst", "32kb", "latency", "60ms")
            run("tc", *before, "qdisc", "add", "dev", device, "root", "tbf", *limit)
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name, f"{net}.1", f"{net}.2"
    finally:
        run("ip", "netns", "del", name)


def test_a_link_that_the_kernel_holds_back(cable, tmp_path):
    """Of a rate on the wire TCP carries 95 %; under load its packets queue, for up to 60 ms."""
    name, here, there = cable
    launches = [
        WorkerLaunch("a", str(tmp_path), listen=f"{here}:0"),
        Inside("b", str(tmp_path), listen=f"{there}:0", namespace=name),
    ]
    fabric = LocalFabric(launches)
    try:
        callers = Callers(fabric.start(TOKEN), TOKEN)
        assert callers.silent(["a", "b"], 0, 60.0) == {}
        found = probe_links(callers, callers.data_ports)
        callers.close()
    finally:
        fabric.stop()
    for (source, target), rate in {("a", "b"): THERE, ("b", "a"): BACK}.items():
        link = found[source, target]
        assert link.bandwidth == pytest.approx(rate, rel=0.15)
        assert link.loaded.bandwidth <= 1.15 * rate
        assert max(1e-3, 2 * link.latency) < link.loaded.latency
