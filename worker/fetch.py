"""Weights over the wire: a worker without the checkpoint gets the raw tensors of its share from one that has it."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import blake3
import grpc

from potluck.models.checkpoint import Checkpoint, CheckpointError, TensorEntry
from potluck.models.roles import Role, TensorKey
from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import open_channel, worker_stub
from potluck.proto.errors import FrameError

CHUNK = 1 << 20
_TRIES = 2
_PAUSES = (0.2, 0.5, 1.0, 2.0)  # seconds before asking a source again that could not be reached
_CALL_SECONDS = 600.0  # a manifest hashes every tensor once; a peer that is gone is noticed by keepalive
OnBytes = Callable[[int], None]
_TRANSFORMS: Mapping[str, Literal["none", "unpermute", "plus_one"]] = {
    "none": "none",
    "unpermute": "unpermute",
    "plus_one": "plus_one",
}


def parse_key(text: str) -> TensorKey:
    """ "3.q" or "embedding".

    Raises:
        FrameError: no tensor has that name.
    """
    layer, _, role = text.rpartition(".")
    if text.isascii() and len(text) < 64 and (not layer or layer.isdigit()) and role in set(Role):
        return TensorKey(Role(role), int(layer) if layer else None)
    raise FrameError(f"there is no tensor {text[:64]!r}")


def check_fingerprint(text: str) -> str:
    """A fingerprint that may name a folder.

    Raises:
        FrameError: it is not a hex digest.
    """
    if not 16 <= len(text) <= 128 or not set(text) <= set("0123456789abcdef"):
        raise FrameError("the fingerprint is not a hex digest")
    return text


class Holder:
    """Serves tensors of the checkpoints this worker has opened; opens one when it is first asked for."""

    def __init__(self, open_checkpoint: Callable[[Path], Checkpoint]) -> None:
        self._open = open_checkpoint
        self._opening = threading.Lock()
        self._checkpoints: dict[str, Checkpoint] = {}
        self._hashes: dict[tuple[str, TensorKey], bytes] = {}

    def find(self, fingerprint: str, path: str) -> Checkpoint | None:
        """That checkpoint, opening what lies at this path if need be; None where it is not here.

        Raises:
            CheckpointError, FrameError: the file is damaged; the fingerprint is malformed.
        """
        check_fingerprint(fingerprint)
        with self._opening:
            if fingerprint not in self._checkpoints and _is_there(path):
                checkpoint = self._open(Path(path))
                self._checkpoints[checkpoint.fingerprint] = checkpoint
            return self._checkpoints.get(fingerprint)

    def entry(self, fingerprint: str, text: str) -> pb.Entry:
        """How a tensor is stored, and its hash.

        Raises:
            KeyError: it is not here.
            FrameError: the request is malformed.
            CheckpointError: its bytes cannot be read.
        """
        key = parse_key(text)
        checkpoint = self._checkpoints[check_fingerprint(fingerprint)]
        entry = checkpoint.entries[key]
        if (fingerprint, key) not in self._hashes:
            self._hashes[fingerprint, key] = blake3.blake3(checkpoint.raw(key)).digest()
        return pb.Entry(
            key=text,
            encoding=entry.encoding,
            shape=entry.shape,
            nbytes=entry.nbytes,
            transform=entry.transform,
            heads=entry.heads,
            blake3=self._hashes[fingerprint, key],
        )

    def chunks(self, request: pb.FetchRequest) -> Iterator[pb.Chunk]:
        """A tensor's bytes from an offset on; errors as `entry`."""
        key = parse_key(request.key)
        checkpoint = self._checkpoints[check_fingerprint(request.fingerprint)]
        if key not in checkpoint.entries:
            raise KeyError(request.key)
        raw = checkpoint.raw(key)
        if request.offset > len(raw):
            raise FrameError(f"offset {request.offset} lies beyond the {len(raw)} bytes of {request.key}")
        for offset in range(request.offset, len(raw), CHUNK):
            yield pb.Chunk(offset=offset, data=bytes(raw[offset : offset + CHUNK]))


def _is_there(path: str) -> bool:
    try:
        return bool(path) and (Path(path).is_file() or Path(path).is_dir())
    except OSError:
        return False


class FetchedCheckpoint:
    """A `Checkpoint` of the tensors that were fetched, mapped from the cache."""

    def __init__(self, folder: Path, fingerprint: str, entries: Mapping[TensorKey, TensorEntry]) -> None:
        self._folder = folder
        self.fingerprint = fingerprint
        self.entries = entries

    def raw(self, key: TensorKey) -> memoryview:
        """The tensor's bytes, mapped.

        Raises:
            CheckpointError: the file vanished or was cut.
        """
        path, entry = self._folder / str(key), self.entries[key]
        try:
            with path.open("rb") as file:
                view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):
            raise CheckpointError(f"fetched tensor {path} cannot be read; delete it and load again") from None
        if len(view) != entry.nbytes:
            raise CheckpointError(f"fetched tensor {path} has {len(view)} bytes, not {entry.nbytes}; delete it")
        return view


