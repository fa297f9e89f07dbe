"""Products with grouped matrices of 4 and 8 bits on a GPU.

T = rows, O = outputs, I = inputs, G = groups of a tile, C = bytes of a group, P = pieces of a split sum. One row is
bound by the weights' bytes: it multiplies whole numbers in float32 and applies scale and minimum once a group. Several
rows multiply tiles of weights in the activations' type. Sums are split in a fixed order, so a product repeats exactly.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from potluck.kernels.gpu.grouped import GroupedMatrix
from potluck.kernels.gpu.launch import choose_splits, dot_dtype, dot_precision, processors

# Codes that a step takes from each output, in bytes: with 16 outputs and 128 threads each thread loads 16 at once.
_ROW_BYTES = 128
_TILE_BYTES = 64
_ROW_OUTPUTS = 16
_TILE_OUTPUTS = 64
_MOST_TILE_ROWS = 64
_LEAST_COLUMNS = 512  # of a piece


@triton.jit
def loaded(
    codes_OGC: tl.tensor,
    scale_OG: tl.tensor,
    minimum_OG: tl.tensor,
    outputs_O: tl.tensor,
    groups_G: tl.tensor,
    outputs: int,
    groups: int,
    end: int,
    CODES: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Codes, and scales and minima in float32, of some groups before `end` of some outputs; 0 where there are none."""
    known_OG = (outputs_O < outputs)[:, None] & (groups_G < end)[None, :]
    at_OG = outputs_O.to(tl.int64)[:, None] * groups + groups_G[None, :]
    scale = tl.load(scale_OG + at_OG, mask=known_OG, other=0.0).to(tl.float32)
    minimum = tl.load(minimum_OG + at_OG, mask=known_OG, other=0.0).to(tl.float32)
    codes_at = codes_OGC + at_OG[:, :, None] * CODES + tl.arange(0, CODES)[None, None, :]
    return tl.load(codes_at, mask=known_OG[:, :, None], other=0), scale, minimum


@triton.jit
def row_kernel(
    x_TI: tl.tensor,
    codes_OGC: tl.tensor,
    scale_OG: tl.tensor,
    minimum_OG: tl.tensor,
    out_PTO: tl.tensor,
    rows: int,
    outputs: int,
    groups: int,
    piece: int,
    BITS: tl.constexpr,
    CODES: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_G: tl.constexpr,
) -> None:
    """BLOCK_O outputs of one row over `piece` groups."""
    split, row = tl.program_id(1), tl.program_id(2).to(tl.int64)
    outputs_O = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    known_O = outputs_O < outputs
    codes_C = tl.arange(0, CODES)
    group_columns: tl.constexpr = CODES * 8 // BITS
    begin = split * piece
    end = tl.minimum(begin + piece, groups)
    total_OG = tl.zeros([BLOCK_O, BLOCK_G], tl.float32)
    for first in range(begin, end, BLOCK_G):
        groups_G = first + tl.arange(0, BLOCK_G)
        known_G1 = (groups_G < end)[:, None]
        codes, scale_tile, minimum_tile = loaded(
            codes_OGC, scale_OG, minimum_OG, outputs_O, groups_G, outputs, groups, end, CODES
        )
        x_at = x_TI + row * groups * group_columns + groups_G[:, None] * group_columns + codes_C[None, :]
        x_GC = tl.load(x_at, mask=known_G1, other=0.0).to(tl.float32)
        if BITS == 4:
            high_GC = tl.load(x_at + CODES, mask=known_G1, other=0.0).to(tl.float32)
            low, high = (codes & 15).to(tl.float32), (codes >> 4).to(tl.float32)
            product_OG = tl.sum(low * x_GC[None, :, :] + high * high_GC[None, :, :], 2)
            sum_G = tl.sum(x_GC + high_GC, 1)
        else:
            product_OG = tl.sum(codes.to(tl.float32) * x_GC[None, :, :], 2)
            sum_G = tl.sum(x_GC, 1)
        total_OG += scale_tile * product_OG + minimum_tile * sum_G[None, :]
    out_O = out_PTO + (split * rows + row) * outputs + outputs_O
    tl.store(out_O, tl.sum(total_OG, 1).to(out_PTO.dtype.element_ty), mask=known_O)


