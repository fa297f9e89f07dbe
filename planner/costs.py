"""What a part of a model costs: bytes held, bytes moved, operations, seconds on a device.

The seconds are a roofline: a device streams a part's weights (and the KV attended to) once per step and multiplies
them with every row, and the slower of the two is what it takes,

    seconds = max(bytes / memory_bandwidth, operations / flops)

PRIMA.CPP (arXiv 2504.08791, appendix A.3) has the same two terms, f / s for operations and b' / T for bytes with
b' = b + 2 (h_k e_k + h_v e_v) n_kv, and adds them; they overlap on the devices here, so the larger one is taken.
Decoding one sequence is bound by bytes nearly everywhere, a prompt by operations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from potluck.models.encodings import packed_bytes, plain_bytes
from potluck.models.roles import TensorKey, keys_of, shape_of
from potluck.models.spec import ModelSpec, Part, PartKind
from potluck.planner.fleet import Device, DeviceKind

# Of hidden rows, KV and dense weights. "quantized" keeps the weights that the checkpoint stores in a format that is
# multiplied as it is; everything else is as in bfloat16.
# "weight-only" is the same but for activations, which are not rounded to 8 bits.
# "float16" keeps dense weights in half precision, everything else is as in bfloat16.
ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2, "quantized": 2, "weight-only": 2}
_KEEPS_ENCODINGS = frozenset({"quantized", "weight-only"})
_VECTOR_ITEMSIZE = 4


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


def itemsize(dtype: str) -> int:
    """Bytes of one number of a compute type.

    Raises:
        ValueError: the type is not one that Potluck computes in.
    """
    if dtype not in ITEMSIZE:
        raise ValueError(f"dtype {dtype!r} is not known; use {' or '.join(ITEMSIZE)}")
    return ITEMSIZE[dtype]


def tensor_bytes(spec: ModelSpec, key: TensorKey, dtype: str, kind: DeviceKind = "cpu") -> int:
    """Bytes of one tensor in a device's memory; norms and biases are kept in float32 whatever the compute type."""
    shape, on_gpu = shape_of(spec, key.role), kind == "cuda"
    if dtype in _KEEPS_ENCODINGS and (encoding := spec.encodings.get(str(key))):
        return packed_bytes(encoding, shape, on_gpu)
    # Norms and biases are small and stay float32 beside unrounded numbers.
    return plain_bytes(shape, itemsize(dtype) if len(shape) == 2 else _VECTOR_ITEMSIZE, on_gpu)


def weight_bytes(spec: ModelSpec, parts: Iterable[Part], dtype: str, kind: DeviceKind = "cpu") -> int:
    """Bytes of the weights of some parts on one node; a tied embedding and head together cost once."""
    keys = {key for part in parts for key in keys_of(spec, part)}
    return sum(tensor_bytes(spec, key, dtype, kind) for key in keys)


def kv_bytes_per_token(spec: ModelSpec, dtype: str) -> int:
    """Bytes of KV per token and layer."""
    return spec.kv_width() * itemsize(dtype)


def layer_parts(layers: Iterable[int]) -> tuple[Part, ...]:
    """The parts of whole layers, in the order a token visits them."""
    return tuple(Part(kind, layer) for layer in layers for kind in (PartKind.ATTENTION, PartKind.FFN))


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
        moved: memory traffic of a row (the embedding's).
        row, attended: multiplying a row; its attention to one position.
        window: most positions attended to, None for all.
        at_head: whether only sampled rows are computed.
    """

    weights: float
    position: float
    moved: float
    row: float
    attended: float
    window: int | None
    at_head: bool

    def seconds(self, work: Pass) -> tuple[float, float]:
        """Seconds that a step's operations take, and its memory traffic; the part takes the larger of both."""
        rows = work.sampled if self.at_head else work.rows
        if not rows:
            return 0.0, 0.0
        context = work.context if self.window is None else min(self.window, work.context)
        memory = self.weights + self.position * context * work.sequences + self.moved * rows
        return (self.row + self.attended * context) * rows, memory


def part_cost(spec: ModelSpec, part: Part, compute: tuple[Device, str]) -> PartCost:
    """The cost of a part on a device in a compute type."""
    device, dtype = compute
    none, one = (bytes_moved(spec, part, dtype, Pass(rows, 1, 0), device.kind) for rows in (0, 1))
    bare, near = (flops(spec, part, Pass(1, 1, context)) for context in (0, 1))
    kv = kv_bytes_per_token(spec, dtype) if part.kind is PartKind.ATTENTION else 0
    return PartCost(
        weights=none / device.memory_bandwidth,
        position=kv / device.memory_bandwidth,
        moved=(one - none) / device.memory_bandwidth,
        row=bare / device.flops,
        attended=(near - bare) / device.flops,
        window=spec.layers[part.layer].window if part.layer is not None else None,
        at_head=part.kind is PartKind.HEAD,
    )


def seconds(spec: ModelSpec, parts: Iterable[Part], work: Pass, compute: tuple[Device, str]) -> float:
    """Seconds that parts take on a device in a compute type: the sum of their rooflines."""
    return sum(max(part_cost(spec, part, compute).seconds(work)) for part in parts)


def _attended(spec: ModelSpec, part: Part, work: Pass) -> int:
    window = spec.layers[part.layer].window if part.layer is not None else None
    return work.context if window is None else min(window, work.context)
