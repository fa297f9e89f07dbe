"""The role of every tensor: one name for what a hundred checkpoints call differently."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from potluck.models.spec import ModelSpec, Part, PartKind


class Role(StrEnum):
    """What a tensor does in the decoder. Matrices are (out_features, in_features)."""

    EMBEDDING = "embedding"
    ATTENTION_NORM = "attention_norm"
    Q = "q"
    K = "k"
    V = "v"
    O = "o"  # noqa: E741
    Q_BIAS = "q_bias"
    K_BIAS = "k_bias"
    V_BIAS = "v_bias"
    O_BIAS = "o_bias"
    Q_NORM = "q_norm"
    K_NORM = "k_norm"
    ATTENTION_POST_NORM = "attention_post_norm"
    FFN_NORM = "ffn_norm"
    GATE = "gate"
    UP = "up"
    DOWN = "down"
    FFN_POST_NORM = "ffn_post_norm"
    OUTPUT_NORM = "output_norm"
    HEAD = "head"


NORMS = frozenset(
    {
        Role.ATTENTION_NORM,
        Role.ATTENTION_POST_NORM,
        Role.FFN_NORM,
        Role.FFN_POST_NORM,
        Role.OUTPUT_NORM,
        Role.Q_NORM,
        Role.K_NORM,
    }
)


class TensorKey(NamedTuple):
    """Names one tensor of a model: its role and, inside a layer, the layer's number."""

    role: Role
    layer: int | None = None

    def __str__(self) -> str:
        return self.role if self.layer is None else f"{self.layer}.{self.role}"


def shape_of(spec: ModelSpec, role: Role) -> tuple[int, ...]:
    """The shape a tensor of this role must have in a model of this spec."""
    query, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    return {
        Role.EMBEDDING: (spec.vocab, spec.hidden),
        Role.HEAD: (spec.vocab, spec.hidden),
        Role.Q: (query, spec.hidden),
        Role.K: (keys, spec.hidden),
        Role.V: (keys, spec.hidden),
        Role.O: (spec.hidden, query),
        Role.Q_BIAS: (query,),
        Role.K_BIAS: (keys,),
        Role.V_BIAS: (keys,),
        Role.Q_NORM: (spec.head_dim,),
        Role.K_NORM: (spec.head_dim,),
        Role.GATE: (spec.ffn, spec.hidden),
        Role.UP: (spec.ffn, spec.hidden),
        Role.DOWN: (spec.hidden, spec.ffn),
    }.get(role, (spec.hidden,))


def keys_of(spec: ModelSpec, part: Part) -> Iterator[TensorKey]:
    """The tensors a part needs. A tied head needs the embedding matrix."""
    match part.kind:
        case PartKind.EMBEDDING:
            yield TensorKey(Role.EMBEDDING)
        case PartKind.HEAD:
            yield TensorKey(Role.OUTPUT_NORM)
            yield TensorKey(Role.EMBEDDING if spec.tied_head else Role.HEAD)
        case PartKind.ATTENTION:
            for role in _attention_roles(spec):
                yield TensorKey(role, part.layer)
        case PartKind.FFN:
            for role in _ffn_roles(spec):
                yield TensorKey(role, part.layer)


def _attention_roles(spec: ModelSpec) -> list[Role]:
    roles = [Role.ATTENTION_NORM, Role.Q, Role.K, Role.V, Role.O]
    if spec.qkv_bias:
        roles += [Role.Q_BIAS, Role.K_BIAS, Role.V_BIAS]
    if spec.output_bias:
        roles.append(Role.O_BIAS)
    if spec.qk_norm:
        roles += [Role.Q_NORM, Role.K_NORM]
    if spec.post_norms:
        roles.append(Role.ATTENTION_POST_NORM)
    return roles


def _ffn_roles(spec: ModelSpec) -> list[Role]:
    roles = [Role.FFN_NORM, Role.GATE, Role.UP, Role.DOWN]
    return [*roles, Role.FFN_POST_NORM] if spec.post_norms else roles
