"""Products with weights that stay quantised: 4 to 8 bits as GGUF has them, multiplied by 8-bit activations.

Weights keep the numbers and scales of the file; only their order changes (`csrc/formats.hpp`). Activations are rounded
to 8 bits with a scale per 16 columns. A row's result does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch

from potluck.kernels.extension import native as _native

# In the order of `Kind` in csrc/formats.hpp, with the columns of a GGUF block.
_KINDS = {"Q4_0": 32, "Q4_1": 32, "Q5_0": 32, "Q5_1": 32, "Q8_0": 32, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256}
_NUMBERS = {encoding: number for number, encoding in enumerate(_KINDS)}
_BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210}
ROWS = 16  # rows that lie together


def available() -> bool:
    """Whether the extension was built with this installation."""
    return _native is not None


def backend(name: str = "") -> str | None:
    """Use the backend of this name (avx512, avx2, generic), or the best one; its name, None where it cannot run."""
    found: str | None = _extension().backend(name)
    return found


def set_threads(count: int) -> None:
    """Threads that share a product, in all of this process."""
    if _native is not None:
        _native.threads(count)


def can_pack(encoding: str, shape: tuple[int, ...]) -> bool:
    """Whether a matrix stored like this can be multiplied as it is."""
    return encoding in _KINDS and len(shape) == 2 and shape[1] % _KINDS[encoding] == 0


class PackedMatrix:
    """A quantised matrix of O rows and I columns in the layout that the products read."""

    __slots__ = ("_data", "_number", "columns", "rows")

    def __init__(self, encoding: str, blocks_OB: torch.Tensor, columns: int) -> None:
        """Pack a matrix.

        Args:
            encoding: the GGUF encoding.
            blocks_OB: uint8, the GGUF blocks of each row.
            columns: weights in a row.

        Raises:
            ValueError: it cannot be packed, or the blocks are not as long as columns ask for.
        """
        self.rows, self.columns = blocks_OB.shape[0], columns
        if not can_pack(encoding, (self.rows, columns)):
            raise ValueError(f"{encoding} rows of {columns} columns cannot be multiplied as they are")
        self._number = _NUMBERS[encoding]
        native = _extension()
        wanted = columns // _KINDS[encoding] * _BLOCK_BYTES[encoding]
        if blocks_OB.shape[1] != wanted:
            raise ValueError(f"{encoding} rows of {columns} columns take {wanted} bytes, not {blocks_OB.shape[1]}")
        blocks_OB = blocks_OB.contiguous()
        self._data = torch.empty(native.packed_bytes(self._number, self.rows, columns), dtype=torch.uint8)
        native.pack(self._number, blocks_OB.data_ptr(), self.rows, columns, self._data.data_ptr())

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return len(self._data)

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

    def multiply(self, x_TI: torch.Tensor, out_TP: torch.Tensor, first: int) -> None:
        """Write x @ weight.T into the columns of `out` from `first` on. Float32, both contiguous."""
        count, width = out_TP.shape
        if x_TI.shape != (count, self.columns) or first + self.rows > width:
            raise ValueError(f"{tuple(x_TI.shape)} by ({self.rows}, {self.columns}) does not fit {tuple(out_TP.shape)}")
        address = out_TP.data_ptr() + 4 * first
        _extension().multiply(
            self._number, self._data.data_ptr(), self.rows, self.columns, x_TI.data_ptr(), count, address, width
        )


class QuantizedLinear:
    """x @ weight.T + bias, where the weight is made of packed matrices one below the other. Float32 in and out."""

    __slots__ = ("_bias_O", "_pieces", "_rows", "dtype")

    def __init__(self, pieces: Sequence[PackedMatrix], bias_O: torch.Tensor | None = None) -> None:
        self._pieces = []
        self._rows = 0
        for piece in pieces:
            self._pieces.append((piece, self._rows))
            self._rows += piece.rows
        self._bias_O = None if bias_O is None else bias_O.float()
        self.dtype = torch.float32

    def __call__(self, x_TI: torch.Tensor) -> torch.Tensor:
        """The product for T rows: float32 (T, O)."""
        x_TI = x_TI.float().contiguous()
        out_TO = torch.empty((x_TI.shape[0], self._rows))
        for piece, first in self._pieces:
            piece.multiply(x_TI, out_TO, first)
        return out_TO if self._bias_O is None else out_TO.add_(self._bias_O)


def multiply_reference(weight_OI: torch.Tensor, x_TI: torch.Tensor) -> torch.Tensor:
    """What a packed product computes, in float64: the activations rounded as there, the weights as they are."""
    x_TGC = x_TI.view(len(x_TI), -1, 16)
    most_TG1 = x_TGC.abs().amax(-1, keepdim=True)
    rounded = torch.where(most_TG1 > 0, (x_TGC * (127.0 / most_TG1)).round(), 0.0).double() * (most_TG1 / 127.0)
    return rounded.view(x_TI.shape) @ weight_OI.double().T


def _extension() -> ModuleType:
    if _native is None:
        raise RuntimeError("Potluck was installed without its C++ extension: install a C++ compiler and Potluck again")
    return _native
