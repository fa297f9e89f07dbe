"""Weights from a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from potluck.models.checkpoint import CheckpointError, TensorEntry
from potluck.models.config_gguf import ROPE_FACTORS, spec_from_gguf
from potluck.models.encodings import ENCODINGS, PACKED
from potluck.models.gguf_header import GgufHeader, parse_header
from potluck.models.mapped_checkpoint import (
    MappedCheckpoint,
    Place,
    check_shape,
    kept_encodings,
    missing,
    needed_keys,
)
from potluck.models.mapped_file import MappedFile
from potluck.models.roles import Role, TensorKey
from potluck.models.spec import ModelSpec

_NAMES: Mapping[Role, str] = {
    Role.EMBEDDING: "token_embd.weight",
    Role.OUTPUT_NORM: "output_norm.weight",
    Role.HEAD: "output.weight",
    Role.ATTENTION_NORM: "attn_norm.weight",
    Role.Q: "attn_q.weight",
    Role.K: "attn_k.weight",
    Role.V: "attn_v.weight",
    Role.O: "attn_output.weight",
    Role.Q_BIAS: "attn_q.bias",
    Role.K_BIAS: "attn_k.bias",
    Role.V_BIAS: "attn_v.bias",
    Role.O_BIAS: "attn_output.bias",
    Role.Q_NORM: "attn_q_norm.weight",
    Role.K_NORM: "attn_k_norm.weight",
    Role.ATTENTION_POST_NORM: "post_attention_norm.weight",
    Role.FFN_NORM: "ffn_norm.weight",
    Role.GATE: "ffn_gate.weight",
    Role.UP: "ffn_up.weight",
    Role.DOWN: "ffn_down.weight",
    Role.FFN_POST_NORM: "post_ffw_norm.weight",
}


def gguf_name(key: TensorKey) -> str:
    """What GGUF calls a tensor."""
    name = _NAMES[key.role]
    return name if key.layer is None else f"blk.{key.layer}.{name}"


def read_gguf_spec(path: Path) -> ModelSpec:
    """The spec of the model in a GGUF file.

    Raises:
        CheckpointError: the file is damaged, or a field is missing or malformed.
        UnsupportedModel: Potluck cannot run this model.
    """
    file = MappedFile(path)
    try:
        return _spec(file, parse_header(file.data, path.name))
    finally:
        file.close()


def open_gguf(path: Path) -> MappedCheckpoint:
    """Open the weights of a GGUF file.

    Raises:
        CheckpointError: the file is damaged, lacks a tensor, or has one of the wrong shape or an unknown encoding.
        UnsupportedModel: Potluck cannot run this model.
    """
    file = MappedFile(path)
    try:
        header = parse_header(file.data, path.name)
        spec = _spec(file, header)
        tensors = {key: (entry, _place(file, header, key)) for key, entry in _entries(spec, header, path.name).items()}
        return MappedCheckpoint(spec, bytes(file.view(0, header.nbytes)), tensors, path.name)
    except BaseException:
        file.close()
        raise


def _entries(spec: ModelSpec, header: GgufHeader, source: str) -> dict[TensorKey, TensorEntry]:
    keys = needed_keys(spec)
    absent = [gguf_name(key) for key in keys if gguf_name(key) not in header.tensors]
    if absent:
        raise missing(source, absent)
    return {key: _entry(spec, header, key, source) for key in keys}


def _entry(spec: ModelSpec, header: GgufHeader, key: TensorKey, source: str) -> TensorEntry:
    """Converters interleave each head's rotary halves for the `llama` architecture, and only there."""
    tensor = header.tensors[gguf_name(key)]
    check_shape(spec, key, tensor.shape, source)
    if tensor.encoding not in ENCODINGS:
        raise CheckpointError(
            f"{source}: tensor {tensor.name!r} is {tensor.encoding}; supported are {', '.join(ENCODINGS)}"
        )
    heads = 0
    if header.metadata.get("general.architecture") == "llama":
        heads = {Role.Q: spec.heads, Role.Q_BIAS: spec.heads}.get(key.role, 0)
        heads = {Role.K: spec.kv_heads, Role.K_BIAS: spec.kv_heads}.get(key.role, heads)
    return TensorEntry(key, tensor.encoding, tensor.shape, tensor.nbytes, "unpermute" if heads else "none", heads)


def _place(file: MappedFile, header: GgufHeader, key: TensorKey) -> Place:
    tensor = header.tensors[gguf_name(key)]
    return Place(file, tensor.offset, tensor.nbytes)


def _spec(file: MappedFile, header: GgufHeader) -> ModelSpec:
    spec = spec_from_gguf(header, file.path.name, _rope_factors(file, header))
    stored = {key: header.tensors.get(gguf_name(key)) for key in needed_keys(spec)}
    packable = {key: tensor.encoding for key, tensor in stored.items() if tensor and tensor.encoding in PACKED}
    return replace(spec, encodings=kept_encodings(packable))


def _rope_factors(file: MappedFile, header: GgufHeader) -> tuple[float, ...] | None:
    tensor = header.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return None
    if tensor.encoding != "F32" or len(tensor.shape) != 1 or tensor.shape[0] > 1024:
        raise CheckpointError(f"{file.path.name}: {ROPE_FACTORS} has to be a list of F32 numbers")
    with file.view(tensor.offset, tensor.nbytes) as view:
        factors = np.frombuffer(view, dtype="<f4").tolist()
    if not all(0 < factor < 1e6 for factor in factors):
        raise CheckpointError(f"{file.path.name} is damaged: {ROPE_FACTORS} has impossible numbers; download it again")
    return tuple(factors)
