"""How a unit's tensors become pieces: which lie in one run of bytes, in which format and shape. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from potluck.kernels.packed import ROWS, packed_size
from potluck.models.roles import Role, TensorKey, shape_of
from potluck.models.spec import ModelSpec
from potluck.worker.takes import ALL, Take, length, picked_columns, picked_encoding, take_of, widened
from potluck.worker.units import Unit

# Plain tensors in the order of their rows: norms and biases, and matrices where nothing multiplies packed ones.
FLOAT32, BFLOAT16, FLOAT16, ORDER = "float32", "bfloat16", "float16", "int64"
_ITEMSIZE = {FLOAT32: 4, BFLOAT16: 2, FLOAT16: 2, ORDER: 8}
_PLAIN_OF = {FLOAT32: "F32", BFLOAT16: "BF16", FLOAT16: "F16"}


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

    `keys` are the tensors whose rows it holds, one below the other; `takes` what of each, empty where all of them.
    """

    name: str
    keys: tuple[TensorKey, ...]
    encoding: str
    shape: tuple[int, ...]
    takes: tuple[Take, ...] = ()

    @property
    def taken(self) -> tuple[Take, ...]:
        """What it takes of each tensor."""
        return self.takes or (ALL,) * len(self.keys)

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


@dataclass(frozen=True, slots=True)
class Layout:
    """How the tensors of one unit become pieces."""

    spec: ModelSpec
    unit: Unit
    form: Form

    @property
    def has_output_bias(self) -> bool:
        """The partial sums are added up, and the bias must count once: it is with the first heads."""
        return self.unit.cut is None or self.unit.cut.heads[0] == 0

    def vectors(self, *roles: Role) -> list[Piece]:
        """Norms or biases, a piece each."""
        return [self._piece(str(role), [TensorKey(role, self.unit.layer)], FLOAT32) for role in roles]

    def matrix(self, name: str, *roles: Role) -> list[Piece]:
        """One piece where all matrices are of one encoding and none ends within a group of rows; else one each."""
        keys = [TensorKey(role, self.unit.layer) for role in roles]
        encodings = [self._encoding(key) for key in keys]
        grouped = encodings[0].startswith("INT")
        rows = [self._shape(key, encoding)[0] for key, encoding in zip(keys, encodings, strict=True)]
        whole_groups = all(count % ROWS == 0 for count in rows[:-1]) or encodings[0] in _ITEMSIZE
        if len(set(encodings)) == 1 and whole_groups and not grouped:
            return [self._piece(f"{name}.0", keys, encodings[0])]
        pieces = []
        for number, (key, encoding) in enumerate(zip(keys, encodings, strict=True)):
            pieces.append(self._piece(f"{name}.{number}", [key], encoding))
            pieces += self._order(pieces[-1])
        return pieces

    def _piece(self, name: str, keys: list[TensorKey], encoding: str) -> Piece:
        shapes = [self._shape(key, encoding) for key in keys]
        takes = tuple(self._take(key) for key in keys)
        cut = any(take != ALL for take in takes)
        rows = sum(shape[0] for shape in shapes)
        return Piece(name, tuple(keys), encoding, (rows, *shapes[0][1:]), takes if cut else ())

    def _order(self, matrix: Piece) -> list[Piece]:
        """The order of a matrix's columns. Those that are cut as they are stored are multiplied in that order."""
        take = matrix.taken[0]
        if not matrix.encoding.startswith("INT") or take.columns is not None:
            return []
        takes = matrix.takes if take.inputs is not None else ()
        return [Piece(f"{matrix.name}.order", matrix.keys, ORDER, matrix.shape[1:], takes)]

    def _shape(self, key: TensorKey, encoding: str) -> tuple[int, ...]:
        take, (rows, *columns) = self._take(key), shape_of(self.spec, key.role)
        if take.rows is not None:
            rows = length(take.rows)
        if take.columns is not None:
            columns = [length(widened(encoding, take.columns))]
        if take.inputs is not None:
            columns = [picked_columns(self._stored(key), columns[0], length(take.inputs))]
        return rows, *columns

    def _take(self, key: TensorKey) -> Take:
        take = take_of(self.spec, key.role, self.unit.cut)
        if key.role is Role.O and self._is_ordered(key):
            return Take(inputs=take.columns)
        down = TensorKey(Role.DOWN, key.layer)
        if key.role in (Role.GATE, Role.UP) and take.rows and self._is_ordered(down):
            return take._replace(follows=down)
        return take

    def _is_ordered(self, key: TensorKey) -> bool:
        return str(key) in self.spec.ordered and self._stored(key).startswith("INT")

    def _encoding(self, key: TensorKey) -> str:
        stored = self._stored(key)
        return picked_encoding(stored) if self._take(key).inputs is not None else stored

    def _stored(self, key: TensorKey) -> str:
        if self.form.quantized and (encoding := self.spec.encodings.get(str(key))):
            return encoding
        return _PLAIN_OF[self.form.dtype] if self.form.packed else self.form.dtype
