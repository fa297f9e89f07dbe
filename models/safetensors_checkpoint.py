"""Weights from a folder with safetensors files, one or several with an index; GPTQ and AWQ as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from potluck.models.checkpoint import CheckpointError, TensorEntry
from potluck.models.config_quantization import Quantization
from potluck.models.encodings import encoded_bytes
from potluck.models.mapped_checkpoint import (
    MappedCheckpoint,
    Source,
    check_shape,
    kept_encodings,
    missing,
    needed_keys,
)
from potluck.models.mapped_file import MappedFile
from potluck.models.roles import Role, TensorKey, shape_of
from potluck.models.safetensors_file import Stored, read_tensors, weight_files
from potluck.models.safetensors_grouped import GroupedPlace, grouped_place
from potluck.models.spec import ModelSpec

_FLOATS = ("F32", "F16", "BF16")
_QUANTIZABLE = frozenset({Role.Q, Role.K, Role.V, Role.O, Role.GATE, Role.UP, Role.DOWN, Role.HEAD})
_Tensors = dict[TensorKey, tuple[TensorEntry, Source]]
# As saved by transformers 4 and 5 for text models, and for Gemma 3 with vision (old and new).
_PREFIXES = ("model.", "language_model.model.", "model.language_model.", "")
_NORMS = frozenset(role for role in Role if role.endswith("norm"))
_NAMES: Mapping[Role, str] = {
    Role.EMBEDDING: "embed_tokens.weight",
    Role.OUTPUT_NORM: "norm.weight",
    Role.ATTENTION_NORM: "input_layernorm.weight",
    Role.Q: "self_attn.q_proj.weight",
    Role.K: "self_attn.k_proj.weight",
    Role.V: "self_attn.v_proj.weight",
    Role.O: "self_attn.o_proj.weight",
    Role.Q_BIAS: "self_attn.q_proj.bias",
    Role.K_BIAS: "self_attn.k_proj.bias",
    Role.V_BIAS: "self_attn.v_proj.bias",
    Role.O_BIAS: "self_attn.o_proj.bias",
    Role.Q_NORM: "self_attn.q_norm.weight",
    Role.K_NORM: "self_attn.k_norm.weight",
    Role.ATTENTION_POST_NORM: "post_attention_layernorm.weight",
    Role.FFN_NORM: "post_attention_layernorm.weight",
    Role.GATE: "mlp.gate_proj.weight",
    Role.UP: "mlp.up_proj.weight",
    Role.DOWN: "mlp.down_proj.weight",
    Role.FFN_POST_NORM: "post_feedforward_layernorm.weight",
}


def open_safetensors(folder: Path, spec: ModelSpec, quantization: Quantization | None = None) -> MappedCheckpoint:
    """Open the weights in a folder, quantised as its configuration says.

    Raises:
        CheckpointError: files are damaged or missing, lack a tensor, or have one of the wrong shape or type.
    """
    with ExitStack() as unmapping:
        headers, stored = read_tensors(_mapped(folder, unmapping))
        tensors = _tensors(folder.name, spec, stored, quantization)
        checkpoint = MappedCheckpoint(_with_encodings(spec, tensors), headers, tensors, folder.name)
        unmapping.pop_all()
    return checkpoint


def read_quantized_spec(folder: Path, spec: ModelSpec, quantization: Quantization) -> ModelSpec:
    """The spec with the encodings of the matrices that are multiplied as they are stored.

    Raises:
        CheckpointError: as `open_safetensors`.
    """
    with ExitStack() as unmapping:
        _, stored = read_tensors(_mapped(folder, unmapping))
        return _with_encodings(spec, _tensors(folder.name, spec, stored, quantization))


def _mapped(folder: Path, unmapping: ExitStack) -> list[MappedFile]:
    """The weight files, which the stack unmaps."""
    files = []
    for path in weight_files(folder):
        files.append(MappedFile(path))
        unmapping.callback(files[-1].close)
    return files


def _tensors(source: str, spec: ModelSpec, stored: Mapping[str, Stored], quantization: Quantization | None) -> _Tensors:
    names = stored_names(spec, stored)
    packed = {key: name.removesuffix("weight") for key, name in names.items() if _is_quantized(key, name, stored)}
    absent = [name for key, name in names.items() if key not in packed and name not in stored]
    if absent:
        raise missing(source, absent)
    if quantization is None and packed:
        raise CheckpointError(
            f"{source} has quantised matrices, but its config.json no quantization_config; take a version that has it"
        )
    tensors: _Tensors = {}
    for key, name in names.items():
        if quantization and key in packed:
            tensors[key] = _grouped(key, grouped_place(packed[key], shape_of(spec, key.role), stored, quantization))
        else:
            tensors[key] = _entry(spec, key, stored[name]), stored[name].place
    return tensors


def _is_quantized(key: TensorKey, name: str, stored: Mapping[str, Stored]) -> bool:
    return key.role in _QUANTIZABLE and _quantized(name) in stored


def _quantized(name: str) -> str:
    """What the numbers of a quantised matrix are called."""
    return name.removesuffix("weight") + "qweight"


def _with_encodings(spec: ModelSpec, tensors: _Tensors) -> ModelSpec:
    grouped = {key: place for key, (_, place) in tensors.items() if isinstance(place, GroupedPlace)}
    kept = {key: encoding for key, place in grouped.items() if (encoding := place.kept())}
    encodings = kept_encodings(kept)
    ordered = tuple(str(key) for key in kept if str(key) in encodings and grouped[key].is_ordered())
    return replace(spec, encodings=encodings, ordered=ordered)


def _grouped(key: TensorKey, place: GroupedPlace) -> tuple[TensorEntry, GroupedPlace]:
    encoding = place.grouped.encoding
    return TensorEntry(key, encoding, place.shape, encoded_bytes(encoding, place.shape)), place


def stored_names(spec: ModelSpec, stored: Mapping[str, object]) -> dict[TensorKey, str]:
    """What every needed tensor is called in this checkpoint."""
    embedding = _NAMES[Role.EMBEDDING]
    prefix = next((prefix for prefix in _PREFIXES if prefix + embedding in stored), _PREFIXES[0])
    heads = ("lm_head.weight", "language_model.lm_head.weight")
    head = next((name for name in heads if name in stored or _quantized(name) in stored), heads[0])
    names = dict(_NAMES)
    if spec.post_norms:
        names[Role.FFN_NORM] = "pre_feedforward_layernorm.weight"
    return {key: head if key.role is Role.HEAD else prefix + _layer(key) + names[key.role] for key in needed_keys(spec)}


def _layer(key: TensorKey) -> str:
    return "" if key.layer is None else f"layers.{key.layer}."


def _entry(spec: ModelSpec, key: TensorKey, stored: Stored) -> TensorEntry:
    """Gemma's norm weights are stored around zero: the norm multiplies by one plus the weight."""
    source = stored.place.file.path.name
    check_shape(spec, key, stored.shape, source)
    if stored.dtype not in _FLOATS:
        raise CheckpointError(
            f"{source}: tensor {key} is {stored.dtype[:20]!r}; supported are {', '.join(_FLOATS)}; take another"
        )
    around_zero = spec.family == "gemma3" and key.role in _NORMS
    return TensorEntry(key, stored.dtype, stored.shape, stored.place.nbytes, "plus_one" if around_zero else "none")