@triton.jit
def tile_kernel(
    x_TI: tl.tensor,
    codes_OGC: tl.tensor,
    scale_OG: tl.tensor,
    minimum_OG: tl.tensor,
    out_PTO: tl.tensor,
    rows: int,
    outputs: int,
    groups: int,
    piece: int,
    BITS: tl.constexpr,
    CODES: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_G: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """BLOCK_T rows by BLOCK_O outputs over `piece` groups; programs that share weights are neighbours."""
    split = tl.program_id(2)
    rows_T = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    outputs_O = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    known_T1, known_O = (rows_T < rows)[:, None], outputs_O < outputs
    columns_K = tl.arange(0, BLOCK_G * CODES)
    group_columns: tl.constexpr = CODES * 8 // BITS
    begin = split * piece
    end = tl.minimum(begin + piece, groups)
    total_TO = tl.zeros([BLOCK_T, BLOCK_O], tl.float32)
    for first in range(begin, end, BLOCK_G):
        groups_G = first + tl.arange(0, BLOCK_G)
        codes, scale_tile, minimum_tile = loaded(
            codes_OGC, scale_OG, minimum_OG, outputs_O, groups_G, outputs, groups, end, CODES
        )
        scale_OG1, minimum_OG1 = scale_tile[:, :, None], minimum_tile[:, :, None]
        groups_K = first + columns_K // CODES
        x_at = x_TI + rows_T.to(tl.int64)[:, None] * groups * group_columns
        x_at += (groups_K * group_columns + columns_K % CODES)[None, :]
        known_TK = known_T1 & (groups_K < end)[None, :]
        x_TK = tl.load(x_at, mask=known_TK, other=0.0).to(DOT)
        low = codes
        if BITS == 4:
            low = codes & 15
        weight_OGC = (low.to(tl.float32) * scale_OG1 + minimum_OG1).to(DOT)
        weight_KO = tl.trans(tl.reshape(weight_OGC, [BLOCK_O, BLOCK_G * CODES]))
        total_TO = tl.dot(x_TK, weight_KO, total_TO, input_precision=PRECISION)
        if BITS == 4:
            x_TK = tl.load(x_at + CODES, mask=known_TK, other=0.0).to(DOT)
            weight_OGC = ((codes >> 4).to(tl.float32) * scale_OG1 + minimum_OG1).to(DOT)
            weight_KO = tl.trans(tl.reshape(weight_OGC, [BLOCK_O, BLOCK_G * CODES]))
            total_TO = tl.dot(x_TK, weight_KO, total_TO, input_precision=PRECISION)
    at_TO = (split * rows + rows_T).to(tl.int64)[:, None] * outputs + outputs_O[None, :]
    tl.store(out_PTO + at_TO, total_TO.to(out_PTO.dtype.element_ty), mask=known_T1 & known_O[None, :])


@triton.jit
def sum_kernel(parts_PN: tl.tensor, out_N: tl.tensor, count: int, parts: int, BLOCK: tl.constexpr) -> None:
    """out = sum over P, in order."""
    numbers_N = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    known_N = numbers_N < count
    total_N = tl.zeros([BLOCK], tl.float32)
    at_N = parts_PN + numbers_N
    for _ in range(parts):
        total_N += tl.load(at_N, mask=known_N, other=0.0)
        at_N += count
    tl.store(out_N + numbers_N, total_N.to(out_N.dtype.element_ty), mask=known_N)


def multiply(x_TI: torch.Tensor, weight: GroupedMatrix, splits: int | None = None) -> torch.Tensor:
    """x @ weight.T in the type of x: (T, O).

    Args:
        x_TI: float32, bfloat16 or float16 rows.
        weight: its rows are as wide as x.
        splits: pieces in which the sum over I is computed; None chooses them.

    Raises:
        ValueError: x does not fit the weight.
    """
    rows, inputs = x_TI.shape
    if inputs != weight.inputs:
        raise ValueError(f"{tuple(x_TI.shape)} by ({weight.outputs}, {weight.inputs})")
    x_TI, groups = x_TI.contiguous(), inputs // weight.group
    tile_rows = 0 if rows == 1 else min(_MOST_TILE_ROWS, max(16, triton.next_power_of_2(rows)))
    if splits is None:
        splits = _choose_splits(rows, tile_rows, weight, x_TI.device)
    piece = triton.cdiv(groups, splits)
    splits = triton.cdiv(groups, piece)
    parts_dtype = x_TI.dtype if splits == 1 else torch.float32
    parts_PTO = torch.empty((splits, rows, weight.outputs), dtype=parts_dtype, device=x_TI.device)
    _launch(x_TI, weight, parts_PTO, piece, tile_rows)
    if splits == 1:
        return parts_PTO[0]
    out_TO = torch.empty((rows, weight.outputs), dtype=x_TI.dtype, device=x_TI.device)
    sum_kernel[(triton.cdiv(out_TO.numel(), 1024),)](parts_PTO, out_TO, out_TO.numel(), splits, BLOCK=1024)
    return out_TO


def _choose_splits(rows: int, tile_rows: int, weight: GroupedMatrix, device: torch.device) -> int:
    if tile_rows == 0:
        programs = triton.cdiv(weight.outputs, _ROW_OUTPUTS)
    else:
        programs = triton.cdiv(weight.outputs, _TILE_OUTPUTS) * triton.cdiv(rows, tile_rows)
    return choose_splits(max(1, programs), weight.inputs, _LEAST_COLUMNS, processors(device))


def _launch(x_TI: torch.Tensor, weight: GroupedMatrix, out_PTO: torch.Tensor, piece: int, tile_rows: int) -> None:
    splits, rows, outputs = out_PTO.shape
    groups, codes = weight.codes_OGC.shape[1:]
    operands = (x_TI, weight.codes_OGC, weight.scale_OG, weight.minimum_OG, out_PTO, rows, outputs, groups, piece)
    step = _TILE_BYTES if tile_rows else _ROW_BYTES
    shape = {"BITS": weight.bits, "CODES": codes, "BLOCK_G": max(1, step // codes)}
    if tile_rows == 0:
        row_kernel[(triton.cdiv(outputs, _ROW_OUTPUTS), splits, rows)](
            *operands, **shape, BLOCK_O=_ROW_OUTPUTS, num_warps=4
        )
        return
    tile_kernel[(triton.cdiv(rows, tile_rows), triton.cdiv(outputs, _TILE_OUTPUTS), splits)](
        *operands,
        **shape,
        BLOCK_T=tile_rows,
        BLOCK_O=_TILE_OUTPUTS,
        DOT=dot_dtype(x_TI),
        PRECISION=dot_precision(),
        num_warps=4,
    )
