"""From the fused product of queries, keys and values to what attention reads: norm per head, rope, KV in its slots.

T = packed rows, H and K = query and KV heads, N = H + 2 K, E = width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from potluck.kernels.attention import write_kv
from potluck.kernels.extension import float_bits, native, takes
from potluck.kernels.rms_norm import head_norm
from potluck.kernels.rotary import rotate

_MOST_WIDTH = 512


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """RMSNorm over each query and key head: weights (H + K, E), float32."""

    weight_NE: torch.Tensor
    eps: float


def place_qkv(
    qkv_TNE: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    pool_NS2KE: torch.Tensor,
    slots_T: torch.Tensor,
    norm: HeadNorm | None = None,
) -> torch.Tensor:
    """Store keys and values in the pool at flat slot numbers; return the queries (T, H, E) in the pool's dtype.

    `rotary` holds cos and signed sin, (T, 1, E) each, as `RotaryTable.rows` gives them.
    """
    width, kv_heads = qkv_TNE.shape[2], pool_NS2KE.shape[3]
    heads = qkv_TNE.shape[1] - 2 * kv_heads
    if native is None or width > _MOST_WIDTH or not takes(qkv_TNE, *rotary, pool_NS2KE, slots_T):
        return place_qkv_reference(qkv_TNE, rotary, pool_NS2KE, slots_T, norm)
    q_THE = torch.empty((len(qkv_TNE), heads, width), dtype=pool_NS2KE.dtype)
    native.turn(
        qkv_TNE.data_ptr(),
        rotary[0].data_ptr(),
        rotary[1].data_ptr(),
        norm.weight_NE.data_ptr() if norm else 0,
        float_bits(norm.eps) if norm else 0,
        q_THE.data_ptr(),
        pool_NS2KE.data_ptr(),
        slots_T.data_ptr(),
        len(qkv_TNE),
        heads,
        kv_heads,
        width,
        qkv_TNE.dtype == torch.bfloat16,
        pool_NS2KE.dtype == torch.bfloat16,
    )
    return q_THE


def place_qkv_reference(
    qkv_TNE: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    pool_NS2KE: torch.Tensor,
    slots_T: torch.Tensor,
    norm: HeadNorm | None = None,
) -> torch.Tensor:
    """The same in plain torch."""
    kv_heads = pool_NS2KE.shape[3]
    turned = qkv_TNE.shape[1] - kv_heads
    qk_TNE = qkv_TNE[:, :turned]
    normed = qk_TNE if norm is None else head_norm(qk_TNE, norm.weight_NE, norm.eps)
    qk_TNE = rotate(normed, *rotary).to(pool_NS2KE.dtype)
    kv_T2KE = torch.cat((qk_TNE[:, turned - kv_heads :], qkv_TNE[:, turned:].to(pool_NS2KE.dtype)), 1)
    write_kv(pool_NS2KE, slots_T, kv_T2KE.view(len(qkv_TNE), 2, kv_heads, qkv_TNE.shape[2]))
    return qk_TNE[:, : turned - kv_heads].contiguous()
