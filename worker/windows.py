"""What a node is asked to run: windows of a model and how to compute them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from potluck.kernels.packed import has_vectors
from potluck.models.spec import ModelSpec, Part, PartKind
from potluck.worker.cut import Cut, check_cut, local_spec
from potluck.worker.kv import KvShape
from potluck.worker.operations import Kernels
from potluck.worker.pieces import Form, Unit, units_of
from potluck.worker.residence import DeviceMemory, HostMemory, Residence


def type_name(dtype: torch.dtype) -> str:
    """A compute type as plans, files and frames call it."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive parts run as one stage: maybe the embedding, some layers, maybe the head.

    `next_wants_sampled`: the next stage is the head alone, so only the sampled rows go on. `streamed`: its layers are
    read for every step instead of staying in memory. `cut`: what this node holds of it where a group runs it.
    """

    stage: int
    embedding: bool
    layers: range
    head: bool
    next_wants_sampled: bool = False
    streamed: bool = False
    cut: Cut | None = None

    def spec(self, spec: ModelSpec) -> ModelSpec:
        """The shape of what this node computes with in it."""
        return spec if self.cut is None else local_spec(spec, self.cut)

    @property
    def layer_units(self) -> list[Unit]:
        """The units of its layers."""
        return [Unit("layer", layer, self.cut) for layer in self.layers]


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """How a GPU computes a shard. Nobody needs to say any of it.

    Attributes:
        captured: decode steps are captured once and replayed.
        held: streamed layers on the device at once; None chooses by how fast they are copied and computed.
        host_bytes: memory of the host for streamed layers as the device reads them; None for most of what is free.
    """

    captured: bool = True
    held: int | None = None
    host_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """Compute type, KV size and the most rows of a step.

    `quantized`: weights that the model spec names an encoding for are kept in it; `exact`: activations are not rounded
    to 8 bits for them. `half`: other matrices are kept in half precision instead of `dtype`. `kernels`: "gpu" belongs
    to a GPU; tests run it on CPU tensors, through Triton's interpreter.
    """

    dtype: torch.dtype
    kv_blocks: int
    block_size: int
    max_rows: int
    device: torch.device
    quantized: bool = False
    exact: bool = False
    half: bool = False
    kernels: Kernels = "cpu"
    gpu: GpuOptions = GpuOptions()

    def __post_init__(self) -> None:
        """Refuse what could not compute.

        Raises:
            ValueError: kernels for the CPU cannot work on another device's memory.
        """
        if self.kernels == "cpu" and self.device.type != "cpu":
            raise ValueError(f"kernels for the CPU cannot compute on {self.device}")

    @property
    def form(self) -> Form:
        """How weights are stored for this machine."""
        packed = self.kernels == "cpu" and has_vectors()
        return Form("float16" if self.half else type_name(self.dtype), self.quantized, packed)

    @property
    def residence(self) -> Residence:
        """Where weights lie while they are computed with."""
        return HostMemory(self.exact) if self.kernels == "cpu" else DeviceMemory(self.device)

    @property
    def kv_shape(self) -> KvShape:
        """The KV's size as the block tables know it."""
        return KvShape(self.kv_blocks, self.block_size)


def is_head_only(window: Window) -> bool:
    """Whether it is the head and nothing else."""
    return window.head and not window.embedding and not window.layers


def layers_of(windows: Sequence[Window]) -> Iterator[int]:
    """The layers of some windows, in order."""
    for window in windows:
        yield from window.layers


def parts_of(windows: Sequence[Window]) -> Iterator[Part]:
    """The parts of some windows, in order."""
    for window in windows:
        if window.embedding:
            yield Part(PartKind.EMBEDDING)
        for layer in window.layers:
            yield Part(PartKind.ATTENTION, layer)
            yield Part(PartKind.FFN, layer)
        if window.head:
            yield Part(PartKind.HEAD)


def units_of_windows(spec: ModelSpec, windows: Sequence[Window]) -> list[Unit]:
    """The units of some windows, each once, in the order in which a token needs them."""
    units = [unit for w in windows for unit in units_of(spec, {p.kind for p in parts_of([w])}, w.layers, w.cut)]
    return list(dict.fromkeys(units))


def streamed_units(windows: Sequence[Window]) -> list[Unit]:
    """Units that do not stay in memory, in the order in which a step needs them."""
    return [unit for window in windows if window.streamed for unit in window.layer_units]


def query_group(spec: ModelSpec, windows: Sequence[Window]) -> int:
    """Query heads that share a KV head, as this node computes.

    Raises:
        ValueError: it would be another number in another window.
    """
    groups = {window.spec(spec).heads // window.spec(spec).kv_heads for window in windows if window.layers}
    if len(groups) > 1:
        raise ValueError("a node's windows must have whole KV heads, or all of them the same part of one")
    return groups.pop() if groups else spec.heads // spec.kv_heads


def check_windows(spec: ModelSpec, windows: Sequence[Window]) -> None:
    """Refuse windows that are not distinct parts of a model.

    Raises:
        ValueError: which says what is wrong.
    """
    if not windows:
        raise ValueError("a shard needs at least one window")
    if len({window.stage for window in windows}) < len(windows):
        raise ValueError("two windows have the same stage number")
    for window in windows:
        if window.cut is not None:
            check_cut(spec, window.cut)
    parts = list(parts_of(windows))
    if len(set(parts)) < len(parts):
        raise ValueError("a part appears in two windows of one shard")
    if any(not 0 <= layer < len(spec.layers) for layer in layers_of(windows)):
        raise ValueError(f"model {spec.name!r} has layers 0 to {len(spec.layers) - 1} only")
