"""Finds the tensors that a quantised matrix of a safetensors folder is stored in, and puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from potluck.models.checkpoint import CheckpointError
from potluck.models.config_quantization import Quantization
from potluck.models.grouped import groups_are_full
from potluck.models.grouped_format import GroupedFormat, Piece
from potluck.models.grouped_parts import check_groups
from potluck.models.mapped_checkpoint import Place
from potluck.models.safetensors_file import Stored

_DTYPES = {"I32": ("I32",), "F16": ("F16", "BF16")}


@dataclass(frozen=True, slots=True)
class GroupedPlace:
    """Where the pieces of a matrix are; a `Source` of its blob.

    Attributes:
        stored: the pieces in the blob's order; no g_idx where the file has none.
        shape: (outputs, inputs).
    """

    grouped: GroupedFormat
    shape: tuple[int, int]
    stored: tuple[Stored, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """The pieces' places."""
        return tuple(piece.place for piece in self.stored)

    def view(self) -> memoryview:
        """The blob, a copy: scales as halves, and a g_idx for every matrix of GPTQ.

        Raises:
            CheckpointError: a file was cut since it was opened.
        """
        pieces = [_halves(piece) if piece.dtype == "BF16" else piece.place.view() for piece in self.stored]
        if len(pieces) < len(self.grouped.pieces(self.shape)):
            pieces.append(self._group_of_inputs().tobytes())
        return memoryview(b"".join(pieces))

    def kept(self) -> str | None:
        """The encoding in which it is multiplied without decoding; None where its groups do not allow that.

        Raises:
            CheckpointError: g_idx is damaged.
        """
        group_I = self._group_of_inputs()
        check_groups(group_I, self.grouped, f"{self.places[0].file.path.name}: a matrix of the shape {self.shape}")
        return self.grouped.kept(self.shape) if groups_are_full(self.grouped, group_I) else None

    def is_ordered(self) -> bool:
        """Whether its groups have inputs out of order, so that its columns are kept in another order than theirs."""
        return bool((np.diff(self._group_of_inputs()) < 0).any())

    def _group_of_inputs(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        if len(self.stored) == 4:
            return np.frombuffer(self.places[3].view(), dtype="<i4")
        return (np.arange(self.shape[1]) // self.grouped.group).astype("<i4")


def grouped_place(
    base: str, shape: tuple[int, ...], tensors: Mapping[str, Stored], quantization: Quantization
) -> GroupedPlace:
    """The place of a quantised matrix.

    Args:
        base: its tensors' names without their ends ("model.layers.0.mlp.down_proj.").
        shape: what the model demands: (outputs, inputs).
        tensors: all of the folder.
        quantization: how the configuration says that they are stored.

    Raises:
        CheckpointError: a tensor is missing, or of a type or shape that does not fit.
    """
    where = f"{tensors[base + 'qweight'].place.file.path.name}: {base[:-1]}"
    absent = [name for name in ("qzeros", "scales") if base + name not in tensors]
    if absent:
        raise CheckpointError(f"{where} has qweight but no {' and no '.join(absent)}; download it again")
    outputs, inputs = shape
    scales = tensors[base + "scales"].shape
    formats = quantization.formats(inputs, scales[0] if scales else 0)
    grouped = next((one for one in formats if not _unfit(base, one, shape, tensors)), formats[0])
    unfit = _unfit(base, grouped, shape, tensors)
    if unfit:
        raise CheckpointError(
            f"{where}.{unfit}, not what {grouped.encoding} of {shape} takes; config.json and weights do not belong "
            "together, or are quantised in a way that is not read: take another version"
        )
    if quantization.act_order and grouped.groups(inputs) > 1 and base + "g_idx" not in tensors:
        raise CheckpointError(
            f"{where} has no g_idx, but config.json says 'desc_act': which inputs a group has is lost; "
            "take a version with g_idx, or without desc_act"
        )
    stored = (tensors.get(base + piece.name) for piece in grouped.pieces(shape))
    return GroupedPlace(grouped, (outputs, inputs), tuple(piece for piece in stored if piece))


def _unfit(base: str, grouped: GroupedFormat, shape: tuple[int, ...], tensors: Mapping[str, Stored]) -> str:
    """What is wrong with the first piece that does not fit; "" where all do."""
    try:
        pieces = grouped.pieces(shape)
    except ValueError as error:
        return f"qweight cannot be: {error}"
    described = (_misfit(piece, tensors.get(base + piece.name)) for piece in pieces)
    return next((text for text in described if text), "")


def _misfit(piece: Piece, stored: Stored | None) -> str:
    """A g_idx may be absent; other pieces were looked for before."""
    if stored is None or (stored.shape == piece.shape and stored.dtype in _DTYPES[piece.dtype]):
        return ""
    return f"{piece.name} is {stored.dtype[:20]} of the shape {stored.shape}"


def _halves(stored: Stored) -> bytes:
    """bfloat16 as IEEE halves: the upper half of a float32, rounded where a scale is below 6e-5."""
    words = np.frombuffer(stored.place.view(), dtype="<u2")
    with np.errstate(over="ignore"):  # a scale that is beyond a half becomes infinite, which decoding refuses
        return (words.astype(np.uint32) << 16).view(np.float32).astype("<f2").tobytes()
