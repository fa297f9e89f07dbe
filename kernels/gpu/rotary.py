"""From the fused product of queries, keys and values to what attention reads, on a GPU: norm per head, rope, KV placed.

T = packed rows, H and K = query and KV heads, G = H / K, N = heads side by side, E = width of a head, F = E / 2. Heads
are held as two halves, because element i turns with element i + E/2: every thread then has both.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from potluck.kernels.attention_inputs import HeadNorm
from potluck.kernels.gpu.launch import warps

_HEADS = 8  # of a row that one program turns in place


@triton.jit
def turned(
    row_NE: tl.tensor,
    cos_E: tl.tensor,
    sin_E: tl.tensor,
    weight_NE: tl.tensor,
    heads_N1: tl.tensor,
    inside_NF: tl.tensor,
    half: int,
    eps: float,
    NORM: tl.constexpr,
    HALF: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Both halves of some heads of one row, normed where NORM is set, turned by its cos and signed sin: float32."""
    columns_1F = tl.arange(0, HALF)[None, :]
    at_NF = heads_N1 * 2 * half + columns_1F
    left_NF = tl.load(row_NE + at_NF, mask=inside_NF, other=0.0).to(tl.float32)
    right_NF = tl.load(row_NE + at_NF + half, mask=inside_NF, other=0.0).to(tl.float32)
    if NORM:
        squares_N = tl.sum(left_NF * left_NF, 1) + tl.sum(right_NF * right_NF, 1)
        factor_N1 = tl.rsqrt(squares_N / (2 * half) + eps)[:, None]
        left_NF *= factor_N1 * tl.load(weight_NE + at_NF, mask=inside_NF, other=0.0)
        right_NF *= factor_N1 * tl.load(weight_NE + at_NF + half, mask=inside_NF, other=0.0)
    known_1F = columns_1F < half
    cos_left = tl.load(cos_E + columns_1F, mask=known_1F, other=0.0)
    cos_right = tl.load(cos_E + columns_1F + half, mask=known_1F, other=0.0)
    sin_left = tl.load(sin_E + columns_1F, mask=known_1F, other=0.0)
    sin_right = tl.load(sin_E + columns_1F + half, mask=known_1F, other=0.0)
    return left_NF * cos_left + right_NF * sin_left, right_NF * cos_right + left_NF * sin_right


