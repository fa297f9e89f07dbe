"""What every checkpoint reader offers, whatever its file format.

A checkpoint is a set of entries (what is stored, how) and their raw bytes. `potluck.models.decode.decode` turns
entry and bytes into a tensor; so a worker that only received entries and bytes needs no checkpoint of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from potluck.models.roles import TensorKey


class CheckpointError(Exception):
    """The checkpoint is damaged, incomplete or of an unsupported kind. The message names file and remedy."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """How one tensor is stored.

    Attributes:
        key: the tensor's role and layer.
        encoding: safetensors dtype or GGML type name: F32, F16, BF16, Q4_0, ... Q6_K; or, for matrices that the file
            stores in several tensors, a name of `potluck.models.grouped_format`: GPTQ4_128, AWQ4_64, ...
        shape: logical shape, outermost first, after decoding.
        nbytes: length of the raw bytes.
        transform: what decoding must undo: `unpermute` (GGUF's interleaved rope rows of llama; `heads` row groups)
            or `plus_one` (norm weights stored around zero by Gemma's safetensors).
        heads: number of heads for `unpermute`, else 0.
    """

    key: TensorKey
    encoding: str
    shape: tuple[int, ...]
    nbytes: int
    transform: Literal["none", "unpermute", "plus_one"] = "none"
    heads: int = 0


class Checkpoint(Protocol):
    """Weights of one model, readable tensor by tensor."""

    @property
    def fingerprint(self) -> str:
        """Hex digest that differs whenever names, shapes, encodings, sizes or metadata differ."""

    @property
    def entries(self) -> Mapping[TensorKey, TensorEntry]:
        """Every tensor stored, by key."""

    def raw(self, key: TensorKey) -> memoryview:
        """The stored bytes of a tensor: mapped, not copied, unless it has to be put together from several.

        Raises:
            CheckpointError: the tensor is not stored, or its file was cut.
        """
