"""The weights of a shard in the form the decoder multiplies: fused, converted, packed, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from potluck.kernels.linear import Linear
from potluck.models.roles import Role, TensorKey, shape_of
from potluck.models.spec import ModelSpec

Read = Callable[[TensorKey], torch.Tensor]

_NORMS = frozenset(
    {
        Role.ATTENTION_NORM,
        Role.ATTENTION_POST_NORM,
        Role.FFN_NORM,
        Role.FFN_POST_NORM,
        Role.OUTPUT_NORM,
        Role.Q_NORM,
        Role.K_NORM,
    }
)


class WeightError(Exception):
    """A checkpoint's tensor does not fit the model spec."""


def weight_dtype(role: Role, dtype: torch.dtype) -> torch.dtype:
    """The type a weight is kept in: norms stay float32, they are small and multiply unrounded numbers."""
    return torch.float32 if role in _NORMS else dtype


def bytes_of(spec: ModelSpec, keys: Iterable[TensorKey], dtype: torch.dtype) -> int:
    """Bytes that these tensors take in memory."""
    total = 0
    for key in keys:
        numbers = 1
        for size in shape_of(spec, key.role):
            numbers *= size
        total += numbers * weight_dtype(key.role, dtype).itemsize
    return total


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. `qkv` and `gate_up` are fused; `qk_norm_NE` holds a row per query and key head."""

    attention_norm: torch.Tensor
    qkv: Linear
    output: Linear
    ffn_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    qk_norm_NE: torch.Tensor | None = None
    attention_post_norm: torch.Tensor | None = None
    ffn_post_norm: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """The output norm and the output matrix."""

    norm: torch.Tensor
    output: Linear


class WeightReader:
    """Reads, checks, converts and places tensors; at most one tensor is held beside what is already placed."""

    def __init__(
        self,
        spec: ModelSpec,
        dtype: torch.dtype,
        device: torch.device,
        source: tuple[Read, Callable[[TensorKey], None]],
    ) -> None:
        """`source` is the reader of float32 tensors and what to call after each is placed."""
        self._spec = spec
        self._dtype = dtype
        self._device = device
        self._read, self._on_tensor = source

    def embedding(self) -> torch.Tensor:
        """The embedding matrix (vocab, hidden)."""
        return self._fused([TensorKey(Role.EMBEDDING)])

    def head(self, embedding: torch.Tensor | None) -> HeadWeights:
        """The head. A tied head multiplies by `embedding` where the shard has it, unpacked: held once."""
        norm = self._fused([TensorKey(Role.OUTPUT_NORM)])
        if self._spec.tied_head and embedding is not None:
            return HeadWeights(norm, Linear(embedding, pack=False))
        return HeadWeights(norm, Linear(self._fused([TensorKey(_head_role(self._spec))])))

    def layer(self, number: int) -> LayerWeights:
        """All tensors of one layer."""
        spec = self._spec
        return LayerWeights(
            attention_norm=self._one(Role.ATTENTION_NORM, number),
            qkv=self._linear((Role.Q, Role.K, Role.V), number, spec.qkv_bias),
            output=self._linear((Role.O,), number, spec.output_bias),
            ffn_norm=self._one(Role.FFN_NORM, number),
            gate_up=self._linear((Role.GATE, Role.UP), number, False),
            down=self._linear((Role.DOWN,), number, False),
            qk_norm_NE=self._qk_norm(number) if spec.qk_norm else None,
            attention_post_norm=self._one(Role.ATTENTION_POST_NORM, number) if spec.post_norms else None,
            ffn_post_norm=self._one(Role.FFN_POST_NORM, number) if spec.post_norms else None,
        )

    def _one(self, role: Role, layer: int) -> torch.Tensor:
        return self._fused([TensorKey(role, layer)])

    def _linear(self, roles: tuple[Role, ...], layer: int, bias: bool) -> Linear:
        weight = self._fused([TensorKey(role, layer) for role in roles])
        biases = [TensorKey(Role(f"{role}_bias"), layer) for role in roles] if bias else []
        return Linear(weight, self._fused(biases) if biases else None)

    def _qk_norm(self, layer: int) -> torch.Tensor:
        heads, kv_heads = self._spec.heads, self._spec.kv_heads
        q_E, k_E = self._one(Role.Q_NORM, layer), self._one(Role.K_NORM, layer)
        return torch.cat((q_E.expand(heads, -1), k_E.expand(kv_heads, -1)))

    def _fused(self, keys: list[TensorKey]) -> torch.Tensor:
        """Tensors joined along their first axis, each converted straight into its place."""
        shapes = [shape_of(self._spec, key.role) for key in keys]
        rows = [shape[0] for shape in shapes]
        dtype = weight_dtype(keys[0].role, self._dtype)
        fused = torch.empty((sum(rows), *shapes[0][1:]), dtype=dtype, device=self._device)
        for key, shape, place in zip(keys, shapes, fused.split_with_sizes(rows), strict=True):
            tensor = self._read(key)
            if tuple(tensor.shape) != shape:
                raise WeightError(
                    f"tensor {key} is {tuple(tensor.shape)}, the model's config asks for {shape}; "
                    "checkpoint and config do not belong together"
                )
            place.copy_(tensor)
            self._on_tensor(key)
        return fused


def _head_role(spec: ModelSpec) -> Role:
    return Role.EMBEDDING if spec.tied_head else Role.HEAD
