"""Computing: frames in the order in which they came, one at a time, and passing on what comes out."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import torch

from potluck.proto.codec import unpack_step
from potluck.proto.errors import FrameError
from potluck.proto.frames import Fault, Frame, Kind, fault_frame, result_frame
from potluck.proto.link import LinkError
from potluck.proto.member_link import MemberError
from potluck.proto.step import Outcome, Result, StageTime, Step
from potluck.worker.epochs import Epoch
from potluck.worker.kv import KvError
from potluck.worker.shard_manifest import ShardFileError
from potluck.worker.shard_steps import StepError
from potluck.worker.streaming import StreamError
from potluck.worker.tensors import from_payload, to_payload

_SEND_SECONDS = 30.0
_CAUSE_SECONDS = 0.3
_EXPECTED = (
    *(StepError, KvError, FrameError, LinkError, ShardFileError, StreamError),
    *(MemoryError, RuntimeError, ValueError),
)
_LOG = logging.getLogger("potluck.worker")


@dataclass(frozen=True, slots=True)
class _Arrival:
    epoch: Epoch
    frame: Frame
    step: Step
    at: float


@dataclass(slots=True)
class Totals:
    """What the node did since it started, in seconds, steps and packed rows."""

    compute: float = 0.0
    wait: float = 0.0
    steps: int = 0
    rows: int = 0


class Executor:
    """Computes in the threads that read the frames, one at a time: after each `put` its caller calls `run_next`, which
    computes the oldest frame, whoever brought it. A lone frame is computed without waking another thread."""

    def __init__(self, node: str) -> None:
        self.totals = Totals()
        self._node = node
        self._inbox: deque[_Arrival] = deque()
        self._computing = threading.Lock()
        self._over = False

    def put(self, epoch: Epoch, frame: Frame) -> None:
        """Queue a whole frame for its stage.

        Raises:
            FrameError: the step in it is malformed; its sender's fault, and nobody else's.
        """
        step = epoch.shard.prepared(frame.number) or _step_of(frame)
        self._inbox.append(_Arrival(epoch, frame, step, time.perf_counter()))

    def run_next(self) -> None:
        """Compute the frame that waits longest."""
        with self._computing:
            arrival = self._inbox.popleft()
            if not self._over and not arrival.epoch.is_over:
                self._run(arrival)

    def stop(self, timeout: float) -> None:
        """Let the step at hand finish, for `timeout` seconds at most, and compute nothing more."""
        self._over = True
        if self._computing.acquire(timeout=timeout):
            self._computing.release()

    def _run(self, arrival: _Arrival) -> None:
        epoch, frame = arrival.epoch, arrival.frame
        if epoch.fault is not None:
            epoch.answer(fault_frame(epoch.number, frame.stage, epoch.fault))
            return
        try:
            if frame.kind is Kind.ANNOUNCE:
                epoch.shard.prepare(arrival.step)
            else:
                self._compute(arrival)
        except MemberError as error:
            # Only the first fault counts: the one of whoever knows the cause shall be that.
            time.sleep(_CAUSE_SECONDS if error.ended else 0.0)
            _LOG.error("step %d of epoch %d: %s", frame.number, epoch.number, error)
            epoch.fail(Fault(error.node, frame.number, str(error)), frame.stage)
        except _EXPECTED as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            _LOG.error("step %d of epoch %d: %s", frame.number, epoch.number, lines[0])
            epoch.fail(Fault(self._node, frame.number, lines[0]), frame.stage)
        except Exception as error:  # noqa: BLE001 - whatever it is, the coordinator must hear of it
            _LOG.critical("a bug ended epoch %d", epoch.number, exc_info=True)
            epoch.fail(Fault(self._node, frame.number, f"a bug: {type(error).__name__}: {error}"), frame.stage)

    def _compute(self, arrival: _Arrival) -> None:
        epoch, frame, step = arrival.epoch, arrival.frame, arrival.step
        shard = epoch.shard
        x_TD = from_payload(frame) if frame.kind is Kind.HIDDEN else None
        times, stage, since = list(frame.times), frame.stage, arrival.at
        while True:
            begun = time.perf_counter()
            with epoch.paced(stage, step):
                out = shard.run(stage, step, x_TD)
            ended = time.perf_counter()
            times.append(StageTime(self._node, stage, begun - since, ended - begun))
            self.totals.compute += ended - begun
            self.totals.wait += begun - since
            nexts = epoch.ways.nexts[stage] if isinstance(out, torch.Tensor) else ()
            for node in nexts:
                if node != self._node and isinstance(out, torch.Tensor):
                    self._pass_on(epoch, node, _Output(frame, stage, out, times))
            if self._node not in nexts or not isinstance(out, torch.Tensor):
                break
            x_TD, stage, since = out, stage + 1, ended
        self.totals.steps += 1
        self.totals.rows += step.rows
        if isinstance(out, list):
            epoch.answer(result_frame(epoch.number, stage, Result(step.number, _outcomes(step, out), times)))

    def _pass_on(self, epoch: Epoch, node: str, output: _Output) -> None:
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


def _step_of(frame: Frame) -> Step:
    step = unpack_step(frame.body)
    if step.number != frame.number:
        raise FrameError(f"step {step.number} came in the frame of step {frame.number}")
    return step


def _outcomes(step: Step, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes as they are; a step that only drops has none."""
    return list(outcomes) if step.runs else []
