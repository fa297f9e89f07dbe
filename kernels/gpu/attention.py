"""Attention of packed rows over paged KV on a GPU, with the log of each softmax sum.

T = packed rows, H = query heads, K = KV heads, E = width of a head, N = blocks, S = slots of a block, L = slots of a
step, P = pieces of a split range. A tile holds some rows of one sequence times the query heads that share a KV head: M
queries that read every key and value once. One row of a decode step is such a tile too.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from potluck.kernels.gpu.attention_plan import AttentionPlan, Tiles
from potluck.kernels.gpu.launch import choose_splits, dot_dtype, dot_precision, processors
from potluck.kernels.gpu.merge import merge

_LOG2_E = 1.4426950408889634
_LEAST_SLOTS = 256  # of a piece


@triton.jit
def attend_kernel(
    q_THE: tl.tensor,
    pool_NS2KE: tl.tensor,
    tiles_A3: tl.tensor,
    tables_BM: tl.tensor,
    low_T: tl.tensor,
    high_T: tl.tensor,
    out_PTHE: tl.tensor,
    lse_PTH: tl.tensor,
    scale: float,
    q_stride: int,
    table_width: int,
    rows: int,
    kv_heads: int,
    width: int,
    GROUP: tl.constexpr,
    SLOTS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_E: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """One tile and KV head over one piece of the slots its rows see; `scale` includes log2(e), for powers of 2."""
    kv_head, split = tl.program_id(1), tl.program_id(2)
    tile = tiles_A3 + tl.program_id(0) * 3
    first, count, number = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    queries_M, columns_E = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_E)
    known_M, known_E = queries_M < count * GROUP, columns_E < width
    rows_M = (first + queries_M // GROUP).to(tl.int64)
    heads_M = kv_head * GROUP + queries_M % GROUP
    low_M = tl.load(low_T + rows_M, mask=known_M, other=2147483647)
    high_M = tl.load(high_T + rows_M, mask=known_M, other=0)
    q_at = q_THE + (rows_M * q_stride + heads_M * width)[:, None] + columns_E[None, :]
    q_ME = tl.load(q_at, mask=known_M[:, None] & known_E[None, :], other=0.0).to(DOT)

    begin, end = tl.min(low_M, 0), tl.max(high_M, 0)
    piece = tl.cdiv(tl.cdiv(end - begin, SPLITS), BLOCK_L) * BLOCK_L
    begin += split * piece
    end = tl.minimum(begin + piece, end)
    most_M = tl.full([BLOCK_M], float("-inf"), tl.float32)
    sum_M = tl.zeros([BLOCK_M], tl.float32)
    out_ME = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    for start in range(begin, end, BLOCK_L):
        slots_L = start + tl.arange(0, BLOCK_L)
        held_L = slots_L < end
        blocks_L = tl.load(tables_BM + number * table_width + slots_L // SLOTS, mask=held_L, other=0).to(tl.int64)
        at_L = ((blocks_L * SLOTS + slots_L % SLOTS) * 2 * kv_heads + kv_head) * width
        # What nobody wrote may be NaN, which no mask of scores removes from a product: it is never loaded.
        k_at = pool_NS2KE + at_L[None, :] + columns_E[:, None]
        k_EL = tl.load(k_at, mask=held_L[None, :] & known_E[:, None], other=0.0)
        scores_ML = tl.dot(q_ME, k_EL.to(DOT), input_precision=PRECISION) * scale
        seen_ML = (slots_L[None, :] >= low_M[:, None]) & (slots_L[None, :] < high_M[:, None]) & held_L[None, :]
        scores_ML = tl.where(seen_ML, scores_ML, float("-inf"))
        new_M = tl.maximum(most_M, tl.max(scores_ML, 1))
        # Rows that have seen nothing yet: minus infinity less itself would be NaN.
        shift_M = tl.where(new_M == float("-inf"), 0.0, new_M)
        weights_ML = tl.exp2(scores_ML - shift_M[:, None])
        faded_M = tl.exp2(most_M - shift_M)
        sum_M = sum_M * faded_M + tl.sum(weights_ML, 1)
        v_at = pool_NS2KE + (at_L + kv_heads * width)[:, None] + columns_E[None, :]
        v_LE = tl.load(v_at, mask=held_L[:, None] & known_E[None, :], other=0.0)
        out_ME = tl.dot(weights_ML.to(DOT), v_LE.to(DOT), out_ME * faded_M[:, None], input_precision=PRECISION)
        most_M = new_M

    saw_M = sum_M > 0
    some_M = tl.where(saw_M, sum_M, 1.0)
    # ln 2 turns powers of 2 back into nats.
    lse_M = tl.where(saw_M, (most_M + tl.log2(some_M)) * 0.6931471805599453, float("-inf"))
    at_M = (split * rows + rows_M) * kv_heads * GROUP + heads_M
    tl.store(lse_PTH + at_M, lse_M, mask=known_M)
    out_at = out_PTHE + at_M[:, None] * width + columns_E[None, :]
    out_ME = (out_ME / some_M[:, None]).to(out_PTHE.dtype.element_ty)
    tl.store(out_at, out_ME, mask=known_M[:, None] & known_E[None, :])


def paged_attention(
    q_THE: torch.Tensor,
    pool_NS2KE: torch.Tensor,
    plan: AttentionPlan,
    scale: float,
    splits: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(scale q k) v for every row of the plan, softmax in float32.

    Args:
        q_THE: rows may be apart (a slice of wider ones), heads lie side by side.
        pool_NS2KE: contiguous keys and values.
        plan: covers every row.
        scale: of the scores.
        splits: pieces into which each row's slots are cut, to be merged by their lse; None leaves it to the plan, or
            chooses by the longest row.
        dtype: of the result.

    Returns:
        (T, H, E) in `dtype`, and the log of each softmax sum in nats: float32 (T, H), minus infinity for no slots.

    Raises:
        ValueError: queries and pool do not fit each other.
    """
    rows, heads, width = q_THE.shape
    kv_heads = pool_NS2KE.shape[3]
    if heads % kv_heads or q_THE.stride()[1:] != (width, 1) or not pool_NS2KE.is_contiguous():
        raise ValueError(f"queries {tuple(q_THE.shape)} do not lie as a pool {tuple(pool_NS2KE.shape)} asks")
    splits = splits or plan.splits or splits_for(_tiles(plan), kv_heads, plan.longest, q_THE.device)
    shape = (splits, rows, heads)
    out_PTHE = torch.empty((*shape, width), dtype=dtype if splits == 1 else torch.float32, device=q_THE.device)
    lse_PTH = torch.empty(shape, dtype=torch.float32, device=q_THE.device)
    for tiles in (plan.single, plan.chunks):
        if tiles is not None:
            _launch(q_THE, pool_NS2KE, plan, tiles, scale, out_PTHE, lse_PTH)
    if splits == 1:
        return out_PTHE[0], lse_PTH[0]
    return merge(out_PTHE, lse_PTH, dtype)


