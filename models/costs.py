"""What a part of a model costs: bytes moved, operations, seconds on a device.

The seconds are a roofline: a device streams a part's weights (and the KV attended to) once per step and multiplies
them with every row, and the slower of the two is what it takes,

    seconds = max(bytes / memory_bandwidth, operations / flops)

PRIMA.CPP (arXiv 2504.08791, appendix A.3) has the same two terms, f / s for operations and b' / T for bytes with
b' = b + 2 (h_k e_k + h_v e_v) n_kv, and adds them; they overlap on the devices here, so the larger one is taken.
Decoding one sequence is bound by bytes nearly everywhere, a prompt by operations. Beside them a layer takes the seconds
of its calls and small operations (`layer_overhead`), of which a small model's token is largely made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from potluck.models.roles import keys_of, shape_of
from potluck.models.sizes import DeviceKind, held_encoding, itemsize, kv_bytes_per_token, tensor_bytes, weight_bytes
from potluck.models.spec import ModelSpec, Part, PartKind


@dataclass(frozen=True, slots=True)
class FormatSpeed:
    """How fast a device multiplies matrices that keep one weight format.

    Attributes:
        flops: floating-point operations per second with many rows at once.
        bandwidth: bytes per second of the matrix as it lies in memory, with one row.
    """

    flops: float
    bandwidth: float


_FLOAT32 = 4
# Where a device's formats have it, how fast it attends: operations of many rows, bytes of KV with one.
ATTENTION = "attention"
# And how fast it multiplies plain matrices of rows as short as the second, where `flops` and `memory_bandwidth` are of
# rows as long as the first: every row takes some nanoseconds beside its bytes. Measured on one core: 8 to 10 (float32)
# and 4 to 8 (bfloat16), 10 to 20 % of a token of SmolLM2, whose rows have 576 columns; quantised formats 0 to 2.
NARROW = "narrow"
WIDE_COLUMNS, NARROW_COLUMNS = 2048, 512


class Speeds(Protocol):
    """What a device does per second; `planner.fleet.Device` is one."""

    @property
    def kind(self) -> DeviceKind:
        """What it is; formats take other bytes on a GPU."""

    @property
    def flops(self) -> float:
        """Floating-point operations per second in the compute type."""

    @property
    def memory_bandwidth(self) -> float:
        """Bytes per second."""

    @property
    def formats(self) -> Mapping[str, FormatSpeed]:
        """By weight format, where its speed is known; others are as fast as the compute type."""

    @property
    def layer_overhead(self) -> float:
        """Seconds that software adds to every layer of a step, whatever its size."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One step as the cost model sees it: packed rows of sequences that are alike.

    Attributes:
        rows: tokens computed.
        sampled: rows that go to the head.
        context: positions each row attends to, itself included.
        sequences: whose KV is read once each, however many rows attend to it.
    """

    rows: int
    sampled: int
    context: int
    sequences: int = 1


def flops(spec: ModelSpec, part: Part, work: Pass) -> float:
    """Floating-point operations of a part in one step: 2 per weight and row, and attention over the context."""
    match part.kind:
        case PartKind.EMBEDDING:
            return 0.0
        case PartKind.HEAD:
            return 2.0 * spec.vocab * spec.hidden * work.sampled
        case PartKind.FFN:
            return 2.0 * 3 * spec.hidden * spec.ffn * work.rows
        case PartKind.ATTENTION:
            query = spec.heads * spec.head_dim
            matrices = 2.0 * spec.hidden * (2 * query + spec.kv_width())
            return (matrices + 4.0 * query * _attended(spec, part, work)) * work.rows


def bytes_moved(spec: ModelSpec, part: Part, dtype: str, work: Pass, kind: DeviceKind = "cpu") -> float:
    """Bytes a device streams for a part in one step: its weights once, the KV attended to; of the embedding a row each.

    A head with nothing to sample streams nothing.
    """
    if part.kind is PartKind.EMBEDDING:
        return float(work.rows * spec.hidden * itemsize(dtype))
    if part.kind is PartKind.HEAD and not work.sampled:
        return 0.0
    kv = _attended(spec, part, work) * kv_bytes_per_token(spec, dtype) if part.kind is PartKind.ATTENTION else 0
    return float(weight_bytes(spec, [part], dtype, kind) + kv * work.sequences)


@dataclass(frozen=True, slots=True)
class PartCost:
    """What a part costs a device, in seconds to be multiplied by a step's numbers.

    Attributes:
        weights: reading the weights, once a step.
        position: reading the KV of one position of one sequence.
        moved: memory traffic of a row: the embedding's, and what passes between products.
        row, attended: multiplying a row, and what is done with it between products; its attention to one position.
        window: most positions attended to, None for all.
        at_head: whether only sampled rows are computed.
        overhead: what software adds once a step; not in `seconds`.
    """

    weights: float
    position: float
    moved: float
    row: float
    attended: float
    window: int | None
    at_head: bool
    overhead: float = 0.0

    def seconds(self, work: Pass) -> tuple[float, float]:
        """Seconds that a step's operations take, and its memory traffic; the part takes the larger of both."""
        rows = work.sampled if self.at_head else work.rows
        context = work.context if self.window is None else min(self.window, work.context)
        return self.roofline(rows, rows * context, work.sequences * context)

    def roofline(self, rows: int, attended: float, read: float) -> tuple[float, float]:
        """As `seconds`, of rows that attend to so many positions in all, of which the KV of `read` is read."""
        if not rows:
            return 0.0, 0.0
        memory = self.weights + self.position * read + self.moved * rows
        return self.row * rows + self.attended * attended, memory

    def taken(self, work: Pass) -> float:
        """Seconds of the part in a step, software included."""
        return max(self.seconds(work)) + self.overhead


