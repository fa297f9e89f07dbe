"""Bytes of a model's parts in memory, by compute type and kind of device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from potluck.models.encodings import packed_bytes, plain_bytes
from potluck.models.roles import TensorKey, keys_of, shape_of
from potluck.models.spec import ModelSpec, Part, PartKind

DeviceKind = Literal["cpu", "cuda", "metal"]

# Of hidden rows, KV and dense weights. "quantized" keeps the weights that the checkpoint stores in a format that is
# multiplied as it is; everything else is as in bfloat16.
# "weight-only" is the same but for activations, which are not rounded to 8 bits.
# "float16" keeps dense weights in half precision, everything else is as in bfloat16.
ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2, "quantized": 2, "weight-only": 2}
_KEEPS_ENCODINGS = frozenset({"quantized", "weight-only"})
_VECTOR_ITEMSIZE = _ACTIVATION_ITEMSIZE = 4
_SAMPLED = 16  # rows of a step that have logits


def itemsize(dtype: str) -> int:
    """Bytes of one number of a compute type.

    Raises:
        ValueError: the type is not one that Potluck computes in.
    """
    if dtype not in ITEMSIZE:
        raise ValueError(f"dtype {dtype!r} is not known; use {' or '.join(ITEMSIZE)}")
    return ITEMSIZE[dtype]


def keeps_encodings(dtype: str) -> bool:
    """Whether weights keep the format that the checkpoint stores them in, where it is one that is multiplied."""
    return dtype in _KEEPS_ENCODINGS


def held_encoding(spec: ModelSpec, key: TensorKey, dtype: str) -> str | None:
    """The weight format that a tensor keeps in memory; None where it becomes numbers of the compute type."""
    return spec.encodings.get(str(key)) if keeps_encodings(dtype) else None


def formats_of(spec: ModelSpec, parts: Iterable[Part]) -> tuple[str | None, ...]:
    """The formats of the tensors of some parts, in order; nothing where the model has plain numbers only."""
    if not spec.encodings:
        return ()
    return tuple(spec.encodings.get(str(key)) for part in parts for key in keys_of(spec, part))


def tensor_bytes(spec: ModelSpec, key: TensorKey, dtype: str, kind: DeviceKind = "cpu") -> int:
    """Bytes of one tensor in a device's memory; norms and biases are kept in float32 whatever the compute type."""
    shape, on_gpu = shape_of(spec, key.role), kind == "cuda"
    if encoding := held_encoding(spec, key, dtype):
        return packed_bytes(encoding, shape, on_gpu)
    # Norms and biases are small and stay float32 beside unrounded numbers.
    return plain_bytes(shape, itemsize(dtype) if len(shape) == 2 else _VECTOR_ITEMSIZE, on_gpu)


def weight_bytes(spec: ModelSpec, parts: Iterable[Part], dtype: str, kind: DeviceKind = "cpu") -> int:
    """Bytes of the weights of some parts on one node; a tied embedding and head together cost once."""
    keys = {key for part in parts for key in keys_of(spec, part)}
    return sum(tensor_bytes(spec, key, dtype, kind) for key in keys)


def kv_bytes_per_token(spec: ModelSpec, dtype: str) -> int:
    """Bytes of KV per token and layer."""
    return spec.kv_width() * itemsize(dtype)


def step_bytes(spec: ModelSpec, rows: int) -> int:
    """Bytes that a step of so many packed rows takes beside weights and KV, in float32 whatever the compute type.

    The widest place is a layer's FFN: the residual stream, what attention added, the rows normed and the sum, gate and
    up side by side and what becomes of them. Logits are those of the last rows of some prompts, or of a few decodes.
    """
    return _ACTIVATION_ITEMSIZE * (rows * (4 * spec.hidden + 3 * spec.ffn) + min(rows, _SAMPLED) * spec.vocab)


def layer_parts(layers: Iterable[int]) -> tuple[Part, ...]:
    """The parts of whole layers, in the order a token visits them."""
    return tuple(Part(kind, layer) for layer in layers for kind in (PartKind.ATTENTION, PartKind.FFN))
