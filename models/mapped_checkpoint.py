"""A checkpoint whose tensors lie in mapped files: what safetensors and GGUF share once their headers are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from blake3 import blake3

from potluck.models.checkpoint import CheckpointError, TensorEntry
from potluck.models.mapped_file import MappedFile
from potluck.models.roles import TensorKey, keys_of, shape_of
from potluck.models.spec import ModelSpec
from potluck.models.spec_codec import pack_spec

_SAMPLE = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a tensor are."""

    file: MappedFile
    start: int
    nbytes: int

    def view(self) -> memoryview:
        """The bytes, mapped."""
        return self.file.view(self.start, self.nbytes)


class MappedCheckpoint:
    """Tensors of one model in one or more mapped files (a `potluck.models.checkpoint.Checkpoint`)."""

    def __init__(
        self, spec: ModelSpec, header: bytes, tensors: Mapping[TensorKey, tuple[TensorEntry, Place]], source: str
    ) -> None:
        """Take tensors whose shapes `check_shape` found right.

        Args:
            spec: the model's shape.
            header: what the files say of themselves, for the fingerprint.
            tensors: entry and place of every tensor.
            source: file or folder, for error messages.
        """
        self._places = {key: place for key, (_, place) in tensors.items()}
        self._entries = {key: entry for key, (entry, _) in tensors.items()}
        self._source = source
        self._fingerprint = _fingerprint(spec, header, tensors.values())

    @property
    def fingerprint(self) -> str:
        """Digest of spec, headers, sizes, and the first and last 4 KiB of every tensor.

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
        """The stored bytes of a tensor, mapped, not copied.

        Raises:
            CheckpointError: the tensor is not stored, or its file was cut.
        """
        place = self._places.get(key)
        if place is None:
            raise CheckpointError(f"{self._source} has no tensor {key}")
        return place.view()


def needed_keys(spec: ModelSpec) -> list[TensorKey]:
    """Every tensor a model of this spec needs, once, in the order its parts run."""
    return list(dict.fromkeys(key for part in spec.parts() for key in keys_of(spec, part)))


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


def _fingerprint(spec: ModelSpec, header: bytes, tensors: Iterable[tuple[TensorEntry, Place]]) -> str:
    digest = blake3(pack_spec(replace(spec, name="")))
    digest.update(header)
    for entry, place in tensors:
        digest.update(repr(entry).encode())
        view = place.view()
        digest.update(view[:_SAMPLE])
        digest.update(view[-_SAMPLE:])
    return digest.hexdigest()