def part_cost(spec: ModelSpec, part: Part, compute: tuple[Speeds, str]) -> PartCost:
    """The cost of a part on a device in a compute type."""
    device, dtype = compute
    attention = device.formats.get(ATTENTION, FormatSpeed(device.flops, device.memory_bandwidth))
    kv = kv_bytes_per_token(spec, dtype) if part.kind is PartKind.ATTENTION else 0
    attended = 4.0 * spec.heads * spec.head_dim if part.kind is PartKind.ATTENTION else 0.0
    # On both sides of the roofline: no product hides what comes before and after it.
    between = activation_bytes(spec, part) / device.memory_bandwidth
    is_embedding = part.kind is PartKind.EMBEDDING
    held = {} if is_embedding else _held(spec, part, compute)
    return PartCost(
        weights=sum(nbytes / speed.bandwidth for speed, (nbytes, _) in held.items()),
        position=kv / attention.bandwidth,
        moved=between + (spec.hidden * itemsize(dtype) / device.memory_bandwidth if is_embedding else 0.0),
        row=between + sum(2.0 * numbers / speed.flops for speed, (_, numbers) in held.items()),
        attended=attended / attention.flops,
        window=spec.layers[part.layer].window if part.layer is not None else None,
        at_head=part.kind is PartKind.HEAD,
        # Both halves of a layer are a few calls.
        overhead=device.layer_overhead / 2 if part.layer is not None else 0.0,
    )


def activation_bytes(spec: ModelSpec, part: Part) -> int:
    """Bytes that a row of float32 numbers takes to and from memory between a layer's products.

    Norm: read and written; what products take and give; rope, gate and residual sum: read and written once more.
    """
    match part.kind:
        case PartKind.ATTENTION:
            return _FLOAT32 * (6 * spec.hidden + 3 * (spec.heads * spec.head_dim + spec.kv_width()))
        case PartKind.FFN:
            return _FLOAT32 * (5 * spec.hidden + 5 * spec.ffn)
        case _:
            return 0


def _held(spec: ModelSpec, part: Part, compute: tuple[Speeds, str]) -> dict[FormatSpeed, tuple[int, int]]:
    """Bytes of a part's tensors, and the numbers in its matrices, by how fast the device is with them."""
    device, dtype = compute
    held: dict[FormatSpeed, tuple[int, int]] = {}
    for key in keys_of(spec, part):
        shape = shape_of(spec, key.role)
        columns = shape[1] if len(shape) == 2 else WIDE_COLUMNS
        speed = device.formats.get(held_encoding(spec, key, dtype) or "") or plain_speed(device, columns)
        nbytes, numbers = held.get(speed, (0, 0))
        matrix = math.prod(shape) if len(shape) == 2 else 0
        held[speed] = nbytes + tensor_bytes(spec, key, dtype, device.kind), numbers + matrix
    return held


def plain_speed(device: Speeds, columns: int) -> FormatSpeed:
    """How fast plain matrices with rows of so many columns are: what a row takes beside its bytes is shared by them."""
    wide = FormatSpeed(device.flops, device.memory_bandwidth)
    narrow = device.formats.get(NARROW, wide)
    share = max(0.0, (1 / columns - 1 / WIDE_COLUMNS) / (1 / NARROW_COLUMNS - 1 / WIDE_COLUMNS))

    def between(first: float, second: float) -> float:
        return first / (1.0 + share * max(0.0, first / second - 1.0))

    return FormatSpeed(between(wide.flops, narrow.flops), between(wide.bandwidth, narrow.bandwidth))


def seconds(spec: ModelSpec, parts: Iterable[Part], work: Pass, compute: tuple[Speeds, str]) -> float:
    """Seconds that parts take on a device in a compute type: the sum of their rooflines, and of what software adds."""
    return sum(part_cost(spec, part, compute).taken(work) for part in parts)


def _attended(spec: ModelSpec, part: Part, work: Pass) -> int:
    window = spec.layers[part.layer].window if part.layer is not None else None
    return work.context if window is None else min(window, work.context)
