"""What a shard file says of itself: of which model, which unit, which pieces with which hashes. Needs no torch.

    magic (8) | bytes of the manifest (8) | its blake3 (32) | manifest (msgpack) | from the next 16 KiB on: pieces

A piece begins at a multiple of 64 bytes.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from blake3 import blake3

MAGIC = b"PTLKSHD1"
HEAD = len(MAGIC) + 8 + 32
ALIGNMENT, PIECE_ALIGNMENT = 16 << 10, 64  # pages of 16 KiB are the largest there are (Apple)
_MOST_MANIFEST = 1 << 20


class ShardFileError(Exception):
    """A shard file is missing, damaged or cannot be written; the message names it."""


class Stored(msgspec.Struct, frozen=True):
    """Where a piece stands in its file."""

    name: str
    encoding: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int
    blake3: bytes


class Manifest(msgspec.Struct, frozen=True):
    """What a file holds: of which model (fingerprint and name), which unit, which pieces."""

    fingerprint: str
    model: str
    unit: str
    pieces: tuple[Stored, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return aligned(self.pieces[-1].begin + self.pieces[-1].nbytes, ALIGNMENT)


def read_manifest(path: Path) -> Manifest:
    """What a file says it holds.

    Raises:
        ShardFileError: there is no such file, or its head is damaged.
    """
    if path.exists() and not path.is_file():
        raise ShardFileError(f"{path} is no file; delete it")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            length = int.from_bytes(head[8:16], "little")
            data = file.read(min(length, _MOST_MANIFEST))
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ShardFileError(f"the shard file {path} cannot be read ({error.strerror})") from None
    if head[:8] != MAGIC or blake3(data).digest() != head[16:48]:
        raise ShardFileError(f"the shard file {path} is damaged: its head is not one")
    try:
        manifest = msgspec.msgpack.decode(data, type=Manifest)
    except msgspec.MsgspecError:
        raise ShardFileError(f"the shard file {path} is damaged: its manifest cannot be read") from None
    if not manifest.pieces or manifest.nbytes != size:
        raise ShardFileError(f"the shard file {path} is damaged: it has {size} bytes, not {manifest.nbytes}")
    return manifest


def aligned(size: int, alignment: int) -> int:
    """Rounded up."""
    return -(-size // alignment) * alignment
