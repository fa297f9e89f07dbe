"""The metadata of a GGUF file as plain Python values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from potluck.models.gguf_header import GgufHeader, parse_header
from potluck.models.mapped_file import MappedFile


def read_metadata(path: Path) -> Mapping[str, object]:
    """All metadata fields of a GGUF file: str, int, float, bool, or a list of these.

    Raises:
        CheckpointError: the file is missing, damaged or no GGUF.
    """
    return read_header(path).metadata


def read_header(path: Path) -> GgufHeader:
    """Metadata and tensor descriptions of a GGUF file; nothing stays open.

    Raises:
        CheckpointError: the file is missing, damaged or no GGUF.
    """
    with closing(MappedFile(path)) as file:
        return parse_header(file.data, path.name)
