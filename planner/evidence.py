"""What is known about how good a plan is: what else was found, and what nothing can cost less than."""

from __future__ import annotations

from dataclasses import dataclass

# What the mixed-integer solver's tolerances amount to.
_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Alternative:
    """The best plan of a strategy that was not chosen.

    Attributes:
        strategy: what kind of plan it is.
        seconds: what it costs, in the seconds of the goal's aim.
        nodes: who would take part, in order.
    """

    strategy: str
    seconds: float
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """How a plan was found, and how far from the best possible it can be.

    Attributes:
        strategy: what kind of plan it is.
        method: how it was looked for.
        seconds: what it costs, in the seconds of the goal's aim (`objective`).
        bound: what no plan of the kinds that were bounded can cost less than.
    """

    strategy: str
    method: str
    seconds: float
    bound: float

    @property
    def gap(self) -> float:
        """The most that could be saved, as a fraction of the cost; 0 where the plan is the best."""
        gap = 1 - self.bound / self.seconds if self.seconds else 0.0
        return gap if gap > _SAME else 0.0

    @property
    def is_optimal(self) -> bool:
        """Whether it is proved that no other plan of the kinds that were bounded is better."""
        return self.gap == 0.0