def splits_for(tiles: int, kv_heads: int, longest: int, device: torch.device) -> int:
    """Pieces for so many tiles, of which the longest sees `longest` slots."""
    splits = choose_splits(max(1, tiles * kv_heads), longest, _LEAST_SLOTS, processors(device))
    # Every number of pieces is compiled for; powers of two are met early, not one after the other as a text grows.
    return 1 << (splits.bit_length() - 1)


def _tiles(plan: AttentionPlan) -> int:
    return sum(len(tiles.tiles_A3) for tiles in (plan.single, plan.chunks) if tiles is not None)


def _step_slots(head_bytes: int) -> int:
    # Keys and values of two steps (of one, for the widest heads) must fit the 99 KiB of shared memory that a program of
    # a home GPU has.
    return 64 if head_bytes <= 256 else 32 if head_bytes <= 512 else 16


def _launch(
    q_THE: torch.Tensor,
    pool_NS2KE: torch.Tensor,
    plan: AttentionPlan,
    tiles: Tiles,
    scale: float,
    out_PTHE: torch.Tensor,
    lse_PTH: torch.Tensor,
) -> None:
    splits, rows, heads, width = out_PTHE.shape
    slots, kv_heads = pool_NS2KE.shape[1], pool_NS2KE.shape[3]
    group, head_bytes = heads // kv_heads, width * pool_NS2KE.element_size()
    attend_kernel[(len(tiles.tiles_A3), kv_heads, splits)](
        q_THE,
        pool_NS2KE,
        tiles.tiles_A3,
        plan.tables_BM,
        plan.low_T,
        plan.high_T,
        out_PTHE,
        lse_PTH,
        scale * _LOG2_E,
        q_THE.stride(0),
        plan.tables_BM.shape[1],
        rows,
        kv_heads,
        width,
        GROUP=group,
        SLOTS=slots,
        SPLITS=splits,
        BLOCK_M=max(16, triton.next_power_of_2(tiles.most_rows * group)),
        BLOCK_L=_step_slots(head_bytes),
        BLOCK_E=max(16, triton.next_power_of_2(width)),
        DOT=dot_dtype(pool_NS2KE),
        PRECISION=dot_precision(),
        num_warps=4,
        num_stages=2 if head_bytes <= 512 else 1,
    )
