"""Shard files: the pieces of one unit in the layout the kernels read, with a manifest of their hashes.

    magic (8) | bytes of the manifest (8) | its blake3 (32) | manifest (msgpack) | from the next 16 KiB on: pieces

A piece begins at a multiple of 64 bytes. A file is written under another name, synced and renamed; what has the right
name is whole, or was damaged later, which its hashes show.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import torch
from blake3 import blake3

from potluck.worker.mapping import Mapping
from potluck.worker.pieces import Piece

MAGIC = b"PTLKSHD1"
_HEAD = len(MAGIC) + 8 + 32
_ALIGNMENT, _PIECE_ALIGNMENT = 16 << 10, 64  # pages of 16 KiB are the largest there are (Apple)
_MOST_MANIFEST = 1 << 20
_CHECKED = 16 << 20
OnBytes = Callable[[int], None]


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
        return _aligned(self.pieces[-1].begin + self.pieces[-1].nbytes, _ALIGNMENT)


def write_shard_file(
    path: Path, manifest: Manifest, make: Callable[[str], Iterable[torch.Tensor]], on_bytes: OnBytes
) -> None:
    """Write a file whose manifest has no hashes yet; `make(name)` gives a piece's bytes in parts.

    Raises:
        ShardFileError: the disk is full or cannot be written. Nothing stays behind.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _reserve(path.parent, manifest.nbytes)
        with part.open("wb") as file:
            stored = []
            for piece in manifest.pieces:
                file.seek(piece.begin)
                digest, written = blake3(), 0
                for tensor in make(piece.name):
                    data = tensor.numpy().data
                    file.write(data)
                    digest.update(data)
                    written += len(data)
                    on_bytes(len(data))
                if written != piece.nbytes:
                    raise ShardFileError(f"piece {piece.name} of {path.name} has {written} bytes, not {piece.nbytes}")
                stored.append(msgspec.structs.replace(piece, blake3=digest.digest()))
            file.truncate(manifest.nbytes)
            file.seek(0)
            file.write(_header(msgspec.structs.replace(manifest, pieces=tuple(stored))))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ShardFileError(
            f"the shard file {path} cannot be written ({error.strerror or error}); free some space or set --cache"
        ) from None
    finally:
        part.unlink(missing_ok=True)


def planned(fingerprint: str, model: str, unit: str, pieces: Sequence[Piece]) -> Manifest:
    """The manifest of a file that is still to be written: places, no hashes."""
    stored, begin = [], 0
    for piece in pieces:
        stored.append(Stored(piece.name, piece.encoding, piece.shape, begin, piece.nbytes, bytes(32)))
        begin = _aligned(begin + piece.nbytes, _PIECE_ALIGNMENT)
    # Places do not change the manifest's length by more than some bytes a piece.
    start = _aligned(_HEAD + len(msgspec.msgpack.encode(stored)) + 16 * len(stored) + 1024, _ALIGNMENT)
    moved = tuple(msgspec.structs.replace(piece, begin=start + piece.begin) for piece in stored)
    return Manifest(fingerprint, model, unit, moved)


def read_manifest(path: Path) -> Manifest:
    """What a file says it holds.

    Raises:
        ShardFileError: there is no such file, or its head is damaged.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
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


def check(mapping: Mapping, manifest: Manifest, on_bytes: OnBytes) -> None:
    """Compare every piece with its hash.

    Raises:
        ShardFileError: they differ.
    """
    for piece in manifest.pieces:
        digest = blake3()
        for begin in range(piece.begin, piece.begin + piece.nbytes, _CHECKED):
            count = min(_CHECKED, piece.begin + piece.nbytes - begin)
            digest.update(mapping.bytes[begin : begin + count].data)
            on_bytes(count)
        if digest.digest() != piece.blake3 or not mapping.is_whole:
            raise ShardFileError(f"the shard file {mapping.path} is damaged: piece {piece.name} has another hash")


def _header(manifest: Manifest) -> bytes:
    data = msgspec.msgpack.encode(manifest)
    header = MAGIC + len(data).to_bytes(8, "little") + blake3(data).digest() + data
    if len(header) > manifest.pieces[0].begin:
        raise ShardFileError(f"the manifest of {manifest.unit} is too long")
    return header


def _reserve(folder: Path, nbytes: int) -> None:
    found = os.statvfs(folder)
    if (free := found.f_bavail * found.f_frsize) < nbytes:
        raise OSError(28, f"{nbytes / 2**20:.0f} MiB are needed, {free / 2**20:.0f} MiB are free")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
