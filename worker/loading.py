"""Brings a share's weights together: shard files that are there, others built from a checkpoint or its tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from potluck.models.checkpoint import Checkpoint
from potluck.models.roles import TensorKey
from potluck.proto import cluster_pb2 as pb
from potluck.worker.assignment import Share
from potluck.worker.fetch import Fetcher, Holder
from potluck.worker.mapped_weights import MappedWeights
from potluck.worker.packing import Packer
from potluck.worker.pieces import pieces_of
from potluck.worker.shard import Shard
from potluck.worker.shard_store import ShardStore

Report = Callable[[pb.LoadProgress], None]
_LOG = logging.getLogger("potluck.worker")


class Loader:
    """Loads shards one at a time."""

    def __init__(self, cache: Path, token: str, holder: Holder, disk: float = 0.0) -> None:
        """`disk`: bytes per second of streaming, where a slower disk is imitated."""
        self._cache, self._token, self._holder, self._disk = cache, token, holder, disk

    def load(self, assignment: pb.Assignment, share: Share, shard: Shard, report: Report) -> None:
        """Map every unit of the shard and load it; what is not there yet is built first.

        Raises:
            ShardFileError, CheckpointError, WeightError, KeyError: it cannot be.
        """
        form = share.config.form
        pieces = {unit: pieces_of(share.spec, unit, form) for unit in shard.units}
        store = ShardStore(self._cache, assignment.fingerprint, share.spec.name)
        mapped = store.map_all(
            pieces,
            lambda keys: Packer(share.spec, self._checkpoint(assignment, keys, report)),
            lambda activity, total: _counter(activity, total, report),
        )
        try:
            shard.load(MappedWeights(mapped, shard.streamed_units, assignment.stream_bytes, self._disk))
        except BaseException:
            for unit in mapped.values():
                unit.mapping.close()
            raise

    def _checkpoint(self, assignment: pb.Assignment, keys: Sequence[TensorKey], report: Report) -> Checkpoint:
        """The model's own file where this node may read it and has the right one, else the fetched tensors."""
        if assignment.checkpoint_allowed:
            checkpoint = self._holder.find(assignment.fingerprint, assignment.checkpoint)
            if checkpoint is not None:
                return checkpoint
            _LOG.info("%s is not here, or another model than the one being served; fetching", assignment.checkpoint)
        fetcher = Fetcher(self._cache, self._token, assignment)
        return fetcher.fetch(assignment.fingerprint, keys, lambda total: _counter("fetching", total, report))


def _counter(activity: str, total: int, report: Report) -> Callable[[int], None]:
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        report(pb.LoadProgress(bytes_done=done, bytes_total=total, activity=activity))

    return count
