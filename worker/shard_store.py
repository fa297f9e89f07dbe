"""The shard files of one model on this machine: found, built, checked, mapped."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil
import torch
from blake3 import blake3

from potluck.models.roles import TensorKey
from potluck.worker.mapped_file import MappedFile
from potluck.worker.packing import Packer
from potluck.worker.pieces import Piece, Unit, keys_of_pieces
from potluck.worker.shard_cache import FOLDER
from potluck.worker.shard_file import OnBytes, check, planned, write_shard_file
from potluck.worker.shard_manifest import Manifest, ShardFileError, read_manifest

_LAYOUT = 1  # one more whenever csrc/formats.hpp or the pieces of a unit change
_LOG = logging.getLogger("potluck.worker")


@dataclass(frozen=True, slots=True)
class MappedUnit:
    """A unit's file, mapped."""

    unit: Unit
    mapping: MappedFile
    manifest: Manifest

    def placed(self) -> dict[str, torch.Tensor]:
        """Its pieces by name, uint8, not copied."""
        return {piece.name: self.mapping.tensor(piece.begin, piece.nbytes) for piece in self.manifest.pieces}


class ShardStore:
    """Files are named by what they hold, so that another plan of the same model finds those that it shares."""

    def __init__(self, cache: Path, fingerprint: str, model: str) -> None:
        """`cache`: the worker's folder; `fingerprint` and name of the model."""
        self._folder = cache / FOLDER / fingerprint[:32]
        self._fingerprint, self._model = fingerprint, model

    def path(self, unit: Unit, pieces: Sequence[Piece]) -> Path:
        """Where a unit's file is, or will be."""
        described = [_described(piece) for piece in pieces]
        digest = blake3(msgspec.msgpack.encode((_LAYOUT, str(unit), described))).hexdigest()[:12]
        return self._folder / f"{unit}.{digest}.shard"

    def map_all(
        self,
        pieces: Mapping[Unit, Sequence[Piece]],
        source: Callable[[Sequence[TensorKey]], Packer],
        counter: Callable[[str, int], OnBytes],
    ) -> dict[Unit, MappedUnit]:
        """Map every unit; what is not there, or damaged, is built.

        Args:
            pieces: of each unit.
            source: gives what packs the tensors of these keys; asked once, and only if something is missing.
            counter: told "checking" or "building" and how many bytes there are; gives what counts them.

        Raises:
            ShardFileError: a file cannot be written.
            whatever `source` and its packer raise.
        """
        mapped: dict[Unit, MappedUnit] = {}
        try:
            there = [unit for unit in pieces if self.path(unit, pieces[unit]).exists()]
            count = counter("checking", _total(pieces[unit] for unit in there))
            mapped |= {unit: found for unit in there if (found := self.find(unit, pieces[unit], count))}
            missing = [unit for unit in pieces if unit not in mapped]
            if missing:
                packer = source(keys_of_pieces(piece for unit in missing for piece in pieces[unit]))
                count = counter("building", _total(pieces[unit] for unit in missing))
                for unit in missing:
                    mapped[unit] = self.build(unit, pieces[unit], packer.make, count)
        except BaseException:
            for one in mapped.values():
                one.mapping.close()
            raise
        return mapped

    def find(self, unit: Unit, pieces: Sequence[Piece], on_bytes: OnBytes) -> MappedUnit | None:
        """A unit's file, every byte of it checked; None where there is none or it is damaged, which is said."""
        path = self.path(unit, pieces)
        if not path.exists():
            return None
        try:
            return self._open(path, unit, on_bytes)
        except ShardFileError as error:
            _LOG.warning("%s; building it again", error)
            return None

    def build(
        self, unit: Unit, pieces: Sequence[Piece], make: Callable[[Piece], Iterable[torch.Tensor]], on_bytes: OnBytes
    ) -> MappedUnit:
        """Write a unit's file and map it.

        Raises:
            ShardFileError: it cannot be written.
            whatever `make` raises.
        """
        path, by_name = self.path(unit, pieces), {piece.name: piece for piece in pieces}
        _remove_left_behind(path)
        manifest = planned(self._fingerprint, self._model, str(unit), pieces)
        write_shard_file(path, manifest, lambda name: make(by_name[name]), on_bytes)
        return self._open(path, unit, None)

    def _open(self, path: Path, unit: Unit, on_bytes: OnBytes | None) -> MappedUnit:
        manifest = read_manifest(path)
        if (manifest.fingerprint, manifest.unit) != (self._fingerprint, str(unit)):
            raise ShardFileError(f"the shard file {path} is of another model or unit")
        try:
            mapping = MappedFile(path)
        except (OSError, ValueError) as error:
            raise ShardFileError(f"the shard file {path} cannot be mapped ({error})") from None
        if on_bytes is not None:
            try:
                check(mapping, manifest, on_bytes)
            except BaseException:
                mapping.close()
                raise
        return MappedUnit(unit, mapping, manifest)


def _described(piece: Piece) -> tuple[object, ...]:
    """What a piece holds; what it takes of its tensors only where that is not all, so that whole ones keep names."""
    whole = piece.name, [str(key) for key in piece.keys], piece.encoding, piece.shape
    return (*whole, piece.takes) if piece.takes else whole


def _remove_left_behind(path: Path) -> None:
    """Parts of this file whose writers are gone."""
    for part in path.parent.glob(f"{path.name}.*.part"):
        writer = part.name.split(".")[-2]
        if not writer.isdigit() or not psutil.pid_exists(int(writer)):
            with contextlib.suppress(OSError):
                part.unlink()


def _total(units: Iterable[Sequence[Piece]]) -> int:
    return sum(piece.nbytes for unit in units for piece in unit)
