"""Which shard files lie in a cache, and taking them away. Needs no torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from potluck.worker.shard_manifest import ShardFileError, read_manifest

FOLDER = "shards"


@dataclass(frozen=True, slots=True)
class CachedShards:
    """The shard files of one model in one place: how many, their bytes, when they were last written or damaged."""

    model: str
    folder: Path
    files: tuple[Path, ...]
    nbytes: int


def cached_shards(cache: Path) -> list[CachedShards]:
    """All shard files under a cache, those of emulated nodes too."""
    return [found for folder in sorted(cache.rglob(FOLDER)) for found in _of_folder(folder)]


def remove(shards: CachedShards) -> int:
    """Delete them; the bytes that are free now. Workers that have them mapped keep what they have.

    Raises:
        ShardFileError: the folder is not this user's to change.
    """
    try:
        for path in shards.files:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        if not any(shards.folder.iterdir()):
            shards.folder.rmdir()
    except OSError as error:
        raise ShardFileError(f"{shards.folder} cannot be cleaned: {error.strerror}") from None
    return shards.nbytes


def _of_folder(folder: Path) -> Iterator[CachedShards]:
    for place in sorted(path for path in folder.glob("*") if path.is_dir()):
        # What a killed worker left half-written goes with the others.
        files = tuple(sorted([*place.glob("*.shard"), *place.glob("*.part")]))
        if files:
            yield CachedShards(_model(files), place, files, sum(path.lstat().st_size for path in files))


def _model(files: tuple[Path, ...]) -> str:
    for path in files:
        try:
            return read_manifest(path).model
        except ShardFileError:
            continue
    return "(damaged)"
