"""What a shard's weights are made of: units that are read, streamed and dropped as one, and their pieces. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from potluck.kernels.packed import ROWS, packed_size
from potluck.models.roles import Role, TensorKey, shape_of
from potluck.models.spec import ModelSpec, PartKind

# Plain tensors in the order of their rows: norms and biases, and matrices where nothing multiplies packed ones.
FLOAT32, BFLOAT16, FLOAT16, ORDER = "float32", "bfloat16", "float16", "int64"
_ITEMSIZE = {FLOAT32: 4, BFLOAT16: 2, FLOAT16: 2, ORDER: 8}
_PLAIN_OF = {FLOAT32: "F32", BFLOAT16: "BF16", FLOAT16: "F16"}


class Unit(NamedTuple):
    """Weights that lie together: `embedding`, `layer`, `output_norm` or `head`."""

    name: str
    layer: int | None = None

    def __str__(self) -> str:
        """`embedding`, `layer-007`."""
        return self.name if self.layer is None else f"{self.name}-{self.layer:03d}"


@dataclass(frozen=True, slots=True)
class Form:
    """How weights are kept.

    Attributes:
        dtype: float32, bfloat16 or float16, of matrices that are not quantised.
        quantized: whether matrices that the model spec names an encoding for are kept in it.
        packed: whether this machine multiplies packed matrices of plain numbers faster than torch does others.
    """

    dtype: str
    quantized: bool
    packed: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """One run of bytes: a packed matrix, a plain tensor, or the order of a matrix's columns.

    `keys` are the tensors whose rows it holds, one below the other.
    """

    name: str
    keys: tuple[TensorKey, ...]
    encoding: str
    shape: tuple[int, ...]

    @property
    def is_plain(self) -> bool:
        """Whether it is a tensor of plain numbers in the order of its rows."""
        return self.encoding in _ITEMSIZE

    @property
    def nbytes(self) -> int:
        """Bytes it takes as stored."""
        if self.is_plain:
            return prod(self.shape) * _ITEMSIZE[self.encoding]
        return packed_size(self.encoding, (self.shape[0], self.shape[1]))


def units_of(spec: ModelSpec, kinds: Iterable[PartKind], layers: Iterable[int]) -> list[Unit]:
    """The units of some layers and of the embedding and head, in the order in which a token needs them.

    A tied head multiplies by the embedding's unit.
    """
    ends = set(kinds)
    units = [Unit("embedding")] if PartKind.EMBEDDING in ends else []
    units += [Unit("layer", layer) for layer in layers]
    if PartKind.HEAD in ends:
        units.append(Unit("output_norm"))
        units.append(Unit("embedding") if spec.tied_head else Unit("head"))
    return list(dict.fromkeys(units))


def pieces_of(spec: ModelSpec, unit: Unit, form: Form) -> list[Piece]:
    """The pieces of a unit, in the order in which they are used."""
    match unit.name:
        case "embedding":
            return _matrix(spec, "matrix", [TensorKey(Role.EMBEDDING)], form)
        case "head":
            return _matrix(spec, "matrix", [TensorKey(Role.HEAD)], form)
        case "output_norm":
            return [_vector(spec, TensorKey(Role.OUTPUT_NORM))]
    return _layer_pieces(spec, unit.layer or 0, form)


def keys_of_pieces(pieces: Iterable[Piece]) -> list[TensorKey]:
    """The tensors that pieces are made from, each once."""
    return list(dict.fromkeys(key for piece in pieces for key in piece.keys))


def _layer_pieces(spec: ModelSpec, layer: int, form: Form) -> list[Piece]:
    def vectors(*roles: Role) -> list[Piece]:
        return [_vector(spec, TensorKey(role, layer)) for role in roles]

    def matrix(name: str, *roles: Role) -> list[Piece]:
        return _matrix(spec, name, [TensorKey(role, layer) for role in roles], form)

    pieces = vectors(Role.ATTENTION_NORM)
    pieces += matrix("qkv", Role.Q, Role.K, Role.V)
    if spec.qkv_bias:
        pieces += vectors(Role.Q_BIAS, Role.K_BIAS, Role.V_BIAS)
    if spec.qk_norm:
        pieces += vectors(Role.Q_NORM, Role.K_NORM)
    pieces += matrix("output", Role.O)
    if spec.output_bias:
        pieces += vectors(Role.O_BIAS)
    if spec.post_norms:
        pieces += vectors(Role.ATTENTION_POST_NORM)
    pieces += vectors(Role.FFN_NORM) + matrix("gate_up", Role.GATE, Role.UP) + matrix("down", Role.DOWN)
    return pieces + (vectors(Role.FFN_POST_NORM) if spec.post_norms else [])


def _vector(spec: ModelSpec, key: TensorKey) -> Piece:
    return Piece(str(key.role), (key,), FLOAT32, shape_of(spec, key.role))


def _matrix(spec: ModelSpec, name: str, keys: Sequence[TensorKey], form: Form) -> list[Piece]:
    """One piece where all matrices are of one encoding and none ends within a group of rows; else one each."""
    encodings = [_encoding(spec, key, form) for key in keys]
    shapes = [shape_of(spec, key.role) for key in keys]
    ordered = encodings[0].startswith("INT")
    whole_groups = all(shape[0] % ROWS == 0 for shape in shapes[:-1]) or encodings[0] in _ITEMSIZE
    if len(set(encodings)) == 1 and whole_groups and not ordered:
        rows = sum(shape[0] for shape in shapes)
        return [Piece(f"{name}.0", tuple(keys), encodings[0], (rows, shapes[0][1]))]
    pieces = []
    for number, (key, encoding, shape) in enumerate(zip(keys, encodings, shapes, strict=True)):
        pieces.append(Piece(f"{name}.{number}", (key,), encoding, shape))
        if encoding.startswith("INT"):
            pieces.append(Piece(f"{name}.{number}.order", (key,), ORDER, (shape[1],)))
    return pieces


def _encoding(spec: ModelSpec, key: TensorKey, form: Form) -> str:
    if form.quantized and (encoding := spec.encodings.get(str(key))):
        return encoding
    return _PLAIN_OF[form.dtype] if form.packed else form.dtype
