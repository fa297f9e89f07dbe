"""What a plan shall be good for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from potluck.planner.costs import itemsize
from potluck.planner.fleet import NodeName
from potluck.planner.software import MEASURED, Software


@dataclass(frozen=True, slots=True)
class Goal:
    """What to plan for, and what to predict.

    Attributes:
        dtype: compute type, one of `costs.ITEMSIZE`.
        kv_tokens: tokens of KV that all requests together may hold; every node keeps this much for its layers.
        rounds: how often a token goes round the nodes (piped ring, PRIMA.CPP).
        spread: `all` gives every node at least one layer where memory and the number of layers allow; `fewest` uses
            as few nodes as can hold the model, the engine's among them if that takes no more, and of such sets the
            one with the least time per token.
        excluded: nodes that get nothing.
        pinned: nodes that must get a layer.
        model: the name the plan carries; the spec's own where empty.
        context: tokens in the KV when the time per token is predicted.
        prompt: tokens of the prompt whose time to the first token is predicted.
        chunk: most rows of a step; longer prompts are computed in chunks.
        batch: requests that decode at once when the time per token is predicted.
        software: what software adds to every step, stage, frame and sum.
        streaming: whether layers that no memory has room for may be read from disk for every step.
    """

    dtype: str = "float32"
    kv_tokens: int = 8192
    rounds: int = 1
    spread: Literal["all", "fewest"] = "all"
    excluded: frozenset[NodeName] = frozenset()
    pinned: frozenset[NodeName] = frozenset()
    model: str = ""
    context: int = 256
    prompt: int = 128
    chunk: int = 512
    streaming: bool = True
    batch: int = 1
    software: Software = MEASURED

    def __post_init__(self) -> None:
        """Refuse what no plan could meet.

        Raises:
            ValueError: an unknown dtype or spread, a number below one, or a node both pinned and excluded.
        """
        itemsize(self.dtype)
        if self.spread not in ("all", "fewest"):
            raise ValueError(f"spread {self.spread!r} is not known; use 'all' or 'fewest'")
        for name in ("kv_tokens", "rounds", "context", "prompt", "chunk", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if both := sorted(self.pinned & self.excluded):
            raise ValueError(f"node {both[0]!r} is both pinned and excluded; choose one")
