"""A checkpoint whose tensors lie in mapped files: what safetensors and GGUF share once their headers are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from blake3 import blake3

from potluck.models.checkpoint import CheckpointError, TensorEntry
from potluck.models.mapped_file import MappedFile
from potluck.models.roles import Role, TensorKey, keys_of, shape_of
from potluck.models.spec import ModelSpec
from potluck.models.spec_codec import pack_spec

_SAMPLE = 4096


class Source(Protocol):
    """Where the bytes of an entry come from: one place, or several that are put together."""

    @property
    def places(self) -> tuple[Place, ...]:
        """All that is read for it."""

    def view(self) -> memoryview:
        """The bytes.

        Raises:
            CheckpointError: a file was cut since it was opened.
        """


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a tensor are."""

    file: MappedFile
    start: int
    nbytes: int

    @property
    def places(self) -> tuple[Place, ...]:
        """Itself."""
        return (self,)

    def view(self) -> memoryview:
        """The bytes, mapped."""
        return self.file.view(self.start, self.nbytes)


class MappedCheckpoint:
    """Tensors of one model in one or more mapped files (a `potluck.models.checkpoint.Checkpoint`)."""

    def __init__(
        self, spec: ModelSpec, header: bytes, tensors: Mapping[TensorKey, tuple[TensorEntry, Source]], source: str
    ) -> None:
        """Take tensors whose shapes `check_shape` found right.

        Args:
            spec: the model's shape.
            header: what the files say of themselves, for the fingerprint.
            tensors: every tensor's entry, and where its bytes come from.
            source: file or folder, for error messages.
        """
        self._sources = {key: place for key, (_, place) in tensors.items()}
        self._entries = {key: entry for key, (entry, _) in tensors.items()}
        self._source = source
        self._fingerprint = _fingerprint(spec, header, tensors.values())

    @property
    def fingerprint(self) -> str:
        """Digest of spec, headers, sizes, and the first and last 4 KiB of every tensor read.

        Two copies of a model agree in it wherever they lie, and a replaced tensor practically always changes it. A
        flipped bit in the middle of a large tensor does not: finding that takes reading every byte, which is done
        where a tensor is read anyway (transfers between nodes carry a hash of all of it).
        """
        return self._fingerprint

    @property
    def entries(self) -> Mapping[TensorKey, TensorEntry]:
        """Every tensor stored, by key."""
        return self._entries

    def raw(self, key: TensorKey) -> memoryview:
        """The stored bytes of a tensor: mapped, not copied, unless they are put together from several places.

        Raises:
            CheckpointError: the tensor is not stored, or its file was cut.
        """
        source = self._sources.get(key)
        if source is None:
            raise CheckpointError(f"{self._source} has no tensor {key}")
        return source.view()


def needed_keys(spec: ModelSpec) -> list[TensorKey]:
    """Every tensor a model of this spec needs, once, in the order its parts run."""
    return list(dict.fromkeys(key for part in spec.parts() for key in keys_of(spec, part)))


def kept_encodings(packable: Mapping[TensorKey, str]) -> dict[str, str]:
    """`ModelSpec.encodings` of a model with these matrices in formats that are multiplied as they are.

    Matrices that are multiplied at once are kept as stored together, or none of them is.
    """
    return {str(key): encoding for key, encoding in packable.items() if _together(key) <= packable.keys()}


def _together(key: TensorKey) -> set[TensorKey]:
    for group in ({Role.Q, Role.K, Role.V}, {Role.GATE, Role.UP}):
        if key.role in group:
            return {TensorKey(role, key.layer) for role in group}
    return {key}


def check_shape(spec: ModelSpec, key: TensorKey, shape: tuple[int, ...], source: str) -> None:
    """Refuse a tensor that does not fit the model.

    Raises:
        CheckpointError: its shape is not the one the spec demands.
    """
    wanted = shape_of(spec, key.role)
    if shape != wanted:
        raise CheckpointError(
            f"{source}: tensor {key} has the shape {shape}, the configuration demands {wanted}; "
            "files of two models are mixed up or damaged, download it again"
        )


def missing(source: str, names: list[str]) -> CheckpointError:
    """The error for tensors that are not there."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return CheckpointError(
        f"{source} lacks the tensors {', '.join(names[:4])}{more}; the download is incomplete, "
        "or the model was saved in a form Potluck does not know"
    )


def _fingerprint(spec: ModelSpec, header: bytes, tensors: Iterable[tuple[TensorEntry, Source]]) -> str:
    # The order of columns is in the tensors' own bytes; so files from before the spec knew of it are still found.
    digest = blake3(pack_spec(replace(spec, name="", ordered=())))
    digest.update(header)
    for entry, source in tensors:
        digest.update(repr(entry).encode())
        for place in source.places:
            view = place.view()
            digest.update(view[:_SAMPLE])
            digest.update(view[-_SAMPLE:])
    return digest.hexdigest()
