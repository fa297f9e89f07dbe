"""What a simulation found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """What was done on a `node a`, a `link a -> b` or a `disk of a`, from one second to another."""

    resource: str
    start: float
    end: float
    what: str


@dataclass(frozen=True, slots=True)
class Served:
    """One request, in seconds: when it arrived, and when each of its tokens was back at the engine."""

    at: float
    tokens_at: tuple[float, ...]

    @property
    def time_to_first_token(self) -> float:
        """Seconds from its arrival."""
        return self.tokens_at[0] - self.at

    @property
    def time_per_token(self) -> float | None:
        """Mean seconds between its tokens; None of a single one."""
        if len(self.tokens_at) == 1:
            return None
        return (self.tokens_at[-1] - self.tokens_at[0]) / (len(self.tokens_at) - 1)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """The smallest values that so many of a hundred requests do not exceed; 0 where there are none."""

    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a fleet did with a load.

    Attributes:
        requests: in the order of the load.
        seconds: from the first arrival to the last token.
        tokens_per_second: drawn tokens in that time.
        time_to_first_token, time_per_token: seconds, over requests; a request's time per token is its mean.
        busy: the fraction of `seconds` that every node computed, link sent and disk read; what was never used is not
            named. Several steps may be on a link, so latency does not count.
        timeline: one token of one request: what was done for it, and which layers were read meanwhile; by start.
        events: how many there were.
    """

    requests: tuple[Served, ...]
    seconds: float
    tokens_per_second: float
    time_to_first_token: Percentiles
    time_per_token: Percentiles
    busy: Mapping[str, float]
    timeline: tuple[Span, ...]
    events: int


def percentiles(values: Iterable[float]) -> Percentiles:
    """By the nearest rank."""
    ordered = sorted(values)
    if not ordered:
        return Percentiles()
    return Percentiles(*(ordered[-(-len(ordered) * percent // 100) - 1] for percent in (50, 90, 99)))
