"""What a shard's weights are made of: units that are read, streamed and dropped as one, and their pieces. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from potluck.models.roles import Role, TensorKey
from potluck.models.spec import ModelSpec
from potluck.worker.layout import BFLOAT16, FLOAT16, FLOAT32, ORDER, Form, Layout, Piece
from potluck.worker.units import Unit, head_unit, units_of

__all__ = ["BFLOAT16", "FLOAT16", "FLOAT32", "ORDER", "Form", "Piece", "Unit", "head_unit", "units_of"]
__all__ += ["keys_of_pieces", "pieces_of"]


def pieces_of(spec: ModelSpec, unit: Unit, form: Form) -> list[Piece]:
    """The pieces of a unit, in the order in which they are used."""
    layout = Layout(spec, unit, form)
    match unit.name:
        case "embedding":
            return layout.matrix("matrix", Role.EMBEDDING)
        case "head":
            return layout.matrix("matrix", Role.HEAD)
        case "output_norm":
            return layout.vectors(Role.OUTPUT_NORM)
    return _layer_pieces(spec, layout)


def keys_of_pieces(pieces: Iterable[Piece]) -> list[TensorKey]:
    """The tensors that pieces are made from, each once."""
    return list(dict.fromkeys(key for piece in pieces for key in piece.keys))


def _layer_pieces(spec: ModelSpec, layout: Layout) -> list[Piece]:
    pieces = layout.vectors(Role.ATTENTION_NORM)
    pieces += layout.matrix("qkv", Role.Q, Role.K, Role.V)
    if spec.qkv_bias:
        pieces += layout.vectors(Role.Q_BIAS, Role.K_BIAS, Role.V_BIAS)
    if spec.qk_norm:
        pieces += layout.vectors(Role.Q_NORM, Role.K_NORM)
    pieces += layout.matrix("output", Role.O)
    if spec.output_bias and layout.has_output_bias:
        pieces += layout.vectors(Role.O_BIAS)
    if spec.post_norms:
        pieces += layout.vectors(Role.ATTENTION_POST_NORM)
    pieces += layout.vectors(Role.FFN_NORM)
    pieces += layout.matrix("gate_up", Role.GATE, Role.UP) + layout.matrix("down", Role.DOWN)
    return pieces + (layout.vectors(Role.FFN_POST_NORM) if spec.post_norms else [])
