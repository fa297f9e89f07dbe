"""Weights from a folder with safetensors files, one or several with an index.

The headers are read here, over the same mapping that hands out the bytes, so that workers can send stored bytes on
without decoding them. Layout: 8 bytes length, a JSON object, then the data (huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from potluck.models.checkpoint import CheckpointError, TensorEntry
from potluck.models.json_file import parse_json, read_json
from potluck.models.mapped_checkpoint import MappedCheckpoint, Place, check_shape, missing, needed_keys
from potluck.models.mapped_file import MappedFile
from potluck.models.roles import Role, TensorKey
from potluck.models.spec import ModelSpec

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_HEADER = 100 << 20
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
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


def open_safetensors(folder: Path, spec: ModelSpec) -> MappedCheckpoint:
    """Open the weights in a folder.

    Raises:
        CheckpointError: files are damaged or missing, lack a tensor, or have one of the wrong shape or type.
    """
    files = [MappedFile(path) for path in _files(folder)]
    try:
        return _opened(folder.name, spec, files)
    except BaseException:
        for file in files:
            file.close()
        raise


def _opened(source: str, spec: ModelSpec, files: list[MappedFile]) -> MappedCheckpoint:
    stored: dict[str, tuple[str, tuple[int, ...], Place]] = {}
    headers = b""
    for file in files:
        header, start = _header(file)
        headers += header
        stored |= _stored(file, header, start)
    names = _named(spec, stored)
    absent = [name for name in names.values() if name not in stored]
    if absent:
        raise missing(source, absent)
    tensors = {key: (_entry(spec, key, stored[name]), stored[name][2]) for key, name in names.items()}
    return MappedCheckpoint(spec, headers, tensors, source)


def _files(folder: Path) -> list[Path]:
    """The weight files, in the index's order. The index may name files of this folder only."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    weights = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise CheckpointError(f"{folder.name}/{INDEX}: 'weight_map' has to name a file for every tensor")
    names = sorted(set(weights.values()))
    for name in names:
        if PurePosixPath(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{folder.name}/{INDEX} names {name[:80]!r}: only safetensors files beside it are read"
            )
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(f"{folder.name} lacks {', '.join(absent[:4])}: the download is incomplete, run it again")
    return [folder / name for name in names]


def _header(file: MappedFile) -> tuple[bytes, int]:
    """The JSON header and where the data starts."""
    length = int.from_bytes(file.data[:8], "little")
    if file.size < 8 or not 2 <= length <= min(_MAX_HEADER, file.size - 8):
        raise CheckpointError(f"{file.path.name} is damaged, cut or no safetensors file; download it again")
    return bytes(file.data[8 : 8 + length]), 8 + length


def _stored(file: MappedFile, header: bytes, start: int) -> dict[str, tuple[str, tuple[int, ...], Place]]:
    """Type, shape and place of every tensor of a file."""
    found = {}
    for name, described in parse_json(header, file.path.name).items():
        if name == "__metadata__":
            continue
        found[name] = _described(file, start, name, described)
    end = start
    for place in sorted((place for _, _, place in found.values()), key=lambda place: (place.start, place.nbytes)):
        if place.start != end:
            raise CheckpointError(f"{file.path.name} is damaged: its tensors overlap or leave a gap; download it again")
        end += place.nbytes
    if end != file.size:
        raise CheckpointError(f"{file.path.name} has {file.size} bytes, its header says {end}: cut; download it again")
    return found


def _described(file: MappedFile, start: int, name: str, described: object) -> tuple[str, tuple[int, ...], Place]:
    match described:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if all(
            type(size) is int and size >= 0 for size in shape
        ):
            nbytes = end - begin
            fits = 0 <= begin <= end <= file.size - start
            if fits and (dtype not in _WIDTHS or nbytes == math.prod(shape) * _WIDTHS[dtype]):
                return dtype, tuple(shape), Place(file, start + begin, nbytes)
    raise CheckpointError(f"{file.path.name} is damaged: its header describes {name[:80]!r} wrongly; download it again")


def _named(spec: ModelSpec, stored: Mapping[str, object]) -> dict[TensorKey, str]:
    """What every needed tensor is called in this checkpoint."""
    embedding = _NAMES[Role.EMBEDDING]
    prefix = next((prefix for prefix in _PREFIXES if prefix + embedding in stored), _PREFIXES[0])
    head = next(
        (name for name in ("lm_head.weight", "language_model.lm_head.weight") if name in stored), "lm_head.weight"
    )
    names = dict(_NAMES)
    if spec.post_norms:
        names[Role.FFN_NORM] = "pre_feedforward_layernorm.weight"
    return {key: head if key.role is Role.HEAD else prefix + _layer(key) + names[key.role] for key in needed_keys(spec)}


def _layer(key: TensorKey) -> str:
    return "" if key.layer is None else f"layers.{key.layer}."


def _entry(spec: ModelSpec, key: TensorKey, stored: tuple[str, tuple[int, ...], Place]) -> TensorEntry:
    """Gemma's norm weights are stored around zero: the norm multiplies by one plus the weight."""
    dtype, shape, place = stored
    check_shape(spec, key, shape, place.file.path.name)
    if dtype not in _WIDTHS:
        raise CheckpointError(
            f"{place.file.path.name}: tensor {key} is {dtype[:20]!r}; supported are {', '.join(_WIDTHS)}; take another"
        )
    around_zero = spec.family == "gemma3" and key.role in _NORMS
    return TensorEntry(key, dtype, shape, place.nbytes, "plus_one" if around_zero else "none")
