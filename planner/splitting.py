"""Splits the parts of a stage among the nodes of a group in given proportions.

KV heads, FFN columns and vocabulary rows each go out in proportion, with at least one unit for everybody. Where there
are more nodes than KV heads, query heads go out, so that no node gets parts of several KV heads' groups: it would have
to compute all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, product

from potluck.models.spec import ModelSpec, Part, PartKind
from potluck.planner.axes import Range
from potluck.planner.plan import Share

# Quantised formats come in blocks of 256 or 32 columns, and a block cannot be cut.
_COLUMN_UNITS = (256, 32, 1)
# Packed rows lie in groups of 16.
_ROW_UNITS = (16, 1)


class SplitError(ValueError):
    """A model that cannot be split among so many nodes; one line with the remedy."""


def split_shares(
    spec: ModelSpec, parts: Sequence[Part], wholes: Sequence[Share], weights: Sequence[Fraction]
) -> tuple[Share, ...]:
    """Shares of these parts, along the axes that they have, for the nodes of whole shares in proportion to weights.

    Raises:
        SplitError: more nodes than query heads, FFN columns or vocabulary rows.
        ValueError: a weight is not positive, or there are not as many as nodes.
    """
    if len(wholes) != len(weights):
        raise ValueError(f"{len(weights)} weights for {len(wholes)} nodes")
    axes = _axes(spec, {part.kind for part in parts}, weights) if len(wholes) > 1 else {}
    held = [{axis: ranges[index] for axis, ranges in axes.items()} for index in range(len(wholes))]
    return tuple(_share(whole, ranges) for whole, ranges in zip(wholes, held, strict=True))


def _share(whole: Share, held: Mapping[str, Range]) -> Share:
    return replace(
        whole,
        kv_heads=held.get("kv_heads"),
        ffn_columns=held.get("ffn_columns"),
        vocabulary=held.get("vocabulary"),
        heads=held.get("heads"),
    )


def _axes(spec: ModelSpec, kinds: Set[PartKind], weights: Sequence[Fraction]) -> dict[str, list[Range]]:
    """Every axis that parts of these kinds are split along, with each member's range of it."""
    axes: dict[str, list[Range]] = {}
    if PartKind.ATTENTION in kinds and len(weights) <= spec.kv_heads:
        axes["kv_heads"] = _in_units(spec.kv_heads, (1,), weights, "KV heads")
    elif PartKind.ATTENTION in kinds:
        axes["heads"] = _cut(_head_counts(spec, weights), 1)
    if PartKind.FFN in kinds:
        axes["ffn_columns"] = _in_units(spec.ffn, _COLUMN_UNITS, weights, "FFN columns")
    if kinds & {PartKind.EMBEDDING, PartKind.HEAD}:
        axes["vocabulary"] = _in_units(spec.vocab, _ROW_UNITS, weights, "vocabulary rows")
    return axes


def in_proportion(total: int, weights: Sequence[Fraction]) -> list[int]:
    """Whole numbers, at least 1 each, that add up to `total` and are as the weights are (largest remainder).

    Who would get less than one gets one, and the others divide the rest.

    Raises:
        ValueError: `total` has not one for everybody, or a weight is not positive.
    """
    if total < len(weights) or min(weights) <= 0:
        raise ValueError(f"{total} cannot go to {len(weights)} members in the proportions {list(map(str, weights))}")
    ones: set[int] = set()
    while True:
        rest, sum_ = total - len(ones), sum(weight for index, weight in enumerate(weights) if index not in ones)
        exact = [Fraction(1) if index in ones else rest * weight / sum_ for index, weight in enumerate(weights)]
        few = {index for index, share in enumerate(exact) if share < 1}
        if not few:
            return _rounded(total, exact)
        ones |= few


def _rounded(total: int, exact: Sequence[Fraction]) -> list[int]:
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def _in_units(length: int, units: Sequence[int], weights: Sequence[Fraction], what: str) -> list[Range]:
    """Ranges in multiples of the first unit that divides the axis into enough."""
    if length < len(weights):
        raise SplitError(f"the model's {length} {what} do not go to {len(weights)} nodes; leave nodes out")
    unit = next(unit for unit in units if length % unit == 0 and length // unit >= len(weights))
    return _cut(in_proportion(length // unit, weights), unit)


def _cut(counts: Sequence[int], unit: int) -> list[Range]:
    ends = [unit * end for end in accumulate(counts)]
    return list(zip([0, *ends], ends, strict=False))


def _head_counts(spec: ModelSpec, weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Query heads per node, of more nodes than KV heads, so that the slowest is done soonest.

    Every KV head goes to neighbours together or to one node that may have several: `ways` are the best of all ways to
    give out some KV heads to the first nodes.
    """
    if spec.heads < len(weights):
        raise SplitError(f"the model's {spec.heads} query heads do not go to {len(weights)} nodes; leave nodes out")
    ways: dict[tuple[int, int], tuple[Fraction, tuple[int, ...]]] = {(0, 0): (Fraction(0), ())}
    for placed, used in product(range(len(weights)), range(spec.kv_heads)):
        if (placed, used) in ways:
            slowest, before = ways[placed, used]
            for counts, kv_heads in _next_counts(spec, weights[placed:], spec.kv_heads - used):
                longest = max(count / weight for count, weight in zip(counts, weights[placed:], strict=False))
                reached = placed + len(counts), used + kv_heads
                way = max(slowest, longest), before + counts
                ways[reached] = min(ways.get(reached, way), way)
    return ways[len(weights), spec.kv_heads][1]


def _next_counts(spec: ModelSpec, weights: Sequence[Fraction], left: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Query heads of the next node or nodes, and how many of the KV heads left those are."""
    group = spec.heads // spec.kv_heads
    for kv_heads in range(1, left + 1):
        yield (kv_heads * group,), kv_heads
    for together in range(2, min(group, len(weights)) + 1):
        yield tuple(in_proportion(group, weights[:together])), 1