@triton.jit
def rotate_kernel(
    x_TNE: tl.tensor,
    cos_TE: tl.tensor,
    sin_TE: tl.tensor,
    weight_NE: tl.tensor,
    row_stride: int,
    heads: int,
    half: int,
    eps: float,
    NORM: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    """HEADS heads of one row, in place."""
    row = tl.program_id(0).to(tl.int64)
    heads_N1 = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    columns_1F = tl.arange(0, HALF)[None, :]
    inside_NF = (heads_N1 < heads) & (columns_1F < half)
    row_NE = x_TNE + row * row_stride
    cos_E, sin_E = cos_TE + row * 2 * half, sin_TE + row * 2 * half
    left_NF, right_NF = turned(row_NE, cos_E, sin_E, weight_NE, heads_N1, inside_NF, half, eps, NORM, HALF)
    at_NF = heads_N1 * 2 * half + columns_1F
    tl.store(row_NE + at_NF, left_NF.to(x_TNE.dtype.element_ty), mask=inside_NF)
    tl.store(row_NE + at_NF + half, right_NF.to(x_TNE.dtype.element_ty), mask=inside_NF)


@triton.jit
def place_kernel(
    qkv_TNE: tl.tensor,
    cos_TE: tl.tensor,
    sin_TE: tl.tensor,
    weight_NE: tl.tensor,
    slots_T: tl.tensor,
    q_THE: tl.tensor,
    pool_S2KE: tl.tensor,
    kv_heads: int,
    half: int,
    eps: float,
    NORM: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    """One KV head of one row with the GROUP query heads that read it (HEADS is its power of two)."""
    row, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    heads, width = kv_heads * GROUP, 2 * half
    row_NE = qkv_TNE + row * (heads + 2 * kv_heads) * width
    cos_E, sin_E = cos_TE + row * width, sin_TE + row * width
    columns_1F = tl.arange(0, HALF)[None, :]
    known_1F = columns_1F < half

    group_N1 = tl.arange(0, HEADS)[:, None]
    inside_NF = (group_N1 < GROUP) & known_1F
    heads_N1 = kv_head * GROUP + group_N1
    left, right = turned(row_NE, cos_E, sin_E, weight_NE, heads_N1, inside_NF, half, eps, NORM, HALF)
    q_NF = q_THE + row * heads * width + heads_N1 * width + columns_1F
    tl.store(q_NF, left.to(q_THE.dtype.element_ty), mask=inside_NF)
    tl.store(q_NF + half, right.to(q_THE.dtype.element_ty), mask=inside_NF)

    slot = tl.load(slots_T + row).to(tl.int64)
    stored_1F = known_1F & (slot >= 0)
    key_11 = heads + kv_head + tl.arange(0, 1)[:, None]
    left, right = turned(row_NE, cos_E, sin_E, weight_NE, key_11, known_1F, half, eps, NORM, HALF)
    k_1F = pool_S2KE + (slot * 2 * kv_heads + kv_head) * width + columns_1F
    tl.store(k_1F, left.to(pool_S2KE.dtype.element_ty), mask=stored_1F)
    tl.store(k_1F + half, right.to(pool_S2KE.dtype.element_ty), mask=stored_1F)

    from_1F = row_NE + (heads + kv_heads + kv_head) * width + columns_1F
    v_1F = k_1F + kv_heads * width
    left, right = tl.load(from_1F, mask=known_1F), tl.load(from_1F + half, mask=known_1F)
    tl.store(v_1F, left.to(tl.float32).to(pool_S2KE.dtype.element_ty), mask=stored_1F)
    tl.store(v_1F + half, right.to(tl.float32).to(pool_S2KE.dtype.element_ty), mask=stored_1F)


def rotate(x_TNE: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], norm: HeadNorm | None = None) -> None:
    """Norm and turn every head of every row in place, computed in float32.

    `rotary` holds cos and signed sin, (T, 1, E) float32 each, as `RotaryTable.rows` gives them. Rows of x may be apart
    (a slice of wider ones), heads may not.
    """
    rows, heads, width = x_TNE.shape
    if x_TNE.stride()[1:] != (width, 1) or width % 2:
        raise ValueError("heads have an even width and lie side by side")
    half = width // 2
    tile, block = min(_HEADS, triton.next_power_of_2(heads)), triton.next_power_of_2(half)
    rotate_kernel[(rows, triton.cdiv(heads, tile))](
        x_TNE,
        *(table.contiguous() for table in rotary),
        rotary[0] if norm is None else norm.weight_NE,
        x_TNE.stride(0),
        heads,
        half,
        0.0 if norm is None else norm.eps,
        NORM=norm is not None,
        HEADS=tile,
        HALF=block,
        num_warps=warps(2 * tile * block),
    )


def place_qkv(
    qkv_TNE: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    pool_NS2KE: torch.Tensor,
    slots_T: torch.Tensor,
    norm: HeadNorm | None = None,
) -> torch.Tensor:
    """Store keys and values in the pool at flat slot numbers; return the queries (T, H, E) in the pool's dtype.

    The same as `attention_inputs.place_qkv`, in one launch. Rows whose slot is negative are not stored: they fill a
    captured batch up.
    """
    rows, width, kv_heads = len(qkv_TNE), qkv_TNE.shape[2], pool_NS2KE.shape[3]
    heads = qkv_TNE.shape[1] - 2 * kv_heads
    if width % 2 or heads % kv_heads or not pool_NS2KE.is_contiguous():
        raise ValueError("heads have an even width, every KV head as many query heads, and the pool is contiguous")
    group, half = heads // kv_heads, width // 2
    q_THE = torch.empty((rows, heads, width), dtype=pool_NS2KE.dtype, device=qkv_TNE.device)
    tile, block = triton.next_power_of_2(group), triton.next_power_of_2(half)
    place_kernel[(rows, kv_heads)](
        qkv_TNE.contiguous(),
        *(table.contiguous() for table in rotary),
        rotary[0] if norm is None else norm.weight_NE,
        slots_T,
        q_THE,
        pool_NS2KE,
        kv_heads,
        half,
        0.0 if norm is None else norm.eps,
        NORM=norm is not None,
        GROUP=group,
        HEADS=tile,
        HALF=block,
        num_warps=warps(2 * tile * block),
    )
    return q_THE
