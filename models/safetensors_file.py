"""Reads the headers of safetensors files, over the same mapping that hands out the bytes.

So workers can send stored bytes on without decoding them. Layout: 8 bytes length, a JSON object, then the data
(huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from potluck.models.checkpoint import CheckpointError
from potluck.models.json_file import parse_json, read_json
from potluck.models.mapped_checkpoint import Place
from potluck.models.mapped_file import MappedFile

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_HEADER = 100 << 20
# Of the types that are read; tensors of others may be there, unread.
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a file: its safetensors dtype, shape and place."""

    dtype: str
    shape: tuple[int, ...]
    place: Place


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, by name. An index may name files of this folder only.

    Raises:
        CheckpointError: the index is malformed, or a file is missing.
    """
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


def read_tensors(files: list[MappedFile]) -> tuple[bytes, dict[str, Stored]]:
    """The headers as they stand in the files, and every tensor by its name.

    Raises:
        CheckpointError: a file is cut, or its header is damaged.
    """
    headers, tensors = b"", dict[str, Stored]()
    for file in files:
        header, start = _header(file)
        headers += header
        tensors |= _of_file(file, header, start)
    return headers, tensors


def _header(file: MappedFile) -> tuple[bytes, int]:
    """The JSON header and where the data starts."""
    length = int.from_bytes(file.data[:8], "little")
    if file.size < 8 or not 2 <= length <= min(_MAX_HEADER, file.size - 8):
        raise CheckpointError(f"{file.path.name} is damaged, cut or no safetensors file; download it again")
    return bytes(file.data[8 : 8 + length]), 8 + length


def _of_file(file: MappedFile, header: bytes, start: int) -> dict[str, Stored]:
    found = {}
    for name, described in parse_json(header, file.path.name).items():
        if name == "__metadata__":
            continue
        found[name] = _described(file, start, name, described)
    end = start
    for place in sorted((stored.place for stored in found.values()), key=lambda place: (place.start, place.nbytes)):
        if place.start != end:
            raise CheckpointError(f"{file.path.name} is damaged: its tensors overlap or leave a gap; download it again")
        end += place.nbytes
    if end != file.size:
        raise CheckpointError(f"{file.path.name} has {file.size} bytes, its header says {end}: cut; download it again")
    return found


def _described(file: MappedFile, start: int, name: str, described: object) -> Stored:
    match described:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if all(
            type(size) is int and size >= 0 for size in shape
        ):
            nbytes = end - begin
            fits = 0 <= begin <= end <= file.size - start
            if fits and (dtype not in _WIDTHS or nbytes == math.prod(shape) * _WIDTHS[dtype]):
                return Stored(dtype, tuple(shape), Place(file, start + begin, nbytes))
    raise CheckpointError(f"{file.path.name} is damaged: its header describes {name[:80]!r} wrongly; download it again")
