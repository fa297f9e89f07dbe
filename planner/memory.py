"""Bytes that a plan puts on each node, whatever its groups and shares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from potluck.models.sizes import DeviceKind, step_bytes
from potluck.models.spec import ModelSpec, Part, PartKind
from potluck.planner.alike import layer_sorts, like
from potluck.planner.axes import Range
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.part_sizes import Piece, part_sizes
from potluck.planner.plan import WHOLE, Plan, Purpose, Residency, Share

NODE_OVERHEAD = 64 * 2**20  # that a node has for its worker at least
# A worker that has served keeps 10 to 20 MiB more than it had when it measured what is free: links, page tables, the
# heap; and takes as much while it builds shard files (SmolLM2, five plans one after the other).
_KEPT = 32 * 2**20
_ROWS = 256  # of a step, unless somebody asks for others (`--max-rows`)

_NO_KINDS: Mapping[NodeName, DeviceKind] = {}


@dataclass(frozen=True, slots=True)
class NodeBytes:
    """Bytes of weights and KV on one node.

    `streamed` of the weights come and go: at least `window` of them are in memory at once, at most `most`. `overhead`
    is the worker's own.
    """

    weights: int
    kv: int
    streamed: int = 0
    window: int = 0
    most: int = 0
    overhead: int = NODE_OVERHEAD

    @property
    def total(self) -> int:
        """What the node must have free, with the overhead of a worker."""
        return self.weights - self.streamed + self.window + self.kv + self.overhead

    def held(self, memory: int) -> int:
        """Bytes of weights and KV that a node of so much memory has in it at once."""
        return self.weights - self.streamed + self.kv + (self.stream_budget(memory) if self.streamed else 0)

    def stream_budget(self, memory: int) -> int:
        """Bytes for streamed weights that a node of so much memory has beside everything else."""
        return max(self.window, min(self.most, memory - (self.total - self.window)))


class _Kv(NamedTuple):
    layer: int | None
    heads: Range
    sequence: tuple[Fraction, Fraction]


def worker_bytes(spec: ModelSpec) -> int:
    """Bytes for the worker of a node beside weights and KV: the rows of a step, and what stays of what it did."""
    return max(NODE_OVERHEAD, _KEPT + step_bytes(spec, _ROWS))


def node_bytes(
    plan: Plan, spec: ModelSpec, kinds: Mapping[NodeName, DeviceKind] = _NO_KINDS
) -> dict[NodeName, NodeBytes]:
    """Bytes on every node of a plan, in order of appearance; what two stages of a node share counts once.

    Routes of drafts are of another model and are not counted.

    Args:
        plan, spec: what lies where.
        kinds: what nodes compute on (`Fleet.kinds`): quantised weights take more on a GPU. A CPU where none is named.
    """
    tensors: defaultdict[NodeName, dict[Piece, int]] = defaultdict(dict)
    kv: defaultdict[NodeName, dict[_Kv, int]] = defaultdict(dict)
    layers: defaultdict[NodeName, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    windows: defaultdict[NodeName, set[int]] = defaultdict(set)
    sorts, sizes = layer_sorts(spec), {kind: part_sizes(spec, plan.dtype, kind) for kind in {"cpu", *kinds.values()}}
    for part, share in _held(plan):
        held = sizes[kinds.get(share.node, "cpu")].of(part, share, like(part, sorts))
        tensors[share.node].update(held.pieces(part))
        if share.residency is Residency.STREAMED and part.layer is not None:
            layers[share.node][part.layer] += held.weights
            windows[share.node].update({share.window} if share.window else ())
        if part.kind is PartKind.ATTENTION:
            first, end = share.sequence
            tokens = plan.kv_tokens if share.sequence == WHOLE else plan.kv_tokens * (end - first)
            kv[share.node][_Kv(part.layer, held.kv_heads, share.sequence)] = ceil(tokens * held.kv)
    return {
        node: NodeBytes(
            sum(tensors[node].values()),
            sum(kv[node].values()),
            *_streamed(layers[node], min(windows[node], default=0)),
            overhead=worker_bytes(spec),
        )
        for node in plan.nodes
    }


def stream_budgets(plan: Plan, fleet: Fleet, spec: ModelSpec) -> dict[NodeName, int]:
    """Bytes that every node which streams layers may use for them."""
    sizes = node_bytes(plan, spec, fleet.kinds)
    return {node: size.stream_budget(fleet.node(node).device.memory) for node, size in sizes.items() if size.streamed}


def steps_at_once(plan: Plan) -> int:
    """Steps in flight: one per stage, or where nodes come round, per node, so that nobody waits.

    One in all where layers are streamed: a second step would need a window that the first has just let go. And where
    members of a group have other stages: with two steps they could wait for each other, each in another of them.
    """
    stages = [stage for route in plan.routes for stage in route.stages]
    if not any(stage.is_group for stage in stages):
        return 1 if streams(plan) else len(plan.nodes)
    places = sum(len(stage.nodes) for stage in stages)
    return 1 if streams(plan) or places > len(plan.nodes) else len(stages)


def goes_ahead(plan: Plan) -> bool:
    """Whether a step may go out before the one that draws its tokens is back: where one stage runs everything.

    It then waits there, and the engine's turn, and the way to it, take no time between tokens, unless that is longer
    than a step. The last one of a sequence that ends by a token is computed for nothing; with layers from the disk that
    would be too long.
    """
    return all(len(route.stages) == 1 for route in plan.routes) and not streams(plan)


def streams(plan: Plan) -> bool:
    """Whether any layer is read from disk for every step."""
    stages = [stage for route in plan.routes for stage in route.stages]
    return any(share.residency is Residency.STREAMED for stage in stages for share in stage.shares)


def _streamed(layers: Mapping[int, int], window: int) -> tuple[int, int, int]:
    """The last three of NodeBytes, of a node whose streamed layers have these bytes; `window` of them, 0 for any."""
    total, largest = sum(layers.values()), max(layers.values(), default=0)
    if not window:
        return total, largest, total
    # Packed files differ a little from what is planned: half a layer more lets in no further layer, and keeps none out.
    return total, min(total, window * largest), min(total, window * largest + largest // 2)


def _held(plan: Plan) -> Iterator[tuple[Part, Share]]:
    for route in plan.routes:
        for stage in route.stages if route.purpose is not Purpose.DRAFT else ():
            for part in stage.parts:
                yield from ((part, share) for share in stage.group(part.kind))
