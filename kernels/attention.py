"""Attention of packed rows over paged KV, with grouped query heads and sliding windows.

T = packed rows, B = sequences, H = query heads, K = KV heads, G = H / K query heads per KV head, E = width of a head,
L = slots attended, N = blocks, S = slots of a block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from potluck.kernels.attention_plan import AttentionPlan, Chunk, DecodeGroup, SingleRows
from potluck.kernels.extension import float_bits, native, takes

# Heads that the extension has code for.
WIDTHS = (16, 32, 64, 80, 96, 128, 256)


def write_kv(pool_NS2KE: torch.Tensor, slots_T: torch.Tensor, kv_T2KE: torch.Tensor) -> None:
    """Store keys and values of T rows at flat slot numbers (block x S + offset)."""
    pool_NS2KE.view(-1, *pool_NS2KE.shape[2:]).index_copy_(0, slots_T, kv_T2KE)


def paged_attention(q_THE: torch.Tensor, pool_NS2KE: torch.Tensor, plan: AttentionPlan, scale: float) -> torch.Tensor:
    """softmax(scale q k) v for every row of the plan, softmax in float32: (T, H, E) in q's dtype."""
    groups = plan.groups
    if plan.single is not None and _extension_takes(q_THE, pool_NS2KE):
        out_THE = torch.empty_like(q_THE)
        _attend_single(q_THE, pool_NS2KE, plan.single, out_THE, scale)
        _attend_chunks(q_THE, pool_NS2KE, plan, out_THE, scale)
        return out_THE
    if len(groups) == 1 and groups[0].rows_B is None:
        q, k, v = _decode_operands(q_THE, pool_NS2KE, groups[0])
        out = F.scaled_dot_product_attention(q, k, v, groups[0].mask_B11L, scale=scale)
        return out.view(q_THE.shape)
    out_THE = torch.empty_like(q_THE, memory_format=torch.contiguous_format)
    for group in groups:
        q, k, v = _decode_operands(q_THE, pool_NS2KE, group)
        out = F.scaled_dot_product_attention(q, k, v, group.mask_B11L, scale=scale)
        _place(out_THE, out.reshape(group.size, *q_THE.shape[1:]), group)
    _attend_chunks(q_THE, pool_NS2KE, plan, out_THE, scale)
    return out_THE


def _attend_chunks(
    q_THE: torch.Tensor, pool_NS2KE: torch.Tensor, plan: AttentionPlan, out_THE: torch.Tensor, scale: float
) -> None:
    for chunk in plan.chunks:
        q, k, v = _chunk_operands(q_THE, pool_NS2KE, chunk)
        causal = chunk.mask_TL is None
        out = F.scaled_dot_product_attention(q, k, v, chunk.mask_TL, is_causal=causal, scale=scale)
        out_THE[chunk.start : chunk.end].view(-1, *q.shape[:2], q.shape[3]).copy_(out.permute(2, 0, 1, 3))


def _extension_takes(q_THE: torch.Tensor, pool_NS2KE: torch.Tensor) -> bool:
    return q_THE.dtype == pool_NS2KE.dtype and q_THE.shape[2] in WIDTHS and takes(q_THE, pool_NS2KE)


def _attend_single(
    q_THE: torch.Tensor, pool_NS2KE: torch.Tensor, rows: SingleRows, out_THE: torch.Tensor, scale: float
) -> None:
    """Single rows, straight from their blocks: gathering them first took as long as attending."""
    if native is None:
        raise RuntimeError("a plan for the extension came to an installation without it")
    native.attend(
        q_THE.data_ptr(),
        pool_NS2KE.data_ptr(),
        out_THE.data_ptr(),
        rows.meta_B4.data_ptr(),
        rows.blocks.data_ptr(),
        q_THE.shape[1],
        pool_NS2KE.shape[3],
        q_THE.shape[2],
        pool_NS2KE.shape[1],
        float_bits(scale),
        q_THE.dtype == torch.bfloat16,
        len(rows.meta_B4) // 4,
        rows.most,
    )


