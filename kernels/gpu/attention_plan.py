"""What each row of a packed step sees, laid out for the GPU once per step and shared by all layers.

T = packed rows, B = sequences, M = blocks of the longest table, A = tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from potluck.kernels.attention_plan import Paging, Span

# Query rows times heads of a chunk's tile; in float32 twice as many would not fit a home GPU's shared memory.
_CHUNK_TILE = 64
_CHUNK_TILE_FLOAT32 = 32


@dataclass(frozen=True, slots=True)
class Tiles:
    """Pieces of spans that a program attends with; int32 (A, 3): first packed row, rows, number of the table."""

    tiles_A3: torch.Tensor
    most_rows: int


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Single rows and chunks of a step. Row t sees the slots `low_T[t]` to `high_T[t]` of its table.

    Rows that follow each other in a tile see ranges that overlap or touch; a row that sees nothing (low = high = 0)
    gets a result of 0 and an lse of minus infinity. All tensors are int32; a captured step keeps them and copies the
    next step's numbers in.

    Attributes:
        tables_BM: block numbers, one table a row, filled up with zeros.
        longest: slots that the row which sees most sees.
        splits: pieces into which each row's slots are cut; None leaves it to who attends.
    """

    low_T: torch.Tensor
    high_T: torch.Tensor
    tables_BM: torch.Tensor
    single: Tiles | None
    chunks: Tiles | None
    longest: int
    splits: int | None = None


def plan_attention(spans: Sequence[Span], paging: Paging, group: int) -> AttentionPlan:
    """A tile for every single row and tiles of several rows for longer spans.

    Args:
        spans: they cover the packed rows, in order.
        paging: window, device, and the dtype of queries and pool.
        group: query heads per KV head.
    """
    width = max((len(span.table) for span in spans), default=1)
    tables = [[*span.table, *[0] * (width - len(span.table))] for span in spans]
    ranges = [seen for span in spans for seen in _ranges(span, paging.window)]
    single = [(span.row, 1, number) for number, span in enumerate(spans) if span.count == 1]
    most = max(1, (_CHUNK_TILE_FLOAT32 if paging.dtype == torch.float32 else _CHUNK_TILE) // group)
    chunks = [tile for number, span in enumerate(spans) if span.count > 1 for tile in _tiles(span, number, most)]
    return AttentionPlan(
        _numbers([low for low, _ in ranges], paging),
        _numbers([high for _, high in ranges], paging),
        _numbers(tables, paging),
        Tiles(_numbers(single, paging), 1) if single else None,
        Tiles(_numbers(chunks, paging), most) if chunks else None,
        max((high - low for low, high in ranges), default=0),
    )


def _ranges(span: Span, window: int | None) -> list[tuple[int, int]]:
    positions = range(span.position, span.position + span.count)
    return [(0 if window is None else max(0, position - window + 1), position + 1) for position in positions]


def _tiles(span: Span, number: int, most: int) -> list[tuple[int, int, int]]:
    end = span.row + span.count
    return [(row, min(most, end - row), number) for row in range(span.row, end, most)]


def _numbers(values: Sequence[int] | Sequence[Sequence[int]], paging: Paging) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=paging.device)
