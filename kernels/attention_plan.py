"""Which KV blocks each row of a packed step reads, worked out once per step and shared by all layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from potluck.kernels.extension import native

# Padding that a group of decode rows may carry before a further group is cheaper, in blocks: one more call costs
# about 20 us, a padded block of 16 slots 1.5 to 2 us (three KV heads of 64).
_PADDING_BLOCKS = 12


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of one sequence: packed rows `row` to `row + count`, tokens at `position` and after.

    `table` lists the sequence's blocks, in order of position.
    """

    row: int
    count: int
    position: int
    table: Sequence[int]


@dataclass(frozen=True, slots=True)
class Paging:
    """How KV is cut into blocks and what one row may see: `window` tokens back, itself included, or everything."""

    block_size: int
    window: int | None
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Single rows of B sequences that attend together over L gathered slots.

    Attributes:
        rows_B: packed rows; None where they are all rows of the step, in order.
        blocks: B x blocks-per-sequence block numbers, flat; short sequences repeat their own last block.
        size: B.
        low, high: the slots kept of the gathered ones.
        mask_B11L: 0 or minus infinity, added to the scores; None where every row sees every kept slot.
    """

    rows_B: torch.Tensor | None
    blocks: torch.Tensor
    size: int
    low: int
    high: int
    mask_B11L: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Several rows of one sequence: `start` to `end`, over the kept slots of `blocks`.

    `mask_TL` is None where row i sees exactly the first i + 1 slots (a prompt's first chunk).
    """

    start: int
    end: int
    blocks: torch.Tensor
    low: int
    high: int
    mask_TL: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class SingleRows:
    """The rows of all groups as the extension reads them, each over its own blocks.

    Attributes:
        meta_B4: packed row, first slot, slot after the last, where the row's blocks begin in `blocks`.
        blocks: block numbers, one sequence after the other.
        most: slots of the longest row.
    """

    meta_B4: torch.Tensor
    blocks: torch.Tensor
    most: int


@dataclass(frozen=True)
class AttentionPlan:
    """All single rows and chunks of one step, for layers of one window.

    `single` is None where there is no extension. Groups are formed when they are first asked for: where the extension
    attends nobody asks, and forming them takes half the time of a plan.
    """

    form: Callable[[], tuple[DecodeGroup, ...]]
    chunks: tuple[Chunk, ...]
    single: SingleRows | None = None

    @cached_property
    def groups(self) -> tuple[DecodeGroup, ...]:
        """The single rows in groups of similar length."""
        return self.form()


@dataclass(frozen=True, slots=True)
class _Reach:
    """Blocks `first` to `last` of the table hold what a span sees: slots `low` to `high` of those gathered."""

    span: Span
    first: int
    last: int
    low: int
    high: int

    @property
    def blocks(self) -> int:
        return self.last - self.first


def plan_attention(spans: Sequence[Span], paging: Paging) -> AttentionPlan:
    """Batch single rows into groups of similar length and give longer spans a chunk each."""
    rows = sum(span.count for span in spans)
    reaches = [_reach(span, paging) for span in spans]
    single = [reach for reach in reaches if reach.span.count == 1]

    def form() -> tuple[DecodeGroup, ...]:
        return tuple(_group(members, rows, paging) for members in split_by_length(single))

    chunks = tuple(_chunk(reach, paging) for reach in reaches if reach.span.count > 1)
    return AttentionPlan(form, chunks, _single(single, paging) if single and native is not None else None)


def split_by_length(reaches: Sequence[_Reach]) -> list[list[_Reach]]:
    """Part reaches into groups, longest first, each padded by at most a constant number of blocks."""
    groups: list[list[_Reach]] = []
    padding = 0
    for reach in sorted(reaches, key=lambda reach: -reach.blocks):
        padding += groups[-1][0].blocks - reach.blocks if groups else 0
        if not groups or padding > _PADDING_BLOCKS:
            groups.append([])
            padding = 0
        groups[-1].append(reach)
    # Rows in packed order let a step of decode rows alone skip gathering and scattering them.
    return [sorted(group, key=lambda reach: reach.span.row) for group in groups]


def _reach(span: Span, paging: Paging) -> _Reach:
    end = span.position + span.count
    begin = 0 if paging.window is None else max(0, span.position - paging.window + 1)
    first, last = begin // paging.block_size, -(-end // paging.block_size)
    base = first * paging.block_size
    return _Reach(span, first, last, begin - base, end - base)


def _group(members: list[_Reach], rows: int, paging: Paging) -> DecodeGroup:
    width = max(member.blocks for member in members)
    blocks: list[int] = []
    for member in members:
        own = member.span.table[member.first : member.last]
        # Padding with the sequence's own block: another's could hold a NaN, which no mask removes from a product.
        blocks += [*own, *[own[-1]] * (width - len(own))]
    low, high = min(member.low for member in members), max(member.high for member in members)
    same = all(member.low == low and member.high == high for member in members)
    return DecodeGroup(
        None if len(members) == rows else _numbers([member.span.row for member in members], paging),
        _numbers(blocks, paging),
        len(members),
        low,
        high,
        None if same else _group_mask(members, range(low, high), paging),
    )


def _single(reaches: list[_Reach], paging: Paging) -> SingleRows:
    meta: list[int] = []
    blocks: list[int] = []
    for reach in reaches:
        meta += [reach.span.row, reach.low, reach.high, len(blocks)]
        blocks += reach.span.table[reach.first : reach.last]
    most = max(reach.high - reach.low for reach in reaches)
    return SingleRows(_numbers(meta, paging), _numbers(blocks, paging), most)


def _group_mask(members: list[_Reach], kept: range, paging: Paging) -> torch.Tensor:
    columns_L = torch.arange(kept.start, kept.stop, device=paging.device)
    low_B1 = _numbers([member.low for member in members], paging).unsqueeze(1)
    high_B1 = _numbers([member.high for member in members], paging).unsqueeze(1)
    return _additive((columns_L >= low_B1) & (columns_L < high_B1), paging)[:, None, None]


def _chunk(reach: _Reach, paging: Paging) -> Chunk:
    span = reach.span
    blocks = _numbers(span.table[reach.first : reach.last], paging)
    mask = None
    outside = paging.window is not None and span.count > paging.window
    if span.position > 0 or outside:
        mask = _chunk_mask(reach, paging)
    return Chunk(span.row, span.row + span.count, blocks, reach.low, reach.high, mask)


def _chunk_mask(reach: _Reach, paging: Paging) -> torch.Tensor:
    begin = reach.first * paging.block_size
    keys_L = torch.arange(begin + reach.low, begin + reach.high, device=paging.device)
    queries_T1 = torch.arange(reach.span.count, device=paging.device).unsqueeze(1) + reach.span.position
    seen = keys_L <= queries_T1
    if paging.window is not None:
        seen &= keys_L > queries_T1 - paging.window
    return _additive(seen, paging)


def _additive(seen: torch.Tensor, paging: Paging) -> torch.Tensor:
    mask = torch.zeros(seen.shape, dtype=paging.dtype, device=paging.device)
    return mask.masked_fill_(~seen, float("-inf"))


def _numbers(values: Sequence[int], paging: Paging) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, device=paging.device)
