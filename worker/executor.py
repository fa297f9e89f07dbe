"""The compute thread: takes frames in order, runs this node's windows, passes on what comes out."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import torch

from potluck.proto.errors import FrameError
from potluck.proto.frames import Fault, Frame, Kind, fault_frame, result_frame
from potluck.proto.link import LinkError
from potluck.proto.step import Outcome, Result, StageTime, Step
from potluck.worker.emulation import Slowness
from potluck.worker.epochs import Epoch
from potluck.worker.kv import KvError
from potluck.worker.shard import StepError
from potluck.worker.tensors import from_payload, to_payload

_SEND_SECONDS = 30.0
MOST_QUEUED = 64  # of one stream; the coordinator keeps fewer steps in flight, so that this ends floods alone
_LOG = logging.getLogger("potluck.worker")


@dataclass(frozen=True, slots=True)
class _Arrival:
    epoch: Epoch
    frame: Frame
    step: Step
    room: threading.Semaphore
    at: float


@dataclass(slots=True)
class Totals:
    """What the node did since it started, in seconds, steps and packed rows."""

    compute: float = 0.0
    wait: float = 0.0
    steps: int = 0
    rows: int = 0


class Executor:
    """One thread that computes; everything else only queues."""

    def __init__(self, node: str, slowness: Slowness) -> None:
        self.totals = Totals()
        self._node = node
        self._slowness = slowness
        self._inbox: queue.SimpleQueue[_Arrival | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    def submit(self, epoch: Epoch, frame: Frame, step: Step, room: threading.Semaphore) -> None:
        """Queue a whole frame, and the step in it, for its stage; waits while the frame's stream has no room left.

        A stream that waits is not read, so that gRPC's flow control holds its sender up, and nobody else.
        """
        room.acquire()
        self._inbox.put(_Arrival(epoch, frame, step, room, time.perf_counter()))

    def stop(self, timeout: float) -> None:
        """Finish the step at hand and end."""
        self._inbox.put(None)
        self._thread.join(timeout)

    def _work(self) -> None:
        while (arrival := self._inbox.get()) is not None:
            epoch, frame = arrival.epoch, arrival.frame
            arrival.room.release()
            if epoch.is_over:
                continue
            if epoch.fault is not None:
                epoch.answer(fault_frame(epoch.number, frame.stage, epoch.fault))
                continue
            try:
                self._run(arrival)
            except (StepError, KvError, FrameError, LinkError, MemoryError, RuntimeError, ValueError) as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                _LOG.error("step %d of epoch %d: %s", frame.number, epoch.number, lines[0])
                epoch.fail(Fault(self._node, frame.number, lines[0]), frame.stage)

    def _run(self, arrival: _Arrival) -> None:
        epoch, frame, step = arrival.epoch, arrival.frame, arrival.step
        shard = epoch.shard
        x_TD = from_payload(frame) if frame.kind is Kind.HIDDEN else None
        times, stage, since = list(frame.times), frame.stage, arrival.at
        while True:
            begun = time.perf_counter()
            with self._slowness.around():
                out = shard.run(stage, step, x_TD)
            ended = time.perf_counter()
            times.append(StageTime(self._node, stage, begun - since, ended - begun))
            self.totals.compute += ended - begun
            self.totals.wait += begun - since
            if epoch.ways.nexts[stage] != self._node or not isinstance(out, torch.Tensor):
                break
            x_TD, stage, since = out, stage + 1, ended
        self.totals.steps += 1
        self.totals.rows += step.rows
        if isinstance(out, torch.Tensor):
            self._pass_on(epoch, _Output(frame, stage, out, times))
        else:
            epoch.answer(result_frame(epoch.number, stage, Result(step.number, _outcomes(step, out), times)))

    def _pass_on(self, epoch: Epoch, output: _Output) -> None:
        node = epoch.ways.nexts[output.stage]
        dtype, payload = to_payload(output.x_TD)
        frame = Frame(
            epoch=epoch.number,
            number=output.frame.number,
            stage=output.stage + 1,
            kind=Kind.HIDDEN,
            body=output.frame.body,
            times=tuple(output.times),
            dtype=dtype,
            shape=(output.x_TD.shape[0], output.x_TD.shape[1]),
            payload=payload,
        )

        def broken(peer: str, status: grpc.StatusCode, detail: str) -> None:
            reason = f"its stream from node {self._node!r} ended ({status.name.lower()}: {detail})"
            epoch.fail(Fault(peer, frame.number, reason))

        epoch.link(node, broken).send(frame, _SEND_SECONDS)


@dataclass(frozen=True, slots=True)
class _Output:
    frame: Frame
    stage: int
    x_TD: torch.Tensor
    times: list[StageTime]


def _outcomes(step: Step, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes as they are; a step that only drops has none."""
    return list(outcomes) if step.runs else []
