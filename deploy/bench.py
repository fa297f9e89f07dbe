"""`cluster bench`: how fast this machine runs a model alone, and what of its memory's speed that is."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import torch
from rich.progress import Progress

from potluck.deploy.columns import add_figures, add_words, titled
from potluck.deploy.console import byte_bars, show
from potluck.deploy.given_plan import check_wish
from potluck.deploy.tables import bytes_text
from potluck.deploy.wish import Wish, goal_of, wished_spec
from potluck.kernels import packed
from potluck.models.costs import Pass, bytes_moved
from potluck.models.open import read_spec
from potluck.models.source import ModelPath
from potluck.models.spec import ModelSpec
from potluck.worker.capacity import default_threads
from potluck.worker.lone_shard import LoneShard, prompt_of, whole_model
from potluck.worker.probe import measure_memory_bandwidth
from potluck.worker.shard_file import OnBytes

_PROMPT, _GENERATED, _KV_TOKENS = 32, 64, 8192


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: pp are prompt tokens, tg generated ones; `batch` requests at once.

    `bytes_per_token`: weights and KV read for each; `bandwidth_share`: of the measured memory bandwidth.
    """

    test: str
    batch: int
    tokens_per_s: float
    ms_per_step: float
    bytes_per_token: float
    bandwidth_share: float


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured, on what."""

    model: str
    dtype: str
    backend: str
    threads: int
    weight_bytes: int
    memory_bandwidth: float
    anonymous_bytes: int
    kv_bytes: int
    figures: list[Figure]


def bench(found: ModelPath, wish: Wish, cache: Path, threads: int, rounds: int) -> Report:
    """Measure a model on this machine.

    Raises:
        CheckpointError, UnsupportedModel, WeightError, ShardFileError, ValueError: one line each.
    """
    spec = replace(wished_spec(read_spec(found.path), wish), name=found.name)
    check_wish(spec, wish, None)
    goal = goal_of(spec, found.name, wish)
    if threads > (most := 2 * (psutil.cpu_count() or 1)):
        raise ValueError(f"--threads {threads} is more than twice the processors of this machine; take at most {most}")
    threads = threads or default_threads()
    torch.set_num_threads(threads)
    packed.set_threads(threads)
    bandwidth = measure_memory_bandwidth()
    with _Bars() as bars:
        shard = LoneShard(found.path, spec, whole_model(_KV_TOKENS, goal.dtype), cache, bars.counter)
    try:
        figures = list(_figures(shard, spec, goal.dtype, (bandwidth, rounds)))
        memory = psutil.Process().memory_info()
        return Report(
            model=found.name,
            dtype=goal.dtype,
            backend=(packed.backend() if packed.available() else None) or "torch",
            threads=threads,
            weight_bytes=shard.shard.memory.weights,
            memory_bandwidth=bandwidth,
            anonymous_bytes=memory.rss - getattr(memory, "shared", 0),
            kv_bytes=shard.shard.memory.kv,
            figures=figures,
        )
    finally:
        shard.close()


def show_bench(report: Report, as_json: bool) -> None:
    """The table, or JSON."""
    title = (
        f"{report.model} · {report.dtype} · {bytes_text(report.weight_bytes)} of weights · {report.threads} "
        f"thread{'s' * (report.threads > 1)} · {report.backend} · memory {report.memory_bandwidth / 1e9:.1f} GB/s"
    )
    table = titled(title)
    add_words(table, "test")
    add_figures(table, "batch", "tokens/s", "ms per step", "read per token", "of memory bandwidth")
    for row in report.figures:
        speed, step = f"{row.tokens_per_s:.1f}", f"{row.ms_per_step:.2f}"
        read, share = bytes_text(row.bytes_per_token), f"{row.bandwidth_share:.0%}"
        table.add_row(row.test, str(row.batch), speed, step, read, share)
    show(table, asdict(report), as_json)


def _figures(shard: LoneShard, spec: ModelSpec, dtype: str, how: tuple[float, int]) -> Iterator[Figure]:
    bandwidth, rounds = how
    for size in (128, 512):
        seconds = statistics.median(shard.generate([prompt_of(size, spec.vocab)], 0)[0] for _ in range(rounds))
        moved = _moved(spec, dtype, Pass(size, 1, size // 2))
        yield Figure(f"pp {size}", 1, size / seconds, seconds * 1e3, moved / size, moved / seconds / bandwidth)
    for batch in (1, 8):
        prompts = [prompt_of(_PROMPT, spec.vocab, salt) for salt in range(batch)]
        seconds = statistics.median(shard.generate(prompts, _GENERATED)[1] for _ in range(rounds)) / _GENERATED
        context = _PROMPT + _GENERATED // 2
        kv = spec.kv_width() * shard.shard.memory.config.dtype.itemsize * context * len(spec.layers)
        moved = _moved(spec, dtype, Pass(1, 1, context)) + (batch - 1) * kv
        share = moved / seconds / bandwidth
        yield Figure(f"tg {_GENERATED}", batch, batch / seconds, seconds * 1e3, moved / batch, share)


def _moved(spec: ModelSpec, dtype: str, work: Pass) -> float:
    return sum(bytes_moved(spec, part, dtype, work) for part in spec.parts())


class _Bars:
    """Progress of checking and building shard files."""

    def __init__(self) -> None:
        self._bars: Progress | None = None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def counter(self, activity: str, total: int) -> OnBytes:
        """A bar for an activity that has something to do."""
        if not total:
            return lambda _: None
        if self._bars is None:
            self._bars = byte_bars()
            self._bars.start()
        bars, task = self._bars, self._bars.add_task(f"{activity} shard files", total=total)
        return lambda count: bars.advance(task, count)
