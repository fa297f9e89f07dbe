"""The epochs a worker holds: shard, links, and where answers go."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import grpc

from potluck.proto import cluster_pb2 as pb
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.frames import Fault, Frame, fault_frame, pack_frame
from potluck.proto.link import Link, LinkCounts, LinkTarget
from potluck.proto.shaper import DelayLine, Shape
from potluck.worker.shard import Shard

_MOST_WAITING = 64
_MOST_HELD = 2


@dataclass(frozen=True, slots=True)
class WindowEnd:
    """Where a window's output goes: the next stage's node (this one, too), or "" to the coordinator."""

    next_node: str


class Answers:
    """The way back to a coordinator: one open stream's queue, shaped like the link to its node."""

    def __init__(self, shape: Shape) -> None:
        self._line = DelayLine(shape)
        self._queue: queue.SimpleQueue[tuple[float, pb.Frame] | FrameError | None] = queue.SimpleQueue()

    def put(self, frame: Frame) -> tuple[int, int]:
        """Queue an answer; its payload and header bytes."""
        header = payload = 0
        for message in pack_frame(frame):
            header, payload = header + len(message.header), payload + len(message.payload)
            now = time.monotonic()
            self._queue.put((self._line.due(len(message.header) + len(message.payload), now), message))
        return payload, header

    def end(self, error: FrameError | None = None) -> None:
        """No more answers: the stream is over, or broken by what the coordinator sent."""
        self._queue.put(error)

    def get(self) -> tuple[float, pb.Frame] | FrameError | None:
        """The next answer and when it is due."""
        return self._queue.get()


class Epoch:
    """One deployment epoch on this worker. Links open with the first frame that needs them."""

    def __init__(
        self, number: int, shard: Shard, ends: Mapping[int, WindowEnd], links: Mapping[str, LinkTarget]
    ) -> None:
        self.number, self.shard, self.ends = number, shard, ends
        self.fault: Fault | None = None
        self._targets = links
        self._links: dict[str, Link] = {}
        self._answers: Answers | None = None
        self._coordinator = ""
        self._held_back: list[Frame] = []
        self._answered = LinkCounts()
        self._lock = threading.Lock()

    def attach(self, coordinator: str, answers: Answers) -> None:
        """A coordinator opened a stream: answers go there from now on, those held back first."""
        with self._lock:
            self._coordinator, self._answers = coordinator, answers
            held, self._held_back = self._held_back, []
        for frame in held:
            self.answer(frame)

    def detach(self, answers: Answers) -> None:
        """That stream is over."""
        with self._lock:
            if self._answers is answers:
                self._answers = None

    def answer(self, frame: Frame) -> None:
        """Send a result or fault to the coordinator; a few wait for one to come."""
        with self._lock:
            answers = self._answers
            if answers is None:
                self._held_back = [*self._held_back, frame][-_MOST_WAITING:]
                return
            payload, header = answers.put(frame)
            self._answered += LinkCounts(1, payload, header)

    def fail(self, fault: Fault, stage: int = 0) -> None:
        """This epoch is over here; every later step gets the same answer."""
        self.fault = self.fault or fault
        self.answer(fault_frame(self.number, stage, fault))

    def link(self, node: str, on_broken: Callable[[str, grpc.StatusCode, str], None]) -> Link:
        """The link to the next stage's node."""
        with self._lock:
            if node not in self._links:
                self._links[node] = Link(self._targets[node], _ignore, on_broken)
            return self._links[node]

    def counts(self) -> dict[str, LinkCounts]:
        """What went to every node, the coordinator's included."""
        with self._lock:
            counts = {node: link.counts for node, link in self._links.items()}
            if self._coordinator:
                counts[self._coordinator] = counts.get(self._coordinator, LinkCounts()) + self._answered
            return counts

    def close(self) -> None:
        """End the links and the answers."""
        with self._lock:
            links, answers, self._answers = list(self._links.values()), self._answers, None
        for link in links:
            link.close()
        if answers is not None:
            answers.end()


class Epochs:
    """The current and the draining epoch; older ones are fenced for ever."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, Epoch] = {}
        self._loading: set[int] = set()
        self._fence = 0
        self._past: dict[str, LinkCounts] = {}

    @property
    def held(self) -> list[Epoch]:
        """Epochs that can run steps."""
        with self._lock:
            return list(self._held.values())

    @contextlib.contextmanager
    def loading(self, number: int) -> Iterator[None]:
        """Claim an epoch number while it loads.

        Raises:
            FrameError: fenced, held or being loaded already, or too many are held.
        """
        with self._lock:
            highest = max([self._fence, *self._held], default=0)
            if number <= highest or number in self._loading:
                raise FrameError(
                    f"epoch {number} is over here; epochs up to {highest} were given out", Refusal.MISMATCH
                )
            if len(self._held) >= _MOST_HELD:
                raise FrameError(f"epochs {sorted(self._held)} are held; release one first", Refusal.MISMATCH)
            self._loading.add(number)
        try:
            yield
        finally:
            with self._lock:
                self._loading.discard(number)

    def add(self, epoch: Epoch) -> None:
        """An epoch is loaded."""
        with self._lock:
            self._held[epoch.number] = epoch

    def get(self, number: int) -> Epoch:
        """A held epoch.

        Raises:
            FrameError: it is fenced or unknown.
        """
        with self._lock:
            epoch, held = self._held.get(number), sorted(self._held)
        if epoch is None:
            raise FrameError(f"epoch {number} is not held here; held: {held or 'none'}", Refusal.MISMATCH)
        return epoch

    def release(self, number: int) -> None:
        """Free an epoch and fence it and all before it."""
        with self._lock:
            gone = [self._held.pop(held) for held in sorted(self._held) if held <= number]
            self._fence = max(self._fence, number)
            for epoch in gone:
                _add_counts(self._past, epoch.counts())
        for epoch in gone:
            epoch.close()

    def counts(self) -> dict[str, LinkCounts]:
        """What went to every node since the worker started."""
        counts = dict(self._past)
        for epoch in self.held:
            _add_counts(counts, epoch.counts())
        return counts


def _add_counts(totals: dict[str, LinkCounts], more: Mapping[str, LinkCounts]) -> None:
    for node, count in more.items():
        totals[node] = totals.get(node, LinkCounts()) + count


def _ignore(frame: Frame) -> None:
    """Workers answer each other nothing."""
