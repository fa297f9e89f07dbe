"""What the planner returns: routes of stages, and who holds what share of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction

from potluck.models.spec import Part, PartKind
from potluck.planner.fleet import NodeName

WHOLE = (Fraction(0), Fraction(1))


class Residency(StrEnum):
    """Where the weights of a share live: on the device, in RAM and copied ahead, or in a file mapped ahead."""

    RESIDENT = "resident"
    HOST = "host"
    STREAMED = "streamed"


class Purpose(StrEnum):
    """What a route of a deployment is for."""

    SERVE = "serve"
    PREFILL = "prefill"
    DECODE = "decode"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Share:
    """What one node holds of a stage, along independent axes; None is all of the axis.

    `kv_heads`, `ffn_columns`, `vocabulary` are half-open ranges of KV-head groups, FFN columns and vocabulary rows;
    `heads` is a range of query heads, instead of `kv_heads`, where nodes share a KV head; `experts` the expert numbers
    held; `sequence` the fraction of positions kept (ring attention).
    """

    node: NodeName
    kv_heads: tuple[int, int] | None = None
    ffn_columns: tuple[int, int] | None = None
    vocabulary: tuple[int, int] | None = None
    heads: tuple[int, int] | None = None
    experts: tuple[int, ...] | None = None
    sequence: tuple[Fraction, Fraction] = WHOLE
    residency: Residency = Residency.RESIDENT

    @property
    def is_whole(self) -> bool:
        """Whether this share is the stage itself, so that the group has one node."""
        axes = (self.heads, self.kv_heads, self.ffn_columns, self.vocabulary, self.experts)
        return all(axis is None for axis in axes) and self.sequence == WHOLE


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive parts executed by a group.

    `shares` is the group of every part, except of kinds named in `groups`: there a part kind (FFN, say) runs on a
    group of its own (disaggregated attention and experts).
    """

    parts: tuple[Part, ...]
    shares: tuple[Share, ...]
    groups: Mapping[PartKind, tuple[Share, ...]] = field(default_factory=dict)

    def group(self, kind: PartKind) -> tuple[Share, ...]:
        """The shares of the nodes that run parts of this kind."""
        return self.groups.get(kind, self.shares)

    @property
    def node(self) -> NodeName:
        """The one node of a single-node stage.

        Raises:
            ValueError: the stage has a group of several nodes.
        """
        if len(self.shares) != 1 or self.groups:
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
class Prediction:
    """What the planner expects: seconds to the first token and per token, bytes of weights and KV per node."""

    time_to_first_token: float
    time_per_token: float
    weight_bytes: Mapping[NodeName, int]
    kv_bytes: Mapping[NodeName, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of one deployment.

    `kv_tokens` is how many tokens of KV every node of the route keeps room for; `dtype` the compute type;
    `reasons` one line per node that says why it holds what it holds.
    """

    model: str
    dtype: str
    routes: tuple[Route, ...]
    kv_tokens: int
    prediction: Prediction | None = None
    reasons: Mapping[NodeName, str] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[NodeName, ...]:
        """Every node that holds something, in order of first appearance."""
        seen: dict[NodeName, None] = {}
        for route in self.routes:
            for stage in route.stages:
                for shares in (stage.shares, *stage.groups.values()):
                    seen.update(dict.fromkeys(share.node for share in shares))
        return tuple(seen)
