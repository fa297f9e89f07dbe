"""What a plan is predicted to do: times, what they are made of, and bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from operator import add, attrgetter

from potluck.planner.fleet import NodeName


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, by what they are spent on; they add up.

    Attributes:
        compute: parts whose operations bound them.
        memory: parts bound by reading weights and KV from memory.
        wait: for slower members of a group, and for steps ahead.
        disk: streamed layers that were not there when they were needed; what was read meanwhile is not counted.
        transfer: hops: latency and bytes on the wire.
        sums: all-reduces of a group and its gather of logits: latency and bytes on the wire.
        software: fixed costs (`potluck.planner.software`).
    """

    compute: float = 0.0
    memory: float = 0.0
    wait: float = 0.0
    disk: float = 0.0
    transfer: float = 0.0
    sums: float = 0.0
    software: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.compute + self.memory + self.wait + self.disk + self.transfer + self.sums + self.software

    @property
    def working(self) -> float:
        """What the nodes of a stage are at it for: all but hops and what software adds to them."""
        return self.compute + self.memory + self.wait + self.disk + self.sums

    def __add__(self, other: Times) -> Times:
        """Both, one after the other."""
        return Times(*map(add, _seconds(self), _seconds(other)))


KINDS = tuple(entry.name for entry in fields(Times))
_seconds: Callable[[Times], tuple[float, ...]] = attrgetter(*KINDS)


def together(times: Iterable[Times]) -> Times:
    """Some times, one after the other."""
    return Times(*map(sum, zip(*map(_seconds, times), strict=True)))


@dataclass(frozen=True, slots=True)
class Breakdown:
    """What a time is made of, stage by stage.

    `stages[i]` has the hop into stage i; the first has the way from the engine and the step's software, too, the last
    the way back. `total` is their sum, with the wait for other steps.
    """

    total: Times
    stages: tuple[Times, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the planner expects of a plan's first route.

    Attributes:
        time_to_first_token: seconds from a request's arrival, `Goal.prompt` tokens long, at an idle fleet.
        time_per_token: seconds between tokens of one request while `Goal.batch` of them decode, `Goal.context` long.
        weight_bytes, kv_bytes: per node.
        memory_bytes: per node, of both what is in its memory at once, with all that streaming may take; empty where a
            plan file did not say.
        tokens_per_second: of all serving routes together, with every step in flight and at least `Goal.batch` requests
            on each route; 0 where not predicted.
        bottleneck: what a token spends most of its time on: `node a`, `disk of a`, `link a -> b` or `sums of a, b`;
            with steps in flight that wait, what they wait for.
        prefill, decode: what the two times are made of; None where a plan file did not say.
    """

    time_to_first_token: float
    time_per_token: float
    weight_bytes: Mapping[NodeName, int] = field(default_factory=dict)
    kv_bytes: Mapping[NodeName, int] = field(default_factory=dict)
    tokens_per_second: float = 0.0
    bottleneck: str = ""
    prefill: Breakdown | None = None
    decode: Breakdown | None = None
    memory_bytes: Mapping[NodeName, int] = field(default_factory=dict)
