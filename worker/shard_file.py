"""Shard files: the pieces of one unit in the layout the kernels read. Writing and checking them.

A file is written under another name, synced and renamed; what has the right
name is whole, or was damaged later, which its hashes show.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import torch
from blake3 import blake3

from potluck.worker.mapped_file import MappedFile
from potluck.worker.pieces import Piece
from potluck.worker.shard_manifest import (
    ALIGNMENT,
    HEAD,
    MAGIC,
    PIECE_ALIGNMENT,
    Manifest,
    ShardFileError,
    Stored,
    aligned,
)

_CHECKED = 16 << 20
OnBytes = Callable[[int], None]


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
        remedy = (
            "free some space or set --cache" if error.errno == errno.ENOSPC else "see to that folder or set --cache"
        )
        raise ShardFileError(f"the shard file {path} cannot be written ({error.strerror or error}); {remedy}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def planned(fingerprint: str, model: str, unit: str, pieces: Sequence[Piece]) -> Manifest:
    """The manifest of a file that is still to be written: places, no hashes."""
    stored, begin = [], 0
    for piece in pieces:
        stored.append(Stored(piece.name, piece.encoding, piece.shape, begin, piece.nbytes, bytes(32)))
        begin = aligned(begin + piece.nbytes, PIECE_ALIGNMENT)
    # Places do not change the manifest's length by more than some bytes a piece.
    start = aligned(HEAD + len(msgspec.msgpack.encode(stored)) + 16 * len(stored) + 1024, ALIGNMENT)
    moved = tuple(msgspec.structs.replace(piece, begin=start + piece.begin) for piece in stored)
    return Manifest(fingerprint, model, unit, moved)


def check(mapping: MappedFile, manifest: Manifest, on_bytes: OnBytes) -> None:
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
        raise OSError(errno.ENOSPC, f"{nbytes / 2**20:.0f} MiB are needed, {free / 2**20:.0f} MiB are free")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
