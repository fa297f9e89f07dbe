"""JSON objects from files that others wrote."""

from __future__ import annotations

from pathlib import Path

import orjson

from potluck.models.checkpoint import CheckpointError

_MOST_BYTES = 256 << 20


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in a file.

    Raises:
        CheckpointError: the file is missing, too large, or holds no JSON object.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CheckpointError(f"{path.parent.name}/{path.name} is too large to be what its name says")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    return parse_json(data, f"{path.parent.name}/{path.name}")


def parse_json(data: bytes, source: str) -> dict[str, object]:
    """The JSON object in some bytes.

    Raises:
        CheckpointError: they hold no JSON object.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise CheckpointError(f"{source} is no valid JSON ({str(error)[:80]}); download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{source} has to hold a JSON object; download it again")
    return value
