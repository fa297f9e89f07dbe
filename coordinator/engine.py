"""The serving engine: keeps the API's streams while epochs come and go beneath it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from potluck.coordinator.accuracy import LoneRequest
from potluck.coordinator.driver import Epoch, EpochOver
from potluck.coordinator.generation import (
    Drawn,
    EngineStatus,
    Generation,
    GenerationError,
    NodeStatus,
    TokenStream,
)
from potluck.coordinator.metrics import Metrics
from potluck.coordinator.scheduler.scheduler import Delivery, NeverFits, QueueFull
from potluck.coordinator.streams import Stream
from potluck.coordinator.watch import RequestWatch, StepWatch
from potluck.proto.step import Result

_RETRY_SECONDS = 5
# Between two looks of the deployment; more requests than that cannot follow each other in a second and matter.
_LONE_KEPT = 64


class ServingEngine:
    """Implements `Engine`. Requests come from the event loop; results from the links' threads."""

    def __init__(self, model: str, context: int, metrics: Metrics) -> None:
        self.model = model
        self.context = context
        self.steps = StepWatch()
        self.metrics = metrics
        metrics.refreshers.append(self._refresh_metrics)
        self._lock = threading.Lock()
        self._driver: Epoch | None = None
        self._reason, self._retry_after = "the model is loading", _RETRY_SECONDS
        self._streams: dict[int, Stream] = {}
        self._watches: dict[int, RequestWatch] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dead: list[str] = []
        self._closed = ""
        self._lone: deque[LoneRequest] = deque(maxlen=_LONE_KEPT)
        self.measuring = False
        self.arrived = 0

    def attach(self, driver: Epoch) -> None:
        """Serve with this epoch from now on."""
        with self._lock:
            self._driver, self._reason = driver, ""
            self._lone.clear()

    def detach(self, reason: str, retry_after: int = _RETRY_SECONDS, running: str = "") -> Epoch | None:
        """Stop serving: running requests end with `running` (or the reason), new ones are refused with the reason."""
        with self._lock:
            driver, self._driver = self._driver, None
            self._reason, self._retry_after = reason, retry_after
            streams, self._streams = self._streams, {}
            watches, self._watches = self._watches, {}
        for watch in watches.values():
            watch.end("error")
        error = GenerationError(running or reason, 503, retry_after)
        self._on_loop([(stream, error) for stream in streams.values()])
        return driver

    def detach_idle(self, reason: str) -> Epoch | None:
        """Stop serving if no request runs, so that none ends by it; None, and nothing done, where one does."""
        with self._lock:
            if self._streams:
                return None
            driver, self._driver = self._driver, None
            if driver is not None:
                self._reason, self._retry_after = reason, _RETRY_SECONDS
            return driver

    def measure(self, begins: bool) -> None:
        """Nodes are being measured, or no more: no request that is there meanwhile says how fast they are."""
        with self._lock:
            self.measuring = begins
            for watch in self._watches.values():
                watch.alone = False

    def lone_requests(self) -> list[LoneRequest]:
        """What requests measured that ran alone and ended since this was last asked."""
        with self._lock:
            taken = list(self._lone)
            self._lone.clear()
            return taken

    @property
    def busy(self) -> bool:
        """Whether any request has not ended."""
        return bool(self._streams)

    @property
    def dead(self) -> list[str]:
        """Nodes that were lost."""
        return list(self._dead)

    def close_doors(self, reason: str) -> None:
        """Refuse new requests; running ones go on."""
        self._closed = reason

    def mark_dead(self, nodes: Sequence[str]) -> None:
        """Nodes that are shown as lost until the next plan without them serves."""
        self._dead = list(nodes)

    def submit(self, generations: Sequence[Generation]) -> list[TokenStream]:
        """Queue the choices of one request; choices with equal prompts share the prompt's KV.

        Raises:
            GenerationError: 400 where the prompt can never fit, 429 where the queue is full, 503 where no plan is
                in force (with `retry_after`).
        """
        self._loop = asyncio.get_running_loop()
        driver = self._driver
        if driver is None or self._closed:
            raise GenerationError(self._closed or self._reason, 503, self._retry_after)
        streams: list[Stream] = []

        def register(numbers: list[int]) -> None:
            with self._lock:
                if self._driver is not driver:
                    raise EpochOver
                self.arrived += 1
                alone = driver.sequences == 1 and not self.measuring
                for watch in self._watches.values():
                    watch.alone = False
                for number, generation in zip(numbers, generations, strict=True):
                    streams.append(Stream(number, self._cancel))
                    self._streams[number] = streams[-1]
                    watched = alone and not generation.score_prompt
                    self._watches[number] = RequestWatch(self.metrics, len(generation.prompt), watched)

        try:
            driver.submit(generations, register)
        except NeverFits as error:
            raise GenerationError(str(error), 400) from None
        except QueueFull as error:
            raise GenerationError(str(error), 429, _RETRY_SECONDS) from None
        except EpochOver:
            reason = self._reason or "the plan is changing; send the request again"
            raise GenerationError(reason, 503, self._retry_after) from None
        return list(streams)

    def status(self) -> EngineStatus:
        """A consistent look; cheap enough for every second."""
        driver = self._driver
        running, waiting, kv_used = driver.load if driver else (0, 0, 0.0)
        rate, nodes = self.steps.look(time.monotonic())
        dead = [NodeStatus(node, False, 0.0, 0.0, 0.0) for node in self._dead if node not in {n.node for n in nodes}]
        alive = [replace(node, alive=node.node not in self._dead) for node in nodes]
        reason = self._closed or self._reason
        return EngineStatus(driver is not None and not reason, reason, running, waiting, kv_used, rate, [*alive, *dead])

    def link_counts(self) -> Mapping[tuple[str, str], tuple[int, int, int]]:
        """(source, target) -> frames, payload bytes, header bytes since the start."""
        return self.steps.link_counts()

    def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """Hand out what a step gave; one wake-up of the event loop for all of it."""
        handed: list[tuple[Stream, Drawn | GenerationError]] = []
        for delivery in deliveries:
            stream, watch = self._streams.get(delivery.sequence), self._watches.get(delivery.sequence)
            if stream is None or watch is None:
                continue
            over = bool(delivery.failure or delivery.drawn.finish)
            if over and self._watches.pop(delivery.sequence, None) is not None:
                self._streams.pop(delivery.sequence, None)
            watch.delivered(delivery)
            if over and not delivery.failure:
                self._note(watch)
            handed.append((stream, GenerationError(delivery.failure, 500) if delivery.failure else delivery.drawn))
        self._on_loop(handed)

    def stepped(self, result: Result, elapsed: float) -> None:
        """Take note of where a step's time went."""
        self.steps.stepped(result, elapsed)
        if len(result.outcomes) == 1 and (watch := self._watches.get(result.outcomes[0].sequence)):
            watch.stepped(result)
        busy = 0.0
        for stage in result.times:
            busy += stage.compute + stage.wait
            self.metrics.add_stage(stage.node, stage.stage, stage.compute, stage.wait)
        self.metrics.add_transfer(max(0.0, elapsed - busy))

    def _refresh_metrics(self) -> None:
        driver = self._driver
        self.metrics.set_load(*(driver.load if driver else (0, 0, 0.0)))
        self.metrics.set_links(self.link_counts())
        self.metrics.set_transfers(self.steps.transfer_seconds())
        self.metrics.set_nodes(self.steps.node_figures())

    def _cancel(self, number: int) -> None:
        driver, watch = self._driver, self._watches.pop(number, None)
        if self._streams.pop(number, None) is not None and driver is not None:
            driver.cancel(number)
        if watch is not None:
            watch.end("cancelled")
            self._note(watch)

    def _note(self, watch: RequestWatch) -> None:
        request = watch.lone()
        if request is not None:
            with self._lock:
                self._lone.append(request)

    def _on_loop(self, handed: Sequence[tuple[Stream, Drawn | GenerationError]]) -> None:
        if not handed or self._loop is None or self._loop.is_closed():
            return
        try:
            self._loop.call_soon_threadsafe(_push_all, handed)
        except RuntimeError:
            # The event loop closed meanwhile: nobody reads these streams any more.
            return


def _push_all(handed: Sequence[tuple[Stream, Drawn | GenerationError]]) -> None:
    for stream, item in handed:
        stream.push(item)
