"""What a simulated fleet is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request: when it arrives, in seconds; tokens of its prompt; tokens that it draws."""

    at: float
    prompt: int
    tokens: int

    def __post_init__(self) -> None:
        """Refuse a request for nothing.

        Raises:
            ValueError: it arrives before time begins, or has no prompt or no tokens.
        """
        if not (0.0 <= self.at < float("inf") and self.prompt >= 1 and self.tokens >= 1):
            tokens = f"{self.prompt} and {self.tokens} tokens"
            raise ValueError(f"a request at {self.at} s of {tokens}: a time, a prompt or tokens are missing")


@dataclass(frozen=True, slots=True)
class Load:
    """Requests, in any order. The time line is of the last token of the request at `watched`."""

    arrivals: tuple[Arrival, ...]
    watched: int = 0

    def __post_init__(self) -> None:
        """Refuse a load without requests.

        Raises:
            ValueError: there are none, or not the one to be watched.
        """
        if not 0 <= self.watched < len(self.arrivals):
            raise ValueError(f"a load of {len(self.arrivals)} requests has none at {self.watched} to be watched")


def together(count: int, prompt: int, tokens: int) -> Load:
    """So many requests that are alike and arrive at once."""
    return Load((Arrival(0.0, prompt, tokens),) * count)


def random_load(rate: float, lengths: Sequence[tuple[int, int]], seed: int = 0) -> Load:
    """Requests of these (prompt, tokens), `rate` a second on average, at times that only `seed` decides."""
    random, now, arrivals = Random(seed), 0.0, []
    for prompt, tokens in lengths:
        now += random.expovariate(rate)
        arrivals.append(Arrival(now, prompt, tokens))
    return Load(tuple(arrivals))