def paged_attention_lse(
    q_THE: torch.Tensor, pool_NS2KE: torch.Tensor, plan: AttentionPlan, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, float32, with the log of each row's softmax sum: (T, H, E) and (T, H), in nats.

    Two partial results over disjoint slots merge by their lse. This is also the plain reference: it forms all scores,
    which costs the fused call's speed, so that only who merges pays for it.
    """
    out_THE = torch.empty(q_THE.shape, dtype=torch.float32, device=q_THE.device)
    lse_TH = torch.empty(q_THE.shape[:2], dtype=torch.float32, device=q_THE.device)
    for group in plan.groups:
        q, k, v = _decode_operands(q_THE, pool_NS2KE, group)
        out_BKGE, lse_BKG = _attend(q, k, v, group.mask_B11L, scale)
        _place(out_THE, out_BKGE.reshape(group.size, *q_THE.shape[1:]), group)
        _place(lse_TH, lse_BKG.reshape(group.size, -1), group)
    for chunk in plan.chunks:
        q, k, v = _chunk_operands(q_THE, pool_NS2KE, chunk)
        out_KGTE, lse_KGT = _attend(q, k, v, _dense_mask(chunk, q), scale)
        rows = chunk.end - chunk.start
        out_THE[chunk.start : chunk.end] = out_KGTE.permute(2, 0, 1, 3).reshape(rows, *q_THE.shape[1:])
        lse_TH[chunk.start : chunk.end] = lse_KGT.permute(2, 0, 1).reshape(rows, -1)
    return out_THE, lse_TH


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = q.float() @ k.float().transpose(-1, -2) * scale
    if mask is not None:
        scores = scores + mask.float()
    lse = scores.logsumexp(-1)
    return (scores - lse.unsqueeze(-1)).exp() @ v.float(), lse


def _dense_mask(chunk: Chunk, q: torch.Tensor) -> torch.Tensor:
    if chunk.mask_TL is not None:
        return chunk.mask_TL
    full = torch.full((q.shape[-2], q.shape[-2]), float("-inf"), device=q.device)
    return full.triu_(1)


def _gather(pool_NS2KE: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    # Whole blocks are long contiguous rows: one copy each.
    return pool_NS2KE.view(len(pool_NS2KE), -1).index_select(0, blocks)


def _decode_operands(
    q_THE: torch.Tensor, pool_NS2KE: torch.Tensor, group: DecodeGroup
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (B, K, G, E), k and v (B, K, L, E): the queries of a KV head are the rows of one small product."""
    kv_heads, width = pool_NS2KE.shape[3:]
    q_BHE = q_THE if group.rows_B is None else q_THE.index_select(0, group.rows_B)
    kv = _gather(pool_NS2KE, group.blocks).view(group.size, -1, 2, kv_heads, width)
    k, v = kv[:, group.low : group.high].permute(2, 0, 3, 1, 4).unbind()
    return q_BHE.reshape(group.size, kv_heads, -1, width), k, v


def _chunk_operands(
    q_THE: torch.Tensor, pool_NS2KE: torch.Tensor, chunk: Chunk
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (K, G, T, E), k and v (K, G, L, E): KV heads take the batch's place, so that G is a view, not a copy."""
    kv_heads, width = pool_NS2KE.shape[3:]
    rows, group = chunk.end - chunk.start, q_THE.shape[1] // kv_heads
    q = q_THE[chunk.start : chunk.end].view(rows, kv_heads, group, width).permute(1, 2, 0, 3)
    kv = _gather(pool_NS2KE, chunk.blocks).view(-1, 2, kv_heads, 1, width)
    k, v = kv[chunk.low : chunk.high].permute(1, 2, 3, 0, 4).expand(-1, -1, q.shape[1], -1, -1).unbind()
    return q, k, v


def _place(target: torch.Tensor, rows: torch.Tensor, group: DecodeGroup) -> None:
    if group.rows_B is None:
        target.copy_(rows)
    else:
        target.index_copy_(0, group.rows_B, rows)
