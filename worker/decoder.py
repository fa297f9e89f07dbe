"""The one decoder: a pre-norm transformer whose every variation is a flag of its ModelSpec.

T = packed rows, D = hidden width, H and K = query and KV heads, E = width of a head, V = vocabulary.

The residual stream inside a window, norms, rope and softmax are float32 in every compute type; products, KV and what
goes over the wire are of the compute type. Products with weights that stay quantised take and give float32. A float32
residual costs nothing, norms need it so. In bfloat16 it brings the log-probability of a token (SmolLM2, 1600 tokens of
prose) from 0.054 to 0.042 nats around float32's (one standard deviation); transformers in bfloat16 is 0.057 around it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F

from potluck.kernels.attention_inputs import HeadNorm
from potluck.kernels.decode_layers import LayerHalves, SumCall, takes_norm
from potluck.kernels.halves import Normed, attention_half, ffn_half
from potluck.models.spec import LayerSpec, ModelSpec
from potluck.worker.batch import Batch
from potluck.worker.cut import Range
from potluck.worker.operations import Operations
from potluck.worker.residence import Matrix, Product
from potluck.worker.weights import HeadWeights, LayerWeights


def embed(spec: ModelSpec, embedding_VD: Matrix, tokens_T: torch.Tensor) -> torch.Tensor:
    """Embedded tokens, scaled where the model scales them: float32 (T, D)."""
    if isinstance(embedding_VD, torch.Tensor):
        x_TD = F.embedding(tokens_T, embedding_VD).float()
    else:
        x_TD = embedding_VD.select(tokens_T)
    return x_TD if spec.embedding_scale == 1.0 else x_TD * spec.embedding_scale


def embed_some(spec: ModelSpec, embedding_VD: Matrix, tokens_T: torch.Tensor, rows: Range) -> torch.Tensor:
    """As `embed`, from some rows of the vocabulary; zeros for other tokens, whose rows other members have."""
    own_T = (tokens_T >= rows[0]) & (tokens_T < rows[1])
    x_TD = embed(spec, embedding_VD, torch.where(own_T, tokens_T - rows[0], 0))
    return x_TD.masked_fill(~own_T[:, None], 0.0)


def logits(spec: ModelSpec, weights: HeadWeights, x_RD: torch.Tensor, operations: Operations) -> torch.Tensor:
    """Float32 logits of R rows: (R, V)."""
    return weights.output(operations.norm(x_RD, weights.norm, spec.norm_eps, weights.output.dtype)).float()


class Layer:
    """One transformer layer of a shard, with its KV pool."""

    __slots__ = (
        "_attention_half",
        "_ffn_half",
        "_head_norm",
        "_layer",
        "_operations",
        "_pool_NS2KE",
        "_spec",
        "_weights",
    )

    def __init__(
        self,
        spec: ModelSpec,
        layer: LayerSpec,
        weights: LayerWeights,
        pool_NS2KE: torch.Tensor,
        operations: Operations,
    ) -> None:
        self._spec = spec
        self._layer = layer
        self._operations = operations
        self._weights = weights
        self._pool_NS2KE = pool_NS2KE
        norm_NE = weights.qk_norm_NE
        self._head_norm = None if norm_NE is None else HeadNorm(norm_NE, spec.norm_eps)
        norms = Normed(weights.attention_norm, spec.norm_eps), Normed(weights.ffn_norm, spec.norm_eps)
        attention, ffn = (weights.qkv, weights.output), (weights.gate_up, weights.down)
        self._attention_half = attention_half(norms[0], attention, self._head_norm, pool_NS2KE, spec.attention_scale)
        self._ffn_half = ffn_half(norms[1], ffn, spec.activation)

    def forward(self, x_TD: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The layer's output for the packed rows, float32 in and out; writes their keys and values."""
        spec, weights = self._spec, self._weights
        self.clear(batch)
        attended = self._summed_attention(x_TD, batch)
        if weights.attention_post_norm is not None:
            attended = self._operations.norm(attended, weights.attention_post_norm, spec.norm_eps, torch.float32)
        # The first sum is fresh memory, because x may be the caller's; the second may then go on top.
        x_TD = x_TD + attended
        out_TD = self._summed_ffn(x_TD, batch)
        if weights.ffn_post_norm is not None:
            out_TD = self._operations.norm(out_TD, weights.ffn_post_norm, spec.norm_eps, torch.float32)
        return x_TD.add_(out_TD)

    def clear(self, batch: Batch) -> None:
        """Wipe what rows of the batch would read of others."""
        if batch.cleared is not None:
            self._pool_NS2KE.index_fill_(0, batch.cleared, 0.0)

    @property
    def kind(self) -> LayerSpec:
        """What tells it from other layers of the model."""
        return self._layer

    @property
    def in_one(self) -> Callable[[int], AbstractContextManager[SumCall] | None]:
        """See `Operations`."""
        return self._operations.in_one

    def halves(self, kind: int) -> LayerHalves | None:
        """The layer for `kernels.decode_layers`; None where the extension has no code for it. `kind`: of its step."""
        after = self._weights.attention_post_norm, self._weights.ffn_post_norm
        attention, ffn = self._attention_half, self._ffn_half
        if attention is None or ffn is None or not all(takes_norm(norm) for norm in after):
            return None
        return LayerHalves(attention, after[0], ffn, after[1], self._spec.norm_eps, kind)

    def _summed_attention(self, x_TD: torch.Tensor, batch: Batch) -> torch.Tensor:
        weights, half = self._weights, self._attention_half
        if half is not None and batch.decode:
            return self._operations.sum(half(x_TD, batch.decode[self._layer]))
        normed = self._normed(x_TD, weights.attention_norm, weights.qkv)
        return self._operations.summed(weights.output, self._attention(normed, batch))

    def _summed_ffn(self, x_TD: torch.Tensor, batch: Batch) -> torch.Tensor:
        weights, half = self._weights, self._ffn_half
        if half is not None and batch.decode:
            return self._operations.sum(half(x_TD, batch.decode[self._layer]))
        gate_up = weights.gate_up(self._normed(x_TD, weights.ffn_norm, weights.gate_up))
        return self._operations.summed(weights.down, self._operations.gate(gate_up, self._spec.activation))

    def _normed(self, x_TD: torch.Tensor, weight_D: torch.Tensor, product: Product) -> torch.Tensor:
        return self._operations.norm(x_TD, weight_D, self._spec.norm_eps, product.dtype)

    def _attention(self, x_TD: torch.Tensor, batch: Batch) -> torch.Tensor:
        spec, weights, pool = self._spec, self._weights, self._pool_NS2KE
        qkv_TNE = weights.qkv(x_TD).view(len(x_TD), -1, spec.head_dim)
        rotary, plan = batch.rotary[self._layer.rope], batch.attention[self._layer.window]
        q_THE = self._operations.place_qkv(qkv_TNE, rotary, pool, batch.slots_T, self._head_norm)
        return self._operations.attend(q_THE, pool, plan, spec.attention_scale).view(len(x_TD), -1)
