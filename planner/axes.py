"""The axes that split parts between nodes, and what a share holds of them. Pure arithmetic.

Attention is split in units of query heads, each with the KV head it attends with: members that share a KV head each
keep a copy of it (as TPI-LLM, arXiv 2410.00531, needs where there are more nodes than KV heads).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from potluck.models.spec import ModelSpec, PartKind
from potluck.planner.plan import Share

Range = tuple[int, int]


def axis_length(spec: ModelSpec, kind: PartKind) -> int:
    """How many query heads, FFN columns or vocabulary rows there are to split."""
    return {PartKind.ATTENTION: spec.heads, PartKind.FFN: spec.ffn}.get(kind, spec.vocab)


def axis_range(spec: ModelSpec, kind: PartKind, share: Share) -> Range:
    """What a share holds of the axis that splits parts of a kind: query heads, FFN columns or vocabulary rows.

    The range is half-open, and all of the axis where the share does not name it.
    """
    if kind is PartKind.ATTENTION:
        return query_heads(spec, share)
    held = share.ffn_columns if kind is PartKind.FFN else share.vocabulary
    return held if held is not None else (0, axis_length(spec, kind))


def axis_name(kind: PartKind, shares: Sequence[Share]) -> str:
    """The axis that splits parts of a kind, by the name of the field that these shares use for it."""
    attention = "heads" if any(share.heads is not None for share in shares) else "kv_heads"
    return {PartKind.ATTENTION: attention, PartKind.FFN: "ffn_columns"}.get(kind, "vocabulary")


def range_text(held: Range) -> str:
    """A half-open range as people write it: `0-4`, or of a single one `2`."""
    first, last = held[0], held[1] - 1
    return str(first) if first == last else f"{first}-{last}"


def query_heads(spec: ModelSpec, share: Share) -> Range:
    """The query heads that a share answers for."""
    if share.heads is not None:
        return share.heads
    first, end = share.kv_heads if share.kv_heads is not None else (0, spec.kv_heads)
    group = spec.heads // spec.kv_heads
    return first * group, end * group


def kv_heads(spec: ModelSpec, heads: Range) -> Range:
    """The KV heads that query heads attend with."""
    group = spec.heads // spec.kv_heads
    return heads[0] // group, -(-heads[1] // group)


def computed_heads(spec: ModelSpec, heads: Range) -> Range:
    """The query heads that whoever answers for these computes.

    Within one KV head's group these alone; of several groups all heads, because attention wants as many for each KV
    head.
    """
    first, end = kv_heads(spec, heads)
    group = spec.heads // spec.kv_heads
    return heads if end - first == 1 else (first * group, end * group)


def output_spec(spec: ModelSpec, share: Share) -> ModelSpec:
    """As `local_spec`, for attention's output matrix: it has columns of the share's own heads alone."""
    first, end = query_heads(spec, share)
    return spec if share.is_whole else replace(local_spec(spec, share), heads=end - first, kv_heads=1)


def local_spec(spec: ModelSpec, share: Share) -> ModelSpec:
    """The smaller model that a member computes with: what its weights, KV and operations are counted by."""
    if share.is_whole:
        return spec
    heads = query_heads(spec, share)
    kv, computed = kv_heads(spec, heads), computed_heads(spec, heads)
    columns, rows = (axis_range(spec, kind, share) for kind in (PartKind.FFN, PartKind.HEAD))
    return replace(
        spec,
        heads=computed[1] - computed[0],
        kv_heads=kv[1] - kv[0],
        ffn=columns[1] - columns[0],
        vocab=rows[1] - rows[0],
    )
