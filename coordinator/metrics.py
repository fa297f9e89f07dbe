"""Prometheus metrics of serving. Names carry their units; all live in a registry of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from potluck.coordinator.accuracy import Comparison, Figure

_FIRST = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
_EACH = (0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_WHOLE = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


NODE_FIGURES = {
    "sums": "Sums formed together with other members of groups since the worker started, gathers of logits included",
    "sum_seconds": "Time in those since the worker started, waiting for other members included",
    "stall_seconds": "Time that computing waited for weights from disk, or to a GPU, since the worker started",
    "behind_seconds": "Time that an emulated node was slower than described, because this machine is, since it started",
    "streamed_bytes": "Weights read from disk, or copied to a GPU, for steps, since the worker started",
    "anonymous_bytes": "Memory of the worker's own: KV, buffers, programs' data",
    "resident_bytes": "All memory of the worker, with the pages of its shard files",
}


_TIMES = ("time_to_first_token", "time_per_output_token")
_ACCURACY = {
    "predicted": "Predicted for the latest requests that ran alone, their median",
    "measured": "Measured by the latest requests that ran alone, their median",
}


class Metrics:
    """Everything /metrics shows about requests, the queue, the stages and the links.

    `refreshers` are called before each rendering, to bring gauges up to date.
    """

    def __init__(self) -> None:
        self.refreshers: list[Callable[[], None]] = []
        registry = self.registry = CollectorRegistry()
        self._first = Histogram(
            "potluck_time_to_first_token_seconds",
            "From submission to the first token",
            buckets=_FIRST,
            registry=registry,
        )
        self._each = Histogram(
            "potluck_time_per_output_token_seconds",
            "Between two tokens of a sequence",
            buckets=_EACH,
            registry=registry,
        )
        self._whole = Histogram(
            "potluck_sequence_seconds", "From submission to the end of a sequence", buckets=_WHOLE, registry=registry
        )
        self._prompt = Counter("potluck_prompt_tokens", "Prompt tokens processed", registry=registry)
        self._generated = Counter("potluck_generation_tokens", "Tokens drawn", registry=registry)
        self._ends = Counter("potluck_sequences", "Ended sequences (choices)", ["outcome"], registry=registry)
        self._running = Gauge("potluck_sequences_running", "Sequences being generated", registry=registry)
        self._waiting = Gauge("potluck_sequences_waiting", "Sequences waiting for KV", registry=registry)
        self._kv = Gauge("potluck_kv_cache_used_ratio", "Fraction of the KV blocks that hold tokens", registry=registry)
        self._stage = Counter(
            "potluck_stage_seconds",
            "What stages spent on steps: computing, or waiting for the node's other work",
            ["node", "stage", "kind"],
            registry=registry,
        )
        self._transfer = Counter(
            "potluck_transfer_seconds",
            "Time of steps that no stage computed or waited: links and coordinator",
            registry=registry,
        )
        self._transfers = Gauge(
            "potluck_node_transfer_seconds",
            "Time that a node's outgoing links were busy or held frames back, since it started",
            ["node"],
            registry=registry,
        )
        self._nodes = {
            kind: Gauge(f"potluck_node_{kind}", text, ["node"], registry=registry)
            for kind, text in NODE_FIGURES.items()
        }
        self._accuracy = {
            (kind, name): Gauge(f"potluck_{kind}_{name}_seconds", text, registry=registry)
            for kind, text in _ACCURACY.items()
            for name in _TIMES
        }
        self._deviation = Gauge(
            "potluck_prediction_deviation_ratio",
            "Measured / predicted - 1, the median over the latest requests that ran alone",
            ["what"],
            registry=registry,
        )
        self.set_accuracy(Comparison(), {})
        self._links = {
            kind: Gauge(f"potluck_link_{kind}", f"Sent over a link: {kind}", ["source", "target"], registry=registry)
            for kind in ("frames", "payload_bytes", "header_bytes")
        }

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        for refresh in self.refreshers:
            refresh()
        return generate_latest(self.registry)

    def observe_first_token(self, seconds: float) -> None:
        """A sequence got its first token."""
        self._first.observe(seconds)

    def observe_token(self, seconds: float) -> None:
        """A sequence got its next token, so long after the one before."""
        self._each.observe(seconds)

    def observe_end(self, outcome: str, seconds: float) -> None:
        """A sequence ended: ok, cancelled or error."""
        self._ends.labels(outcome).inc()
        self._whole.observe(seconds)

    def add_tokens(self, prompt: int, generated: int) -> None:
        """Tokens processed and drawn."""
        self._prompt.inc(prompt)
        self._generated.inc(generated)

    def add_stage(self, node: str, stage: int, compute: float, wait: float) -> None:
        """What a stage spent on one step, in seconds."""
        self._stage.labels(node, str(stage), "compute").inc(compute)
        self._stage.labels(node, str(stage), "wait").inc(wait)

    def add_transfer(self, seconds: float) -> None:
        """The part of a step's time that no stage accounts for."""
        self._transfer.inc(seconds)

    def set_load(self, running: int, waiting: int, kv_used: float) -> None:
        """The queue as it is now."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._kv.set(kv_used)

    def set_transfers(self, seconds: Mapping[str, float]) -> None:
        """Per node, the time its outgoing links were busy."""
        for node, value in seconds.items():
            self._transfers.labels(node).set(value)

    def set_accuracy(self, comparison: Comparison, predicted: Mapping[str, float]) -> None:
        """Predicted beside measured; until requests were measured, what was predicted for the goal, and no number."""
        for name in _TIMES:
            figure = comparison.figures.get(name, Figure(predicted.get(name, math.nan), math.nan, math.nan, 0))
            self._accuracy["predicted", name].set(figure.predicted)
            self._accuracy["measured", name].set(figure.measured)
            self._deviation.labels(name).set(figure.deviation)

    def set_nodes(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        """Per node, the figures of `NODE_FIGURES`."""
        for node, values in figures.items():
            for kind, value in values.items():
                self._nodes[kind].labels(node).set(value)

    def set_links(self, counts: Mapping[tuple[str, str], tuple[int, int, int]]) -> None:
        """(source, target) -> frames, payload bytes, header bytes since the start."""
        for (source, target), values in counts.items():
            for kind, value in zip(("frames", "payload_bytes", "header_bytes"), values, strict=True):
                self._links[kind].labels(source, target).set(value)
