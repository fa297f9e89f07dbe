"""The one decoder: a pre-norm transformer whose every variation is a flag of its ModelSpec.

T = packed rows, D = hidden width, H and K = query and KV heads, E = width of a head, V = vocabulary. In bfloat16 the
residual stream and the products are bfloat16; norms, rope and softmax compute in float32, as in transformers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from potluck.kernels.attention import paged_attention, write_kv
from potluck.kernels.gated import gated
from potluck.kernels.rms_norm import head_norm, rms_norm
from potluck.kernels.rotary import rotate
from potluck.models.spec import LayerSpec, ModelSpec
from potluck.worker.batch import Batch
from potluck.worker.weights import HeadWeights, LayerWeights


def embed(spec: ModelSpec, embedding_VD: torch.Tensor, tokens_T: torch.Tensor) -> torch.Tensor:
    """Embedded tokens, scaled where the model scales them: (T, D)."""
    x_TD = F.embedding(tokens_T, embedding_VD)
    return x_TD if spec.embedding_scale == 1.0 else x_TD * spec.embedding_scale


def logits(spec: ModelSpec, weights: HeadWeights, x_RD: torch.Tensor) -> torch.Tensor:
    """Float32 logits of R rows: (R, V)."""
    return weights.output(rms_norm(x_RD, weights.norm, spec.norm_eps)).float()


class Layer:
    """One transformer layer of a shard, with its KV pool."""

    __slots__ = ("_layer", "_pool_NS2KE", "_spec", "_weights")

    def __init__(self, spec: ModelSpec, layer: LayerSpec, weights: LayerWeights, pool_NS2KE: torch.Tensor) -> None:
        self._spec = spec
        self._layer = layer
        self._weights = weights
        self._pool_NS2KE = pool_NS2KE

    def forward(self, x_TD: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The layer's output for the packed rows; writes their keys and values."""
        spec, weights = self._spec, self._weights
        attended = weights.output(self._attention(rms_norm(x_TD, weights.attention_norm, spec.norm_eps), batch))
        if weights.attention_post_norm is not None:
            attended = rms_norm(attended, weights.attention_post_norm, spec.norm_eps)
        # The packed products return fresh memory, so the sums may overwrite it; x itself may be the caller's.
        x_TD = attended.add_(x_TD)
        gate_up = weights.gate_up(rms_norm(x_TD, weights.ffn_norm, spec.norm_eps))
        out_TD = weights.down(gated(gate_up, spec.activation))
        if weights.ffn_post_norm is not None:
            out_TD = rms_norm(out_TD, weights.ffn_post_norm, spec.norm_eps)
        return out_TD.add_(x_TD)

    def _attention(self, x_TD: torch.Tensor, batch: Batch) -> torch.Tensor:
        spec, weights, pool = self._spec, self._weights, self._pool_NS2KE
        heads, turned = spec.heads, spec.heads + spec.kv_heads
        qkv_TNE = weights.qkv(x_TD).view(len(x_TD), -1, spec.head_dim)
        qk_TNE = qkv_TNE[:, :turned]
        normed = qk_TNE if weights.qk_norm_NE is None else head_norm(qk_TNE, weights.qk_norm_NE, spec.norm_eps)
        qk_TNE.copy_(rotate(normed, *batch.rotary[self._layer.rope]))
        if batch.cleared is not None:
            pool.index_fill_(0, batch.cleared, 0.0)
        write_kv(pool, batch.slots_T, qkv_TNE[:, heads:].view(len(x_TD), 2, spec.kv_heads, spec.head_dim))
        plan = batch.attention[self._layer.window]
        out_THE = paged_attention(qkv_TNE[:, :heads], pool, plan, spec.attention_scale)
        return out_THE.view(len(x_TD), -1)
