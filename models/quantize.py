"""Which formats the matrices of a full-precision model are kept in when fewer bits are asked for. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from potluck.models.encodings import PACKED
from potluck.models.mapped_checkpoint import needed_keys
from potluck.models.roles import Role, TensorKey, shape_of
from potluck.models.spec import ModelSpec

# 4 bits with a scale and a minimum for every 32 weights, 8 bits with a scale. Embedding and head decide more per bit
# than any layer, so that they keep 8.
FORMATS: Final = {"int4": "Q4_1", "int8": "Q8_0"}
_ENDS_FORMAT, _GROUP = "Q8_0", 32


def with_quantization(spec: ModelSpec, bits: str) -> ModelSpec:
    """The spec with every matrix in fewer bits: `int4` or `int8`; `none` changes nothing.

    Raises:
        ValueError: the checkpoint's weights are quantised already, or bits are not known.
    """
    if bits == "none":
        return spec
    if bits not in FORMATS:
        raise ValueError(f"--quantize {bits} is not known; use {', '.join(FORMATS)} or none")
    quantised = sorted({encoding for encoding in spec.encodings.values() if encoding in PACKED})
    if quantised:
        raise ValueError(
            f"--quantize is for full-precision models; {spec.name} is stored in {', '.join(quantised)} already"
        )
    encodings = dict(_encodings(spec, FORMATS[bits]))
    if not encodings:
        raise ValueError(
            f"no matrix of {spec.name} can be kept in {bits}: none has rows of a multiple of {_GROUP} columns; "
            "leave out --quantize"
        )
    return replace(spec, encodings=encodings)


def _encodings(spec: ModelSpec, encoding: str) -> Iterator[tuple[str, str]]:
    for key in needed_keys(spec):
        shape = shape_of(spec, key.role)
        if len(shape) == 2 and shape[1] % _GROUP == 0:
            yield str(key), _ENDS_FORMAT if _is_end(key) else encoding


def _is_end(key: TensorKey) -> bool:
    return key.role in (Role.EMBEDDING, Role.HEAD)
