"""What is measured while serving: per request for the metrics, per step for the status line."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median

from potluck.coordinator.accuracy import LoneRequest
from potluck.coordinator.generation import NodeStatus
from potluck.coordinator.metrics import NODE_FIGURES, Metrics
from potluck.coordinator.scheduler.scheduler import Delivery
from potluck.planner.fleet import NodeName
from potluck.proto import cluster_pb2 as pb
from potluck.proto.step import Result

# With fewer gaps between tokens a median says little.
_LEAST_GAPS = 4


class RequestWatch:
    """Times of one sequence: to the first token, between tokens, to the end.

    `alone` is for others to take back: no other sequence was there while it ran.
    """

    def __init__(self, metrics: Metrics, prompt_tokens: int, alone: bool = False) -> None:
        self._metrics = metrics
        self._prompt = prompt_tokens
        self._started = self._last = time.monotonic()
        self._first = 0.0
        self._gaps: list[float] = []
        self._stages: dict[tuple[int, str], list[float]] = {}
        self._drawn = 0
        self.alone = alone

    def delivered(self, delivery: Delivery) -> None:
        """A token, the end, or a failure came."""
        now = time.monotonic()
        if delivery.drawn.token is not None:
            if self._drawn == 0:
                self._metrics.add_tokens(self._prompt, 0)
                self._first = now - self._started
                self._metrics.observe_first_token(self._first)
            else:
                self._gaps += [now - self._last] if self.alone else []
                self._metrics.observe_token(now - self._last)
            self._drawn, self._last = self._drawn + 1, now
            self._metrics.add_tokens(0, 1)
        elif delivery.drawn.finish:
            # A prompt that was only scored.
            self._metrics.add_tokens(self._prompt, 0)
        if delivery.failure or delivery.drawn.finish:
            self.end("error" if delivery.failure else "ok")

    def stepped(self, result: Result) -> None:
        """The step that brought its latest token was told of; that of the first one was the prompt's."""
        if self.alone and self._drawn > 1:
            for stage in result.times:
                self._stages.setdefault((stage.stage, stage.node), []).append(stage.compute)

    def end(self, outcome: str) -> None:
        """The sequence is over."""
        self._metrics.observe_end(outcome, time.monotonic() - self._started)

    def lone(self) -> LoneRequest | None:
        """What it measured, if it ran alone and got anything."""
        if not self.alone or not self._drawn:
            return None
        each = median(self._gaps) if len(self._gaps) >= _LEAST_GAPS else None
        stages = {stage: median(seconds) for stage, seconds in self._stages.items()}
        return LoneRequest(self._prompt, self._drawn, self._first, each, stages)


@dataclass(slots=True)
class _NodeSeconds:
    compute: float = 0.0
    wait: float = 0.0
    transfer: float = 0.0
    sums: float = 0.0


class StepWatch:
    """Sums of what the nodes did, and rates since the last look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nodes: dict[str, _NodeSeconds] = {}
        self._seen: dict[str, _NodeSeconds] = {}
        self._links: dict[tuple[str, str], tuple[int, int, int]] = {}
        self._figures: dict[str, dict[str, float]] = {}
        self._tokens = self._seen_tokens = 0
        self._steps = self._asked_steps = 0
        self._looked = time.monotonic()
        self._last: tuple[float, list[NodeStatus]] = (0.0, [])

    def stepped(self, result: Result, elapsed: float) -> None:
        """A step came back after `elapsed` seconds."""
        with self._lock:
            self._steps += 1
            self._tokens += sum(outcome.token >= 0 for outcome in result.outcomes)
            for stage in result.times:
                node = self._nodes.setdefault(stage.node, _NodeSeconds())
                node.compute += stage.compute
                node.wait += stage.wait

    def progressed(self) -> bool:
        """Whether a step came back since this was last asked."""
        with self._lock:
            steps, self._asked_steps = self._steps - self._asked_steps, self._steps
            return steps > 0

    def node_reported(self, status: pb.StatusReply) -> None:
        """A worker told its counts: seconds its links were busy, and what went over them."""
        with self._lock:
            node = self._nodes.setdefault(status.node, _NodeSeconds())
            node.transfer, node.sums = status.transfer_seconds, status.sum_seconds
            # Members of a group that do not lead are in no step's times.
            node.compute = max(node.compute, status.compute_seconds)
            self._figures[status.node] = {kind: getattr(status, kind) for kind in NODE_FIGURES}
            for link in status.links:
                self._links[status.node, link.node] = (link.frames, link.payload_bytes, link.header_bytes)

    def engine_reported(self, engine: str, counts: Mapping[NodeName, tuple[int, int, int]]) -> None:
        """What the engine itself sent to the workers."""
        with self._lock:
            for node, count in counts.items():
                self._links[f"{engine} (engine)", node] = count

    def transfer_seconds(self) -> dict[str, float]:
        """Seconds that each node's outgoing links were busy or held its frames back."""
        with self._lock:
            return {name: node.transfer for name, node in self._nodes.items()}

    def node_figures(self) -> dict[str, dict[str, float]]:
        """What workers say of themselves, by the names of `NODE_FIGURES`."""
        with self._lock:
            return dict(self._figures)

    def link_counts(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        """(source, target) -> frames, payload bytes, header bytes."""
        with self._lock:
            return dict(self._links)

    def look(self, now: float) -> tuple[float, list[NodeStatus]]:
        """Tokens per second and what fraction of the time each node spent how, since the look before.

        Looks less than half a second apart see the same.
        """
        with self._lock:
            span = now - self._looked
            if span < 0.5:
                return self._last
            statuses = []
            for name, node in self._nodes.items():
                statuses.append(_status(name, node, self._seen.get(name, _NodeSeconds()), span))
                self._seen[name] = replace(node)
            self._last = ((self._tokens - self._seen_tokens) / span, statuses)
            self._seen_tokens, self._looked = self._tokens, now
            return self._last


def _status(name: str, now: _NodeSeconds, before: _NodeSeconds, span: float) -> NodeStatus:
    """What a node did in `span` seconds. Sums are formed between products: a stage's computing includes them, and so do
    the seconds of the links that they wait for."""
    busy = min(1.0, (now.compute - before.compute) / span)
    summed = max(0.0, now.sums - before.sums) / span
    transfer = min(1.0 - busy, max(0.0, (now.transfer - before.transfer) / span - summed))
    sums = min(busy, summed)
    return NodeStatus(name, True, busy - sums, max(0.0, 1.0 - busy - transfer), transfer, sums)
