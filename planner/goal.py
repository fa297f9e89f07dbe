"""What a plan shall be good for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from potluck.models.sizes import itemsize
from potluck.planner.fleet import NodeName
from potluck.planner.software import MEASURED, Software

Aim = Literal["latency", "throughput", "balanced"]
Spread = Literal["best", "all", "fewest"]
Solver = Literal["exact", "proportional"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What to plan for, and what to predict.

    Attributes:
        dtype: compute type, one of `models.sizes.ITEMSIZE`.
        kv_tokens: tokens of KV that all requests together may hold; every node keeps this much for its layers.
        rounds: how often a token goes round the nodes (piped ring, PRIMA.CPP); 1 lets the exact solver choose.
        spread: `best` leaves out the nodes that would not help (the proportional solver takes all); `all` gives every
            node at least one layer where memory and the number of layers allow; `fewest` uses as few nodes as can
            hold the model, and of such sets the best (the proportional solver prefers those with the engine's node).
        excluded: nodes that get nothing.
        pinned: nodes that must get a layer.
        model: the name the plan carries; the spec's own where empty.
        context: tokens in the KV when the time per token is predicted.
        prompt: tokens of the prompt whose time to the first token is predicted.
        chunk: most rows of a step; longer prompts are computed in chunks.
        batch: requests that decode at once when the time per token is predicted.
        software: what software adds to every step, stage, frame and sum.
        grouping: whether nodes may run stages together.
        streaming: whether layers that no memory has room for may be read from disk for every step.
        aim: `latency` is the time per token of one user who has the fleet to himself; `throughput` the time between
            tokens with a step in flight for every node; `balanced` the sum of both.
        solver: `exact` chooses among all strategies (`exact.py`); `proportional` splits by speed, for comparison.
        shares: what a node may at most be burdened with: that fraction of its memory, and of the time that a token
            takes. Above 0, at most 1.
    """

    dtype: str = "float32"
    kv_tokens: int = 8192
    rounds: int = 1
    spread: Spread = "best"
    excluded: frozenset[NodeName] = frozenset()
    pinned: frozenset[NodeName] = frozenset()
    model: str = ""
    context: int = 256
    prompt: int = 128
    chunk: int = 512
    streaming: bool = True
    aim: Aim = "latency"
    solver: Solver = "exact"
    shares: Mapping[NodeName, float] = field(default_factory=dict)
    batch: int = 1
    software: Software = MEASURED
    grouping: bool = True

    def __post_init__(self) -> None:
        """Refuse what no plan could meet.

        Raises:
            ValueError: an unknown dtype, spread, aim or solver, a number below one, a share out of range, or a node
                that is both to be used and not to be.
        """
        itemsize(self.dtype)
        for name, known in (("spread", Spread), ("aim", Aim), ("solver", Solver)):
            if getattr(self, name) not in get_args(known):
                listed = ", ".join(repr(one) for one in get_args(known))
                raise ValueError(f"{name} {getattr(self, name)!r} is not known; use one of {listed}")
        for name in ("kv_tokens", "rounds", "context", "prompt", "chunk", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if both := sorted(self.pinned & self.excluded):
            raise ValueError(f"node {both[0]!r} is both pinned and excluded; choose one")
        self._check_shares()

    @property
    def named(self) -> frozenset[NodeName]:
        """Every node that the goal speaks of."""
        return self.excluded | self.pinned | frozenset(self.shares)

    def share(self, node: NodeName) -> float:
        """The fraction of its memory and of a token's time that a node may be burdened with."""
        return self.shares.get(node, 1.0)

    def _check_shares(self) -> None:
        for node, share in self.shares.items():
            if share == 0:
                raise ValueError(f"node {node!r} has a share of 0%; exclude it instead")
            if not 0 < share <= 1:
                raise ValueError(f"node {node!r} has a share of {share:.0%}; a share is above 0% and at most 100%")
            if node in self.excluded:
                raise ValueError(f"node {node!r} is excluded, but has a share of {share:.0%}; choose one")
