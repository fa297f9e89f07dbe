"""The epochs a worker holds: shard, links, and where answers go."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import grpc

from potluck.proto.errors import FrameError, Refusal
from potluck.proto.frames import Fault, Frame, Kind, fault_frame
from potluck.proto.link import Link, LinkCounts, LinkTarget
from potluck.proto.open_link import open_link
from potluck.proto.step import Step
from potluck.worker.answers import Answers
from potluck.worker.heap import give_back
from potluck.worker.members import Members
from potluck.worker.shard import Shard

Paced = Callable[[int, Step], contextlib.AbstractContextManager[None]]
_MOST_WAITING = 64
_MOST_HELD = 2


@dataclass(frozen=True, slots=True)
class Ways:
    """How frames of an epoch come to a node and leave it.

    Attributes:
        nexts: by stage, the nodes its output goes to (this one, too); none where others send it, or it is the answer.
        targets: the links to other nodes.
        dtype, hidden, most_rows: the hidden rows that come in.
    """

    nexts: Mapping[int, Sequence[str]]
    targets: Mapping[str, LinkTarget]
    dtype: str
    hidden: int
    most_rows: int


class Epoch:
    """One deployment epoch on this worker. Links open with the first frame that needs them."""

    def __init__(
        self,
        number: int,
        shard: Shard,
        ways: Ways,
        members: Members,
        paced: Paced = lambda stage, step: contextlib.nullcontext(),
    ) -> None:
        """`paced` surrounds a step's window: what keeps it at the pace of a described node."""
        self.number, self.ways, self.members, self.paced = number, ways, members, paced
        self._shard: Shard | None = shard
        self.fault: Fault | None = None
        self._links: dict[str, Link] = {}
        self._streams: dict[Answers, str] = {}
        self._held_back: list[Frame] = []
        self._answered: dict[str, LinkCounts] = {}
        self._lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        """Whether it was released; streams may outlive it."""
        return self._shard is None

    @property
    def shard(self) -> Shard:
        """What this node runs.

        Raises:
            FrameError: the epoch was released.
        """
        if (shard := self._shard) is None:
            raise FrameError(f"epoch {self.number} was released", Refusal.MISMATCH)
        return shard

    def admit(self, frame: Frame) -> None:
        """Look at a frame before anything is allocated for it.

        Raises:
            FrameError: it is of another epoch, for a stage elsewhere, or not of the shape this epoch's rows have.
        """
        if frame.epoch != self.number:
            reason = f"a frame of epoch {frame.epoch} came on a stream of epoch {self.number}"
            raise FrameError(reason, Refusal.MISMATCH)
        if frame.kind not in (Kind.STEP, Kind.HIDDEN, Kind.ANNOUNCE):
            raise FrameError(f"a worker takes steps and hidden rows, not {frame.kind.name}")
        if frame.stage not in self.ways.nexts:
            raise FrameError(f"stage {frame.stage} is not on this node")
        if self.is_over:
            raise FrameError(f"epoch {self.number} was released", Refusal.MISMATCH)
        if frame.kind is Kind.HIDDEN:
            self._check_rows(frame)

    def _check_rows(self, frame: Frame) -> None:
        ways, (rows, hidden) = self.ways, frame.shape
        if (frame.dtype, hidden) != (ways.dtype, ways.hidden) or rows > ways.most_rows:
            raise FrameError(
                f"{rows} hidden rows of {hidden} {frame.dtype}; epoch {self.number} has at most {ways.most_rows} "
                f"of {ways.hidden} {ways.dtype}"
            )

    def attach(self, coordinator: str, answers: Answers) -> None:
        """A coordinator opened a stream: answers go there from now on, those held back first.

        Every open stream gets them, so that nobody loses answers to one that comes and goes.
        """
        with self._lock:
            self._streams[answers] = coordinator
            held, self._held_back = self._held_back, []
        for frame in held:
            self.answer(frame)

    def detach(self, answers: Answers) -> None:
        """That stream is over."""
        with self._lock:
            if (coordinator := self._streams.pop(answers, None)) is not None:
                _add_counts(self._answered, {coordinator: answers.counts})

    def answer(self, frame: Frame) -> None:
        """Send a result or fault to the coordinator; a few wait for one to come."""
        with self._lock:
            if not self._streams and not self.is_over:
                self._held_back = [*self._held_back, frame][-_MOST_WAITING:]
            for answers in self._streams:
                answers.put(frame)

    def fail(self, fault: Fault, stage: int = 0) -> None:
        """This epoch is over here; every later step gets the same answer."""
        self.fault = self.fault or fault
        self.answer(fault_frame(self.number, stage, fault))
        # Members that wait in a sum would wait for ever.
        self.members.close()

    def link(self, node: str, on_broken: Callable[[str, grpc.StatusCode, str], None]) -> Link:
        """The link to the next stage's node."""
        with self._lock:
            if self.is_over:
                raise FrameError(f"epoch {self.number} was released", Refusal.MISMATCH)
            if node not in self._links:
                self._links[node] = open_link(self.ways.targets[node], _ignore, on_broken)
            return self._links[node]

    def counts(self) -> dict[str, LinkCounts]:
        """What went to every node, the coordinator's included."""
        with self._lock:
            counts = {node: link.counts for node, link in self._links.items()}
            _add_counts(counts, self.members.counts())
            _add_counts(counts, self._answered)
            for answers, coordinator in self._streams.items():
                _add_counts(counts, {coordinator: answers.counts})
            return counts

    def close(self) -> None:
        """End the links and the answers."""
        with self._lock:
            links, streams, shard = list(self._links.values()), list(self._streams), self._shard
            self._shard, self._held_back = None, []
        self.members.close()
        if shard is not None:
            shard.close()
        for link in links:
            link.close()
        for answers in streams:
            answers.end(FrameError(f"epoch {self.number} was released", Refusal.MISMATCH))


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
        """An epoch is loaded.

        Raises:
            FrameError: it was released meanwhile.
        """
        with self._lock:
            if epoch.number <= self._fence:
                raise FrameError(f"epoch {epoch.number} was released while it was loading", Refusal.MISMATCH)
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
        # A shard's parts refer to one another; the memory is wanted now, not at the next collection.
        give_back()

    def counts(self) -> dict[str, LinkCounts]:
        """What went to every node since the worker started."""
        with self._lock:
            counts = dict(self._past)
        for epoch in self.held:
            _add_counts(counts, epoch.counts())
        return counts


def _add_counts(totals: dict[str, LinkCounts], more: Mapping[str, LinkCounts]) -> None:
    for node, count in more.items():
        totals[node] = totals.get(node, LinkCounts()) + count


def _ignore(frame: Frame) -> None:
    """Workers answer each other nothing."""
