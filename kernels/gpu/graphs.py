"""A step captured in CUDA graphs, one for each size of batch, over buffers that stay where they are.

Launching a decode step's kernels one by one costs more than running them; a replayed graph is one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

# What a step decides in Python: a captured one did so once.
Choices = tuple[int, ...]
Step = Callable[[Mapping[str, torch.Tensor], Choices], torch.Tensor]
Replay = Callable[[], None]
Capture = Callable[[Callable[[], torch.Tensor]], tuple[Replay, torch.Tensor]]

# cuBLAS and Triton allocate and compile in their first runs, which no capture may contain.
_WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class Buffer:
    """An input's place, as many rows as the largest batch has; rows that fill a batch up hold `filler`.

    A filler makes the row harmless: a slot of -1 is not stored, a range of slots that ends at 0 sees nothing.
    `ragged`: inputs may have fewer columns; behind theirs stands what stood there, which the step must not heed.
    """

    rows: torch.Tensor
    filler: float
    ragged: bool = False

    def take(self, name: str, value: torch.Tensor, bucket: int) -> None:
        """Hold these rows and, up to the bucket, the filler.

        Raises:
            ValueError: they have another shape than the buffer's.
        """
        target = self.rows[:bucket, : value.shape[1]] if self.ragged and value.dim() > 1 else self.rows[:bucket]
        # copy_ would broadcast a single row.
        if len(value) > bucket or value.shape[1:] != target.shape[1:]:
            raise ValueError(f"{name} is {tuple(value.shape)}, not {(bucket, *self.rows.shape[1:])}")
        target[: len(value)].copy_(value, non_blocking=True)
        self.rows[len(value) : bucket].fill_(self.filler)


def buckets_up_to(most: int) -> tuple[int, ...]:
    """Sizes of batch that are captured: powers of two, and the largest batch itself.

    Raises:
        ValueError: the largest batch has no row.
    """
    if most < 1:
        raise ValueError(f"a batch of {most} rows")
    return (*(2**i for i in range((most - 1).bit_length())), most)


def bucket_for(rows: int, buckets: tuple[int, ...]) -> int:
    """The smallest of ascending sizes that holds this many rows.

    Raises:
        ValueError: none does.
    """
    if rows < 1 or rows > buckets[-1]:
        raise ValueError(f"a batch of {rows} rows, captured are 1 to {buckets[-1]}")
    return next(bucket for bucket in buckets if bucket >= rows)


class CapturedStep:
    """A step of up to `most` rows; captured the first time a batch of its size comes, or ahead by `prepare`.

    The step is a function of its inputs' rows and of its choices: whatever else it decided in Python would stay so. It
    must not change its inputs, because it is run a few times before it is captured.
    """

    __slots__ = ("_buckets", "_buffers", "_capture", "_captured", "_step")

    def __init__(self, step: Step, buffers: Mapping[str, Buffer], capture: Capture) -> None:
        """Take the step, its inputs' places (all of as many rows) and what captures: a CudaCapture.

        Raises:
            ValueError: there are no buffers, or they differ in rows.
        """
        rows = {len(buffer.rows) for buffer in buffers.values()}
        if len(rows) != 1:
            raise ValueError(f"buffers of {sorted(rows)} rows")
        self._step, self._buffers, self._capture = step, buffers, capture
        self._buckets = buckets_up_to(rows.pop())
        self._captured: dict[tuple[int, Choices], tuple[Replay, torch.Tensor]] = {}
        for buffer in buffers.values():
            buffer.rows.fill_(buffer.filler)

    def prepare(self, choices: Choices = ()) -> None:
        """Capture every size, the largest first: the smaller ones then fit the memory that it took."""
        for bucket in reversed(self._buckets):
            self._graph(bucket, choices)

    def __call__(self, inputs: Mapping[str, torch.Tensor], choices: Choices = ()) -> torch.Tensor:
        """The step's result for these rows, valid until the next call of this or a step that shares its capture.

        Raises:
            ValueError: the inputs are not those of the buffers, differ in rows, or are too many.
        """
        if inputs.keys() != self._buffers.keys():
            raise ValueError(f"inputs {sorted(inputs)}, buffers {sorted(self._buffers)}")
        rows = len(next(iter(inputs.values())))
        bucket = bucket_for(rows, self._buckets)
        if any(len(value) != rows for value in inputs.values()):
            raise ValueError(f"inputs of {sorted({len(value) for value in inputs.values()})} rows, not of as many")
        for name, value in inputs.items():
            self._buffers[name].take(name, value, bucket)
        replay, out = self._graph(bucket, choices)
        replay()
        return out[:rows]

    def _graph(self, bucket: int, choices: Choices) -> tuple[Replay, torch.Tensor]:
        if (bucket, choices) not in self._captured:
            views = {name: buffer.rows[:bucket] for name, buffer in self._buffers.items()}
            self._captured[bucket, choices] = self._capture(lambda: self._step(views, choices))
        return self._captured[bucket, choices]


def call_again(step: Callable[[], torch.Tensor]) -> tuple[Replay, torch.Tensor]:
    """A capture where there is no CUDA: the step is called again, and its result put where the first one lies."""
    out = step()

    def replay() -> None:
        out.copy_(step())

    return replay, out


class CudaCapture:
    """Captures into CUDA graphs whose memory is one pool: only one of them may run at a time."""

    __slots__ = ("_pool",)

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], torch.Tensor]) -> tuple[Replay, torch.Tensor]:
        """How to replay the step, and where its result then lies. Runs it a few times first."""
        current = torch.cuda.current_stream()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                step()
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may ask the device for its memory meanwhile: only this one's calls are of the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = step()
        return graph.replay, out
