"""What a strategy is: a way to spread a model over places, with its cost and its moves, in one file."""

from __future__ import annotations

from typing import Protocol

from potluck.planner.problem import Problem, Search


class Strategy(Protocol):
    """One way to spread a model. A new one is a file with a function like this, named in `exact.STRATEGIES`."""

    def __call__(self, problem: Problem, limit: float) -> Search:
        """The best plan of this kind.

        Args:
            problem: the fleet, what is asked for, the places that may be used.
            limit: what is known to be possible, in seconds of the goal's aim; infinite where nothing is. Plans that
                cost more need not be looked for.
        """
        ...
