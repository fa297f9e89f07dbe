"""Loading in a thread: what it reports is handed on, and what stops it is said as a refusal."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from potluck.models.checkpoint import CheckpointError
from potluck.models.open import UnsupportedModel
from potluck.proto import cluster_pb2 as pb
from potluck.proto.errors import FrameError, Refusal
from potluck.worker.packing import WeightError
from potluck.worker.shard_manifest import ShardFileError

Report = Callable[[pb.LoadProgress], None]


class LoadRefused(Exception):
    """An assignment cannot be loaded here; `refusal` says what kind of no it is."""

    def __init__(self, reason: str, refusal: Refusal) -> None:
        super().__init__(reason)
        self.refusal = refusal


def reported(work: Callable[[Report], None], total: pb.LoadProgress) -> Iterator[pb.LoadProgress]:
    """Run work in a thread and yield what it reports; its error is raised here.

    When whoever asked goes away, work is ended at its next report, before another load may begin.

    Raises:
        LoadRefused: work failed.
    """
    reports: queue.SimpleQueue[pb.LoadProgress | None] = queue.SimpleQueue()
    left = threading.Event()

    def report(progress: pb.LoadProgress) -> None:
        if left.is_set():
            raise LoadRefused("whoever asked for this load went away", Refusal.MISMATCH)
        reports.put(progress)

    def run() -> None:
        try:
            _refusing(work, report)
        finally:
            reports.put(None)

    with ThreadPoolExecutor(1, "load") as pool:
        outcome = pool.submit(run)
        try:
            while (progress := reports.get()) is not None:
                progress.weight_bytes, progress.kv_bytes = total.weight_bytes, total.kv_bytes
                yield progress
        finally:
            left.set()
        outcome.result()


def _refusing(work: Callable[[Report], None], report: Report) -> None:
    try:
        work(report)
    except FrameError as error:
        raise LoadRefused(error.reason, error.refusal) from None
    except (CheckpointError, UnsupportedModel, WeightError, ShardFileError, OSError) as error:
        raise LoadRefused(str(error), Refusal.MISMATCH) from None
    except KeyError as error:
        raise LoadRefused(f"the checkpoint has no tensor {error.args[0]}", Refusal.MISMATCH) from None
    except (MemoryError, RuntimeError) as error:
        raise LoadRefused(f"out of memory while loading: {_first_line(error)}", Refusal.OVERSIZED) from None
    except ValueError as error:
        raise LoadRefused(str(error), Refusal.MALFORMED) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
