"""What the planner returns: routes of stages, and who holds what share of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from potluck.models.spec import Part, PartKind
from potluck.planner.all_reduce import AllReduce
from potluck.planner.evidence import Alternative, Proof
from potluck.planner.fleet import NodeName
from potluck.planner.prediction import Prediction
from potluck.planner.share import WHOLE, Residency, Share

__all__ = ["WHOLE", "Plan", "Prediction", "Purpose", "Residency", "Route", "Share", "Stage"]


class Purpose(StrEnum):
    """What a route of a deployment is for."""

    SERVE = "serve"
    PREFILL = "prefill"
    DECODE = "decode"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive parts executed by a group.

    `shares` is the group of every part, except of kinds named in `groups`: there a part kind (FFN, say) runs on a
    group of its own (disaggregated attention and experts). The first share's node leads: it passes on what comes out.
    `all_reduce` is how the group is to form its sums.
    """

    parts: tuple[Part, ...]
    shares: tuple[Share, ...]
    groups: Mapping[PartKind, tuple[Share, ...]] = field(default_factory=dict)
    all_reduce: AllReduce = field(default_factory=AllReduce)

    def group(self, kind: PartKind) -> tuple[Share, ...]:
        """The shares of the nodes that run parts of this kind."""
        return self.groups.get(kind, self.shares)

    @property
    def is_group(self) -> bool:
        """Whether several nodes run it together."""
        return len(self.shares) > 1 or bool(self.groups)

    @property
    def nodes(self) -> tuple[NodeName, ...]:
        """The nodes of `shares`, the lead first."""
        return tuple(share.node for share in self.shares)

    @property
    def node(self) -> NodeName:
        """The one node of a single-node stage.

        Raises:
            ValueError: the stage has a group of several nodes.
        """
        if self.is_group:
            raise ValueError("a stage run by a group has no single node")
        return self.shares[0].node

    @property
    def has_embedding(self) -> bool:
        """Whether tokens enter here."""
        return any(part.kind is PartKind.EMBEDDING for part in self.parts)

    @property
    def has_head(self) -> bool:
        """Whether the output head is here, so that tokens are sampled here."""
        return any(part.kind is PartKind.HEAD for part in self.parts)

    @property
    def layers(self) -> range:
        """The whole layers of this stage; empty where it has none.

        Raises:
            ValueError: a layer's attention is here without its FFN, or the other way round.
        """
        attention = [part.layer for part in self.parts if part.kind is PartKind.ATTENTION]
        ffn = [part.layer for part in self.parts if part.kind is PartKind.FFN]
        if attention != ffn:
            raise ValueError("the stage cuts through a layer")
        numbers = [layer for layer in attention if layer is not None]
        return range(numbers[0], numbers[-1] + 1) if numbers else range(0)


@dataclass(frozen=True, slots=True)
class Route:
    """The stages a request runs through, in order; a node may come round several times (piped ring)."""

    stages: tuple[Stage, ...]
    purpose: Purpose = Purpose.SERVE


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of one deployment.

    `kv_tokens` is how many tokens of KV every node of the route keeps room for; `dtype` the compute type;
    `reasons` one line per node that says why it holds what it holds; `proof` how good the plan is, and `alternatives`
    what else was found, the best first.
    """

    model: str
    dtype: str
    routes: tuple[Route, ...]
    kv_tokens: int
    prediction: Prediction | None = None
    reasons: Mapping[NodeName, str] = field(default_factory=dict)
    proof: Proof | None = None
    alternatives: tuple[Alternative, ...] = ()

    @property
    def replicas(self) -> tuple[Plan, ...]:
        """Each route as a plan of its own, without what is said about them together."""
        return tuple(Plan(self.model, self.dtype, (route,), self.kv_tokens) for route in self.routes)

    @property
    def nodes(self) -> tuple[NodeName, ...]:
        """Every node that holds something, in order of first appearance."""
        seen: dict[NodeName, None] = {}
        for route in self.routes:
            for stage in route.stages:
                for shares in (stage.shares, *stage.groups.values()):
                    seen.update(dict.fromkeys(share.node for share in shares))
        return tuple(seen)
