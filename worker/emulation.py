"""Makes this process behave like the node of a described fleet: slower compute, slower links."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from potluck.proto.shaper import Shape

_SLOWEST = 1e6


@dataclass(frozen=True, slots=True)
class Emulation:
    """How the emulated node differs from this machine.

    Attributes:
        slow_down: factor on the CPU time of every operation, at least 1.
        links: shapes of the links to other nodes; "" holds for nodes not named.
        disk: bytes per second at which streamed weights are read, 0 for as fast as it goes.
    """

    slow_down: float = 1.0
    links: Mapping[str, Shape] = field(default_factory=dict)
    disk: float = 0.0

    def link(self, node: str) -> Shape:
        """The shape of the link to a node."""
        return self.links.get(node) or self.links.get("") or Shape()


def sleep_precisely() -> None:
    """Let sleeps of this thread, and of those it starts, end some 10 us late instead of 60 (Linux).

    The kernel gathers wake-ups within 50 us unless told otherwise, which is a sixth of a wired link's latency.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1000")


def read_emulation(text: str) -> Emulation:
    """The value of `--emulate`: {"slow_down": 2.0, "links": {"other": [latency_s, bytes_per_s], ...}, "disk": 1e9}.

    Raises:
        ValueError: it is not of that form.
    """
    try:
        data = json.loads(text)
        links = {str(node): Shape(float(link[0]), float(link[1])) for node, link in data.get("links", {}).items()}
        slow_down, disk = float(data.get("slow_down", 1.0)), float(data.get("disk", 0.0))
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"--emulate is not of the form described in --help: {error}") from None
    if not 1.0 <= slow_down <= _SLOWEST:
        raise ValueError(f"--emulate: slow_down must be between 1 and {_SLOWEST:.0f}, not {slow_down}")
    if not 0.0 <= disk < float("inf"):
        raise ValueError(f"--emulate: disk must be bytes per second, not {disk}")
    return Emulation(slow_down, links, disk)


class Slowness:
    """Pads the CPU time of operations of one thread, so that waiting for a core is not counted twice."""

    def __init__(self, slow_down: float) -> None:
        self._extra = slow_down - 1.0
        self._owed = self._begun = 0.0

    @contextmanager
    def around(self) -> Iterator[None]:
        """Sleep after the operation for what the described node would need on top.

        Sleeps overshoot by some 20 us; what was slept too much is owed to the next operation.
        """
        if self._extra <= 0.0:
            yield
            return
        self._begun = time.thread_time()
        yield
        self._pay()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Within an operation: what is not computing, and begins when the described node would be done so far."""
        if self._extra <= 0.0:
            yield
            return
        self._pay()
        yield
        self._begun = time.thread_time()

    def _pay(self) -> None:
        self._owed += (time.thread_time() - self._begun) * self._extra
        if self._owed > 0.0:
            slept = time.perf_counter()
            time.sleep(self._owed)
            self._owed -= time.perf_counter() - slept
