"""Bytes that shares of a model's parts take on a node, each sort of part worked out once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from potluck.models.roles import Role, TensorKey, keys_of
from potluck.models.sizes import DeviceKind, kv_bytes_per_token, tensor_bytes
from potluck.models.spec import ModelSpec, Part, PartKind
from potluck.planner.alike import Like
from potluck.planner.axes import Range, axis_range, kv_heads, local_spec, output_spec, query_heads
from potluck.planner.plan import Share

Piece = tuple[Part | TensorKey, Range]
"""What counts once on a node: a share of a layer's part, or of a tensor of the embedding or the head."""


@dataclass(frozen=True, slots=True)
class ShareSize:
    """A share of a part: which range of its axis, bytes in all and by tensor, KV bytes of a token, of which heads."""

    held: Range
    weights: int
    tensors: Mapping[TensorKey, int]
    kv: int
    kv_heads: Range

    def pieces(self, part: Part) -> dict[Piece, int]:
        """The bytes of what counts once, of a part that is like this one."""
        if part.layer is not None:
            return {(part, self.held): self.weights}
        return {(key, self.held): nbytes for key, nbytes in self.tensors.items()}


@dataclass(frozen=True, slots=True)
class PartSizes:
    """Sizes in a compute type on a kind of device."""

    spec: ModelSpec
    compute: tuple[str, DeviceKind]
    known: dict[object, ShareSize] = field(default_factory=dict)

    def of(self, part: Part, share: Share, alike: Like) -> ShareSize:
        """What a share holds of a part."""
        key = alike, share.heads, share.kv_heads, share.ffn_columns, share.vocabulary
        if key not in self.known:
            self.known[key] = self._size(part, share)
        return self.known[key]

    def _size(self, part: Part, share: Share) -> ShareSize:
        spec, (dtype, _) = self.spec, self.compute
        held, local, output = axis_range(spec, part.kind, share), local_spec(spec, share), output_spec(spec, share)
        shapes = {key: output if key.role is Role.O else local for key in keys_of(spec, part)}
        tensors = {key: tensor_bytes(shape, key, *self.compute) for key, shape in shapes.items()}
        heads = kv_heads(spec, query_heads(spec, share)) if part.kind is PartKind.ATTENTION else (0, 0)
        return ShareSize(held, sum(tensors.values()), tensors, kv_bytes_per_token(local, dtype), heads)


# Whoever solves predicts plans of the same model by the hundred.
@lru_cache(maxsize=64)
def part_sizes(spec: ModelSpec, dtype: str, kind: DeviceKind) -> PartSizes:
    """The sizes of a model's parts. Shares of groups differ so much that they are known as long as the model is."""
    return PartSizes(spec, (dtype, kind))
