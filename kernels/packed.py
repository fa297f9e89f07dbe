"""Products with packed weights: quantised ones of 4 to 8 bits as the model's file has them, or plain numbers.

Weights keep the numbers and scales of the file; only their order changes (`csrc/formats.hpp`). Quantised ones are
multiplied by activations rounded to 8 bits with a scale per 16 columns, or (`exact`) by unrounded ones: float32, or
bfloat16 where the processor multiplies those faster. A row's result does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch

from potluck.kernels.extension import native as _native
from potluck.kernels.native_module import VECTORS

# In the order of `Kind` in csrc/formats.hpp, with the columns and bytes of a block as it is stored.
_BLOCKS = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "INT4_G32": (32, 20),
    "INT4_G128": (128, 68),
    "INT8_G32": (32, 36),
    "INT8_G128": (128, 132),
    "F32": (1, 4),
    "BF16": (1, 2),
    "F16": (1, 2),
}
_NUMBERS = {encoding: number for number, encoding in enumerate(_BLOCKS)}
PLAIN = frozenset({"F32", "BF16", "F16"})
ROWS = 16  # rows that lie together


def available() -> bool:
    """Whether the extension was built with this installation."""
    return _native is not None


def backend(name: str = "") -> str | None:
    """Use the backend of this name (avx512, avx2, neon, generic), or the best; its name, None where it cannot run."""
    found: str | None = _extension().backend(name)
    return found


def has_vectors() -> bool:
    """Whether products run on vectors: in plain C++ torch multiplies plain numbers faster."""
    return VECTORS


def set_threads(count: int) -> None:
    """Threads that share a product, in all of this process."""
    if _native is not None:
        _native.threads(count)


def can_pack(encoding: str, shape: tuple[int, ...]) -> bool:
    """Whether a matrix stored like this can be multiplied as it is."""
    return encoding in _BLOCKS and len(shape) == 2 and shape[1] % _BLOCKS[encoding][0] == 0


def block_columns(encoding: str) -> int:
    """Columns that lie in one block as stored; 1 where numbers are plain."""
    return _BLOCKS[encoding][0] if encoding in _BLOCKS else 1


def packed_size(encoding: str, shape: tuple[int, int]) -> int:
    """Bytes of a packed matrix.

    Raises:
        ValueError: it cannot be packed.
    """
    if not can_pack(encoding, shape):
        raise ValueError(f"{encoding} rows of {shape[1]} columns cannot be multiplied as they are")
    size: int = _extension().packed_bytes(_NUMBERS[encoding], *shape)
    return size


class PackedMatrix:
    """A matrix of O rows and I columns in the layout that the products read; may lie in a mapped file."""

    __slots__ = ("_data", "_number", "columns", "encoding", "rows")

    def __init__(self, encoding: str, shape: tuple[int, int], data: torch.Tensor) -> None:
        """Take what `pack` made: uint8, `packed_size` bytes.

        Raises:
            ValueError: the encoding has no products, or the data are of another size.
        """
        self.encoding, (self.rows, self.columns) = encoding, shape
        if len(data) != packed_size(encoding, shape):
            raise ValueError(f"{encoding} {shape} takes {packed_size(encoding, shape)} bytes packed, not {len(data)}")
        self._number, self._data = _NUMBERS[encoding], data

    @classmethod
    def pack(cls, encoding: str, blocks_OB: torch.Tensor, columns: int) -> PackedMatrix:
        """Pack a matrix.

        Args:
            encoding: the GGUF encoding, a group format, or that of plain numbers.
            blocks_OB: uint8, the blocks (or plain numbers) of each row.
            columns: weights in a row.

        Raises:
            ValueError: it cannot be packed, or the blocks are not as long as columns ask for.
        """
        shape = (blocks_OB.shape[0], columns)
        data = torch.empty(packed_size(encoding, shape), dtype=torch.uint8)
        block, size = _BLOCKS[encoding]
        if blocks_OB.shape[1] != columns // block * size:
            wanted = columns // block * size
            raise ValueError(f"{encoding} rows of {columns} columns take {wanted} bytes, not {blocks_OB.shape[1]}")
        blocks_OB = blocks_OB.contiguous()
        _extension().pack(_NUMBERS[encoding], blocks_OB.data_ptr(), *shape, data.data_ptr())
        return cls(encoding, shape, data)

    @property
    def data(self) -> torch.Tensor:
        """The packed bytes."""
        return self._data

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return len(self._data)

    def numbers(self) -> list[int]:
        """The matrix as a piece in `csrc/decode.hpp`."""
        return [self._number, self._data.data_ptr(), self.rows]

    def select(self, rows_N: torch.Tensor) -> torch.Tensor:
        """Some rows as float32 (N, I).

        Raises:
            IndexError: there is no such row.
        """
        rows_N = rows_N.to(torch.int64).contiguous()
        if len(rows_N) and not 0 <= int(rows_N.min()) <= int(rows_N.max()) < self.rows:
            raise IndexError(f"rows beyond the {self.rows} there are")
        out_NI = torch.empty((len(rows_N), self.columns))
        _extension().unpack(
            self._number, self._data.data_ptr(), self.columns, rows_N.data_ptr(), len(rows_N), out_NI.data_ptr()
        )
        return out_NI

    def multiply(self, x_TI: torch.Tensor, out_TP: torch.Tensor, first: int, exact: bool = False) -> None:
        """Write x @ weight.T into the columns of `out` from `first` on. Float32, both contiguous."""
        count, width = out_TP.shape
        if x_TI.shape != (count, self.columns) or first + self.rows > width:
            raise ValueError(f"{tuple(x_TI.shape)} by ({self.rows}, {self.columns}) does not fit {tuple(out_TP.shape)}")
        address = out_TP.data_ptr() + 4 * first
        _extension().multiply(
            self._number, self._data.data_ptr(), self.rows, self.columns, x_TI.data_ptr(), count, address, width, exact
        )


class PackedLinear:
    """x @ weight.T + bias, where the weight is made of packed matrices one below the other. Float32 in and out."""

    __slots__ = ("_bias_O", "_exact", "_orders", "_pieces", "_rows", "dtype")

    def __init__(
        self,
        pieces: Sequence[PackedMatrix],
        bias_O: torch.Tensor | None = None,
        exact: bool = False,
        orders: Sequence[torch.Tensor | None] = (),
    ) -> None:
        """`exact` does not round activations to 8 bits; `orders` says for each piece which column of x each of its own
        columns multiplies, None where they are in order (GPTQ's act-order sorts columns by their groups)."""
        self._pieces = []
        self._rows = 0
        for piece in pieces:
            self._pieces.append((piece, self._rows))
            self._rows += piece.rows
        self._bias_O = None if bias_O is None else bias_O.float()
        self._exact = exact
        self._orders = tuple(orders) if any(order is not None for order in orders) else ()
        self.dtype = torch.float32

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        """The product for T rows: float32 (T, O)."""
        x_TI = x_TI.float().contiguous()
        out_TO = torch.empty((x_TI.shape[0], self._rows))
        if self._orders:
            self._multiply_ordered(x_TI, out_TO)
        else:
            for piece, first in self._pieces:
                piece.multiply(x_TI, out_TO, first, self._exact)
        return out_TO if self._bias_O is None else out_TO.add_(self._bias_O)

    @property
    def columns(self) -> int:
        """Numbers in a row of x."""
        return self._pieces[0][0].columns

    @property
    def rows(self) -> int:
        """Numbers in a row of the result."""
        return self._rows

    def numbers(self) -> list[int] | None:
        """The product as `csrc/decode.hpp` reads it; None where pieces have their columns in an order of their own."""
        if self._orders or any(piece.columns != self.columns for piece, _ in self._pieces):
            return None
        bias = 0 if self._bias_O is None else self._bias_O.data_ptr()
        pieces = [number for piece, _ in self._pieces for number in piece.numbers()]
        return [self.columns, self._rows, bias, self._exact, len(self._pieces), *pieces]

    def _multiply_ordered(self, x_TI: torch.Tensor, out_TO: torch.Tensor) -> None:
        for (piece, first), order_I in zip(self._pieces, self._orders, strict=True):
            ordered_TI = x_TI if order_I is None else x_TI.index_select(1, order_I)
            piece.multiply(ordered_TI, out_TO, first, self._exact)


def multiply_reference(weight_OI: torch.Tensor, x_TI: torch.Tensor) -> torch.Tensor:
    """What a product with 8-bit activations computes, in float64: these rounded as there, weights as they are."""
    x_TGC = x_TI.view(len(x_TI), -1, 16)
    most_TG1 = x_TGC.abs().amax(-1, keepdim=True)
    rounded = torch.where(most_TG1 > 0, (x_TGC * (127.0 / most_TG1)).round(), 0.0).double() * (most_TG1 / 127.0)
    return rounded.view(x_TI.shape) @ weight_OI.double().T


def _extension() -> ModuleType:
    if _native is None:
        raise RuntimeError("Potluck was installed without its C++ extension: install a C++ compiler and Potluck again")
    return _native
