"""The weights of a shard in the form the decoder multiplies, put together from pieces in memory or in mapped files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from potluck.models.spec import ModelSpec
from potluck.worker.cut import local_spec
from potluck.worker.own_inputs import of_own_inputs
from potluck.worker.pieces import BFLOAT16, FLOAT16, FLOAT32, ORDER, Form, Piece, Unit, pieces_of
from potluck.worker.residence import Matrix, Product, Residence
from potluck.worker.weight_source import Placed

_TORCH = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16, FLOAT16: torch.float16, ORDER: torch.int64}
_QKV_BIASES = ("q_bias", "k_bias", "v_bias")


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. `qkv` and `gate_up` are fused; `qk_norm_NE` holds a row per query and key head."""

    attention_norm: torch.Tensor
    qkv: Product
    output: Product
    ffn_norm: torch.Tensor
    gate_up: Product
    down: Product
    qk_norm_NE: torch.Tensor | None = None
    attention_post_norm: torch.Tensor | None = None
    ffn_post_norm: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """The output norm and the output matrix."""

    norm: torch.Tensor
    output: Product


class Assembly:
    """Puts units together where they are computed with."""

    def __init__(self, spec: ModelSpec, form: Form, residence: Residence) -> None:
        """`form`: of the pieces."""
        self._spec, self._form, self._residence = spec, form, residence
        self._known: dict[Unit, list[Piece]] = {}
        self._embeddings: dict[Unit, Matrix] = {}

    def embedding(self, unit: Unit, placed: Placed) -> Matrix:
        """The embedding matrix (vocab, hidden), or the rows that the unit's cut takes of it."""
        # A tied head multiplies by the same one: it must not lie on a device twice.
        if unit not in self._embeddings:
            (self._embeddings[unit],) = self._matrices(unit, placed, "matrix")
        return self._embeddings[unit]

    def head(self, norm: Placed, unit: Unit, matrix: Placed) -> HeadWeights:
        """The head, from the unit of its matrix; a tied one multiplies by the embedding's."""
        tied = unit.name == "embedding"
        matrices = [self.embedding(unit, matrix)] if tied else self._matrices(unit, matrix, "matrix")
        output = self._residence.product(matrices, None, self._orders(unit, matrix, "matrix", len(matrices)))
        return HeadWeights(self._vectors(Unit("output_norm"), norm)["output_norm"], output)

    def layer(self, unit: Unit, placed: Placed) -> LayerWeights:
        """One layer, or what the unit's cut takes of it: then `output` and `down` give partial sums."""
        spec = self._spec if unit.cut is None else local_spec(self._spec, unit.cut)
        vectors = self._vectors(unit, placed)
        return LayerWeights(
            attention_norm=vectors["attention_norm"],
            qkv=self._product(unit, placed, "qkv", [vectors[name] for name in _QKV_BIASES if name in vectors]),
            output=self._product(unit, placed, "output", [vectors["o_bias"]] if "o_bias" in vectors else []),
            ffn_norm=vectors["ffn_norm"],
            gate_up=self._product(unit, placed, "gate_up"),
            down=self._product(unit, placed, "down"),
            qk_norm_NE=_qk_norm(spec, vectors) if spec.qk_norm else None,
            attention_post_norm=vectors.get("attention_post_norm"),
            ffn_post_norm=vectors.get("ffn_post_norm"),
        )

    def _vectors(self, unit: Unit, placed: Placed) -> dict[str, torch.Tensor]:
        return {
            piece.name: self._residence.plain(_plain(piece, placed))
            for piece in self._pieces(unit)
            if piece.encoding == FLOAT32 and "." not in piece.name
        }

    def _product(self, unit: Unit, placed: Placed, name: str, biases: Sequence[torch.Tensor] = ()) -> Product:
        matrices = self._matrices(unit, placed, name)
        bias_O = torch.cat(list(biases)) if biases else None
        product = self._residence.product(matrices, bias_O, self._orders(unit, placed, name, len(matrices)))
        return product if unit.cut is None else of_own_inputs(self._spec, unit.cut, self._named(unit, name)[0], product)

    def _pieces(self, unit: Unit) -> list[Piece]:
        # A streamed layer is put together anew for every step.
        if unit not in self._known:
            self._known[unit] = pieces_of(self._spec, unit, self._form)
        return self._known[unit]

    def _named(self, unit: Unit, name: str) -> list[Piece]:
        return [piece for piece in self._pieces(unit) if piece.name.startswith(f"{name}.")]

    def _matrices(self, unit: Unit, placed: Placed, name: str) -> list[Matrix]:
        return [self._matrix(piece, placed) for piece in self._named(unit, name) if piece.encoding != ORDER]

    def _matrix(self, piece: Piece, placed: Placed) -> Matrix:
        if piece.is_plain:
            return self._residence.plain(_plain(piece, placed))
        return self._residence.quantized(piece.encoding, (piece.shape[0], piece.shape[1]), placed[piece.name])

    def _orders(self, unit: Unit, placed: Placed, name: str, count: int) -> list[torch.Tensor | None]:
        return [self._order(unit, placed, f"{name}.{number}.order") for number in range(count)]

    def _order(self, unit: Unit, placed: Placed, name: str) -> torch.Tensor | None:
        for piece in self._pieces(unit):
            if piece.name == name:
                order_I = _plain(piece, placed)
                return None if torch.equal(order_I, torch.arange(len(order_I))) else order_I
        return None


def _plain(piece: Piece, placed: Placed) -> torch.Tensor:
    return placed[piece.name].view(_TORCH[piece.encoding]).view(piece.shape)


def _qk_norm(spec: ModelSpec, vectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    q_E, k_E = vectors["q_norm"], vectors["k_norm"]
    return torch.cat((q_E.expand(spec.heads, -1), k_E.expand(spec.kv_heads, -1)))
