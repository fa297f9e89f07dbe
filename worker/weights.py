"""The weights of a shard in the form the decoder multiplies: fused, converted, packed, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from potluck.kernels.linear import Linear
from potluck.kernels.quantized import PackedMatrix, QuantizedLinear
from potluck.models.encodings import packed_bytes
from potluck.models.roles import Role, TensorKey, shape_of
from potluck.models.spec import ModelSpec

Read = Callable[[TensorKey], torch.Tensor]
# A quantised matrix as the checkpoint stores it: its encoding, and the blocks of its rows.
Stored = Callable[[TensorKey], tuple[str, torch.Tensor]]
Embedding = torch.Tensor | PackedMatrix
Product = Linear | QuantizedLinear

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


def bytes_of(spec: ModelSpec, keys: Iterable[TensorKey], dtype: torch.dtype, quantized: bool = False) -> int:
    """Bytes that these tensors take in memory; `quantized`: those that can be are kept as they are stored."""
    total = 0
    for key in keys:
        if quantized and (encoding := spec.encodings.get(str(key))):
            total += packed_bytes(encoding, shape_of(spec, key.role))
            continue
        numbers = 1
        for size in shape_of(spec, key.role):
            numbers *= size
        total += numbers * weight_dtype(key.role, dtype).itemsize
    return total


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. `qkv` and `gate_up` are fused; `qk_norm_NE` holds a row per query and key head."""

    attention_norm: torch.Tensor
    qkv: Product
    output: Product
    ffn_norm: torch.Tensor
    gate_up: Product
    down: Product
    qk_norm_NE: torch.Tensor | None = None
    attention_post_norm: torch.Tensor | None = None
    ffn_post_norm: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """The output norm and the output matrix."""

    norm: torch.Tensor
    output: Product


class WeightReader:
    """Reads, checks, converts and places tensors; at most one tensor is held beside what is already placed."""

    def __init__(
        self,
        spec: ModelSpec,
        dtype: torch.dtype,
        device: torch.device,
        source: tuple[Read, Callable[[TensorKey], None], Stored | None],
    ) -> None:
        """`source` reads float32 tensors, is told after each is placed, and reads quantised matrices as they are
        stored (None: everything is multiplied in the compute type)."""
        self._spec = spec
        self._dtype = dtype
        self._device = device
        self._read, self._on_tensor, self._stored = source

    def embedding(self) -> Embedding:
        """The embedding matrix (vocab, hidden)."""
        key = TensorKey(Role.EMBEDDING)
        return self._packed(key) if self._keeps(key) else self._fused([key])

    def head(self, embedding: Embedding | None) -> HeadWeights:
        """The head. A tied head multiplies by `embedding` where the shard has it, unpacked: held once."""
        norm, key = self._fused([TensorKey(Role.OUTPUT_NORM)]), TensorKey(_head_role(self._spec))
        tied = embedding if self._spec.tied_head else None
        if isinstance(tied, torch.Tensor):
            return HeadWeights(norm, Linear(tied, pack=False))
        if self._keeps(key):
            return HeadWeights(norm, QuantizedLinear([tied or self._packed(key)]))
        return HeadWeights(norm, Linear(self._fused([key])))

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

    def _linear(self, roles: tuple[Role, ...], layer: int, bias: bool) -> Product:
        keys = [TensorKey(role, layer) for role in roles]
        biases = [TensorKey(Role(f"{role}_bias"), layer) for role in roles] if bias else []
        if all(map(self._keeps, keys)):
            pieces = [self._packed(key) for key in keys]
            return QuantizedLinear(pieces, self._fused(biases) if biases else None)
        weight = self._fused(keys)
        return Linear(weight, self._fused(biases) if biases else None)

    def _keeps(self, key: TensorKey) -> bool:
        return self._stored is not None and str(key) in self._spec.encodings

    def _packed(self, key: TensorKey) -> PackedMatrix:
        if self._stored is None:
            raise WeightError(f"nothing reads {key} as it is stored")
        (encoding, blocks_OB), shape = self._stored(key), shape_of(self._spec, key.role)
        if encoding != self._spec.encodings[str(key)] or blocks_OB.shape[0] != shape[0]:
            raise WeightError(f"tensor {key} is stored in another format than the plan was made for; plan again")
        packed = PackedMatrix(encoding, blocks_OB, shape[1])
        self._on_tensor(key)
        return packed

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