class Fetcher:
    """Fetches tensors into a folder. What was fetched before, even in part, is not fetched again."""

    def __init__(self, cache: Path, token: str, assignment: pb.Assignment) -> None:
        self._cache, self._token = cache, token
        self._sources, self._path = assignment.sources, assignment.checkpoint

    def fetch(self, fingerprint: str, keys: Sequence[TensorKey], plan: Callable[[int], OnBytes]) -> FetchedCheckpoint:
        """Every tensor of the keys. `plan` learns how many bytes there are and gives what counts them.

        Raises:
            CheckpointError: no source has them, or the bytes stay wrong.
        """
        folder = self._cache / "tensors" / check_fingerprint(fingerprint)
        folder.mkdir(parents=True, exist_ok=True)
        reasons: list[str] = []
        for source in self._sources:
            try:
                return self._patiently(source, folder, keys, plan)
            except (grpc.RpcError, CheckpointError) as error:
                reasons.append(f"{source.node}: {_reason(error)}")
        tried = "; ".join(reasons) or "no other node has it"
        raise CheckpointError(f"this node has no copy of the model and cannot fetch its share ({tried})")

    def _patiently(
        self, source: pb.Peer, folder: Path, keys: Sequence[TensorKey], plan: Callable[[int], OnBytes]
    ) -> FetchedCheckpoint:
        for pause in _PAUSES:
            try:
                return self._from(source, folder, keys, plan)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                time.sleep(pause)
        return self._from(source, folder, keys, plan)

    def _from(
        self, source: pb.Peer, folder: Path, keys: Sequence[TensorKey], plan: Callable[[int], OnBytes]
    ) -> FetchedCheckpoint:
        channel = open_channel(source.address, self._token)
        try:
            stub = worker_stub(channel)
            request = pb.ManifestRequest(
                fingerprint=folder.name, keys=[str(key) for key in keys], checkpoint=self._path
            )
            reply = stub.Manifest(request, timeout=_CALL_SECONDS)
            wanted = {parse_key(entry.key): entry for entry in reply.entries}
            if set(wanted) != set(keys):
                raise CheckpointError("it sent another manifest than was asked for")
            on_bytes = plan(sum(entry.nbytes for entry in reply.entries))
            for entry in wanted.values():
                _fetch_one(stub, folder, entry, on_bytes)
            return FetchedCheckpoint(folder, folder.name, {key: _entry(key, entry) for key, entry in wanted.items()})
        except FrameError as error:
            raise CheckpointError(str(error)) from None
        finally:
            channel.close()


def _fetch_one(stub: object, folder: Path, entry: pb.Entry, on_bytes: OnBytes) -> None:
    """Fetch a tensor that is not here yet."""
    done = folder / entry.key
    if done.exists() and done.stat().st_size == entry.nbytes and _hash(done) == entry.blake3:
        on_bytes(entry.nbytes)
        return
    part = folder / f"{entry.key}.part"
    for _ in range(_TRIES):
        # Workers of one machine may share a cache: only one at a time appends, the next finds the tensor done.
        with part.open("ab") as file, _locked(file):
            if not _is_still(part, file):
                _fetch_one(stub, folder, entry, on_bytes)
                return
            counted = _receive(stub, folder.name, entry, file, on_bytes)
            if counted == entry.nbytes and _hash(part) == entry.blake3:
                part.replace(done)
                return
            part.unlink()
            on_bytes(-counted)
    raise CheckpointError(f"the bytes of tensor {entry.key} came damaged {_TRIES} times")


def _is_still(part: Path, file: BinaryIO) -> bool:
    """Whether the path still means the open file: who held the lock before may have finished or discarded it."""
    try:
        return os.path.samestat(part.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _receive(stub: object, fingerprint: str, entry: pb.Entry, file: BinaryIO, on_bytes: OnBytes) -> int:
    """Append what is missing; how many bytes the file then has."""
    have = file.seek(0, os.SEEK_END)
    on_bytes(have)
    request = pb.FetchRequest(fingerprint=fingerprint, key=entry.key, offset=have)
    try:
        if have < entry.nbytes:
            for chunk in stub.Fetch(request):  # type: ignore[attr-defined]
                if chunk.offset != have or have + len(chunk.data) > entry.nbytes:
                    raise CheckpointError(f"the bytes of tensor {entry.key} came in the wrong order")
                file.write(chunk.data)
                have += len(chunk.data)
                on_bytes(len(chunk.data))
    finally:
        file.flush()
    os.fsync(file.fileno())
    return have


def _entry(key: TensorKey, entry: pb.Entry) -> TensorEntry:
    transform = _TRANSFORMS.get(entry.transform)
    if transform is None:
        raise CheckpointError(f"tensor {entry.key} has an unknown transform {entry.transform[:40]!r}")
    return TensorEntry(key, entry.encoding, tuple(entry.shape), entry.nbytes, transform, entry.heads)


def _hash(path: Path) -> bytes:
    digest: bytes = blake3.blake3().update_mmap(path).digest() if path.stat().st_size else blake3.blake3().digest()
    return digest


def _reason(error: Exception) -> str:
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name.lower()} {error.details() or ''}".strip()
    return str(error)
