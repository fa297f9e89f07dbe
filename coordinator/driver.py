"""Drives the steps of an epoch along a route: sends what the scheduler packs, takes what comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

from potluck.coordinator.generation import Generation
from potluck.coordinator.scheduler.scheduler import Delivery, Scheduler
from potluck.planner.fleet import NodeName
from potluck.proto.errors import FrameError
from potluck.proto.frames import Frame, Kind, announce_frame, read_fault, read_result, step_frame
from potluck.proto.link import Link, LinkError, LinkTarget
from potluck.proto.open_link import open_link
from potluck.proto.step import Result

_SEND_SECONDS = 10.0


class EpochOver(Exception):
    """The epoch has ended; a new plan may be on its way."""


@dataclass(frozen=True, slots=True)
class Observers:
    """Who is told what, from the links' threads: deliveries of a step, its result and duration, the epoch's failure.

    `failed` gets the node that failed ("" where unknown) and one line; it is called once.
    """

    delivered: Callable[[Sequence[Delivery]], None]
    stepped: Callable[[Result, float], None]
    failed: Callable[[NodeName | None, str], None]


class Epoch(Protocol):
    """An epoch in service, over one route (`Driver`) or several (`replicas.Replicas`), as the engine knows it."""

    def submit(self, generations: Sequence[Generation], register: Callable[[list[int]], None]) -> None:
        """Queue the choices of a request; `register` learns their numbers before the first token can come.

        Raises:
            NeverFits, QueueFull: see Scheduler.submit.
            EpochOver: nothing would ever come back.
        """

    def cancel(self, number: int) -> None:
        """Forget a sequence and free its KV."""

    def close(self) -> None:
        """End the epoch without a failure."""

    @property
    def load(self) -> tuple[int, int, float]:
        """Running and waiting sequences, and the used fraction of the KV."""

    @property
    def sequences(self) -> int:
        """Sequences that have not ended."""

    @property
    def next_number(self) -> int:
        """A number that no sequence has had yet."""


class Driver:
    """One route in service. It has no thread: whoever brings news (a request, a result) packs and sends."""

    def __init__(self, epoch: int, scheduler: Scheduler, entries: Mapping[NodeName, int], observers: Observers) -> None:
        """`entries` are the route's nodes in order, each with its first stage: steps are sent to those of stage 0, and
        announced to the others, so that they can prepare while the first compute."""
        self.epoch = epoch
        self._scheduler = scheduler
        self._entries = entries
        self._observers = observers
        self._lock = threading.Lock()
        self._links: dict[NodeName, Link] = {}
        self._sent: dict[int, float] = {}
        self._over = False

    def connect(self, targets: Mapping[NodeName, LinkTarget]) -> None:
        """Open a link to every worker of the epoch."""
        for node, target in targets.items():
            self._links[node] = open_link(target, self._on_frame, self._on_broken)

    def submit(self, generations: Sequence[Generation], register: Callable[[list[int]], None]) -> None:
        """Queue the choices of a request; `register` learns their numbers before the first token can come.

        Raises:
            NeverFits, QueueFull: see Scheduler.submit.
            EpochOver: nothing would ever come back.
        """
        with self._lock:
            if self._over:
                raise EpochOver
            register(self._scheduler.submit(generations))
            self._pump()

    def cancel(self, number: int) -> None:
        """Forget a sequence and free its KV."""
        with self._lock:
            self._scheduler.cancel(number)
            self._pump()

    def close(self) -> None:
        """End the epoch without a failure."""
        with self._lock:
            self._over = True
        for link in self._links.values():
            link.close()

    def overdue(self, deadline: float) -> bool:
        """Whether a step has had no answer for `deadline` seconds."""
        with self._lock:
            return not self._over and any(time.monotonic() - sent > deadline for sent in self._sent.values())

    def fail(self, node: NodeName | None, reason: str) -> None:
        """End the epoch because of a node. Only the first reason counts."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self._observers.failed(node, reason)

    @property
    def load(self) -> tuple[int, int, float]:
        """Running and waiting sequences, and the used fraction of the KV."""
        with self._lock:
            return self._scheduler.running, self._scheduler.waiting, self._scheduler.kv_used

    @property
    def sequences(self) -> int:
        """Sequences that have not ended, those that were cancelled and whose prompt is still on its way included."""
        return self._scheduler.unfinished

    @property
    def next_number(self) -> int:
        """The number the next sequence will get."""
        return self._scheduler.next_number

    def link_counts(self) -> dict[NodeName, tuple[int, int, int]]:
        """Frames, payload bytes and header bytes sent to each worker."""
        counts = {node: link.counts for node, link in self._links.items()}
        return {node: (count.frames, count.payload_bytes, count.header_bytes) for node, count in counts.items()}

    def _pump(self) -> None:
        while not self._over and (step := self._scheduler.next_step()) is not None:
            self._sent[step.number] = time.monotonic()
            frame = step_frame(self.epoch, step)
            for node, stage in self._entries.items():
                if not self._send(node, announce_frame(frame, stage) if stage else frame):
                    return

    def _send(self, node: NodeName, frame: Frame) -> bool:
        try:
            self._links[node].send(frame, timeout=_SEND_SECONDS)
        except LinkError as error:
            # Its own thread: the observers may want the lock that is held here.
            threading.Thread(target=self.fail, args=(node, str(error)), daemon=True).start()
            return False
        return True

    def _on_frame(self, frame: Frame) -> None:
        if frame.epoch != self.epoch:
            return
        try:
            if frame.kind is Kind.RESULT:
                self._on_result(read_result(frame))
            elif frame.kind is Kind.FAULT:
                fault = read_fault(frame)
                self.fail(NodeName(fault.node), fault.reason)
        except FrameError as error:
            self.fail(None, f"a worker sent an answer that cannot be read: {error}")

    def _on_result(self, result: Result) -> None:
        with self._lock:
            sent = self._sent.pop(result.number, None)
            if self._over or sent is None:
                return
            now = time.monotonic()
            if self._scheduler.goes_ahead:
                # The step that went ahead begins only now.
                self._sent = dict.fromkeys(self._sent, now)
            deliveries = self._scheduler.apply(result)
            self._pump()
        self._observers.delivered(deliveries)
        self._observers.stepped(result, now - sent)

    def _on_broken(self, node: str, status: grpc.StatusCode, detail: str) -> None:
        self.fail(NodeName(node), f"its stream ended ({status.name.lower().replace('_', ' ')}: {detail})")
