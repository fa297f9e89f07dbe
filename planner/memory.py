"""Bytes that a plan puts on each node, whatever its groups and shares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from potluck.models.roles import NORMS, Role, TensorKey, keys_of
from potluck.models.spec import ModelSpec, Part, PartKind
from potluck.planner.costs import kv_bytes_per_token, tensor_bytes
from potluck.planner.fleet import DeviceKind, Fleet, NodeName
from potluck.planner.plan import Plan, Purpose, Residency, Share

# Beside weights and KV a worker holds the rows of a step, its logits and block tables: about 40 MB for 512 rows of a
# model with a vocabulary of 150,000, since only sampled rows have logits.
NODE_OVERHEAD = 64 * 2**20

_COPIED = NORMS | {Role.O_BIAS}
_NO_KINDS: Mapping[NodeName, DeviceKind] = {}


@dataclass(frozen=True, slots=True)
class NodeBytes:
    """Bytes of weights and KV on one node; `streamed` of the weights come and go, at least `window` at once."""

    weights: int
    kv: int
    streamed: int = 0
    window: int = 0

    @property
    def total(self) -> int:
        """What the node must have free, with the overhead of a worker."""
        return self.weights - self.streamed + self.window + self.kv + NODE_OVERHEAD

    def stream_budget(self, memory: int) -> int:
        """Bytes for streamed weights that a node of so much memory has beside everything else."""
        return max(self.window, min(self.streamed, memory - (self.total - self.window)))


class _Tensor(NamedTuple):
    key: TensorKey
    fraction: Fraction
    range: tuple[int, int] | None


class _Kv(NamedTuple):
    layer: int | None
    heads: tuple[int, int] | None
    sequence: tuple[Fraction, Fraction]
    fraction: Fraction


def node_bytes(
    plan: Plan, spec: ModelSpec, kinds: Mapping[NodeName, DeviceKind] = _NO_KINDS
) -> dict[NodeName, NodeBytes]:
    """Bytes on every node of a plan, in order of appearance; what two stages of a node share counts once.

    Routes of drafts are of another model and are not counted.

    Args:
        plan, spec: what lies where.
        kinds: what nodes compute on (`Fleet.kinds`): quantised weights take more on a GPU. A CPU where none is named.
    """

    def size(node: NodeName, held: set[_Tensor]) -> int:
        kind = kinds.get(node, "cpu")
        return sum(ceil(tensor_bytes(spec, piece.key, plan.dtype, kind) * piece.fraction) for piece in held)

    tensors: defaultdict[NodeName, set[_Tensor]] = defaultdict(set)
    streamed: defaultdict[NodeName, dict[int, int]] = defaultdict(dict)
    kv: defaultdict[NodeName, set[_Kv]] = defaultdict(set)
    for part, share in _held(plan):
        held = set(_tensors(spec, part, share))
        tensors[share.node].update(held)
        if share.residency is Residency.STREAMED and part.layer is not None:
            layers = streamed[share.node]
            layers[part.layer] = layers.get(part.layer, 0) + size(share.node, held)
        if part.kind is PartKind.ATTENTION:
            kv[share.node].add(_kv(spec, part, share))
    token = plan.kv_tokens * kv_bytes_per_token(spec, plan.dtype)
    return {
        node: NodeBytes(
            weights=size(node, tensors[node]),
            kv=sum(ceil(token * piece.fraction) for piece in kv[node]),
            streamed=sum(streamed[node].values()),
            window=max(streamed[node].values(), default=0),
        )
        for node in plan.nodes
    }


def stream_budgets(plan: Plan, fleet: Fleet, spec: ModelSpec) -> dict[NodeName, int]:
    """Bytes that every node which streams layers may use for them."""
    sizes = node_bytes(plan, spec, fleet.kinds)
    return {node: size.stream_budget(fleet.node(node).device.memory) for node, size in sizes.items() if size.streamed}


def steps_at_once(plan: Plan) -> int:
    """Steps in flight: one per node, so that no node waits; one in all where layers are streamed.

    A second step would need a window that the first has just let go.
    """
    return 1 if streams(plan) else len(plan.nodes)


def streams(plan: Plan) -> bool:
    """Whether any layer is read from disk for every step."""
    stages = [stage for route in plan.routes for stage in route.stages]
    return any(share.residency is Residency.STREAMED for stage in stages for share in stage.shares)


def axis_of(kind: PartKind) -> str:
    """The field of Share that splits parts of a kind."""
    return {PartKind.ATTENTION: "kv_heads", PartKind.FFN: "ffn_columns"}.get(kind, "vocabulary")


def axis_length(spec: ModelSpec, kind: PartKind) -> int:
    """How many KV heads, FFN columns or vocabulary rows there are to split."""
    return {PartKind.ATTENTION: spec.kv_heads, PartKind.FFN: spec.ffn}.get(kind, spec.vocab)


def axis_range(share: Share, kind: PartKind) -> tuple[int, int] | None:
    """What a share holds of the axis that splits parts of a kind; None is all."""
    return {PartKind.ATTENTION: share.kv_heads, PartKind.FFN: share.ffn_columns}.get(kind, share.vocabulary)


def _held(plan: Plan) -> Iterator[tuple[Part, Share]]:
    for route in plan.routes:
        for stage in route.stages if route.purpose is not Purpose.DRAFT else ():
            for part in stage.parts:
                yield from ((part, share) for share in stage.group(part.kind))


def _fraction(spec: ModelSpec, kind: PartKind, held: tuple[int, int] | None) -> Fraction:
    return Fraction(1) if held is None else Fraction(held[1] - held[0], axis_length(spec, kind))


def _tensors(spec: ModelSpec, part: Part, share: Share) -> Iterator[_Tensor]:
    held = axis_range(share, part.kind)
    for key in keys_of(spec, part):
        if key.role in _COPIED:
            yield _Tensor(key, Fraction(1), None)
        else:
            yield _Tensor(key, _fraction(spec, part.kind, held), held)


def _kv(spec: ModelSpec, part: Part, share: Share) -> _Kv:
    first, end = share.sequence
    fraction = _fraction(spec, PartKind.ATTENTION, share.kv_heads) * (end - first)
    return _Kv(part.layer, share.kv_heads, share.sequence, fraction)
