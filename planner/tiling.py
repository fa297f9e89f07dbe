"""Whether the shares of a group cover what they split: everything exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise, product
from math import ceil, floor

from potluck.models.spec import ModelSpec, PartKind
from potluck.planner.axes import axis_length, axis_name, axis_range, range_text
from potluck.planner.fleet import NodeName
from potluck.planner.plan import Share
from potluck.planner.plan_error import PlanError, Spot

Interval = tuple[Fraction, Fraction]
Rectangle = tuple[Interval, Interval]


def check_group(shares: Sequence[Share], kind: PartKind, spec: ModelSpec, spot: Spot) -> None:
    """Check that shares tile the axis that splits parts of a kind, and the sequence.

    Attention is split along heads and positions together, so its shares are rectangles. An FFN, the embedding and
    the head have no KV: whoever keeps which positions, their own axis may be tiled alone as well.

    Raises:
        PlanError: a gap, an overlap, a range outside the axis, a node twice, or experts in a model without any.
    """
    place = f"{spot}, {kind.value}"
    if not shares:
        raise PlanError(f"{place}: the group is empty", spot)
    nodes = [share.node for share in shares]
    if len(set(nodes)) != len(nodes):
        raise PlanError(f"{place}: a node is in the group twice; join its shares", spot)
    if any(share.experts is not None for share in shares):
        raise PlanError(f"{place}: model {spec.name!r} has no experts", spot)
    rectangles = [(_interval(share, kind, spec, spot), share.sequence) for share in shares]
    alone = [(axis, (Fraction(0), Fraction(1))) for axis, _ in rectangles]
    if not tiles(rectangles) and (kind is PartKind.ATTENTION or not tiles(alone)):
        axis = axis_name(kind, shares)
        wrong = next(_untiled(rectangles, nodes, _count(spec, axis), axis))
        whole = f"{axis} {range_text((0, _count(spec, axis)))}"
        raise PlanError(
            f"{place}: the shares do not tile {whole} and the sequence: {wrong}; "
            f"every piece must be in exactly one share",
            spot,
        )


def tiles(rectangles: Sequence[Rectangle]) -> bool:
    """Whether rectangles cover the unit square exactly once."""
    area = sum(_length(across) * _length(along) for across, along in rectangles)
    pairs = ((one, two) for index, one in enumerate(rectangles) for two in rectangles[:index])
    return area == 1 and not any(_meet(one, two) for one, two in pairs)


def _untiled(rectangles: Sequence[Rectangle], nodes: Sequence[NodeName], count: int, axis: str) -> Iterator[str]:
    """The pieces that are in no share, or in two: `ffn_columns 32-63 are in no share`."""
    across, along = (_cells([rectangle[side] for rectangle in rectangles]) for side in (0, 1))
    for column, row in product(across, along):
        held = [node for node, piece in zip(nodes, rectangles, strict=True) if _meet(piece, (column, row))]
        if len(held) != 1:
            where = f" of positions {row[0]} to {row[1]}" if len(along) > 1 else ""
            holders = f"those of {held[0]!r} and {held[1]!r}" if held else "no share"
            yield f"{axis} {_units(column, count)}{where} are in {holders}"


def _cells(intervals: Sequence[Interval]) -> list[Interval]:
    """Where intervals begin and end, the unit interval is cut."""
    ends = {Fraction(0), Fraction(1), *(end for interval in intervals for end in interval)}
    return list(pairwise(sorted(ends)))


def _units(interval: Interval, count: int) -> str:
    """The numbers that lie in an interval of `count`, which may cut through the outer ones: `4-7`."""
    return range_text((floor(interval[0] * count), ceil(interval[1] * count)))


def _interval(share: Share, kind: PartKind, spec: ModelSpec, spot: Spot) -> Interval:
    place = f"{spot}, {kind.value}"
    if share.heads is not None and share.kv_heads is not None:
        raise PlanError(f"{place}: node {share.node!r} has heads and kv_heads; name one of them", spot)
    length, (first, end) = axis_length(spec, kind), axis_range(spec, kind, share)
    if not 0 <= first < end <= length:
        axis = axis_name(kind, [share])
        held, there_is = range_text(getattr(share, axis)), range_text((0, _count(spec, axis)))
        raise PlanError(f"{place}: node {share.node!r} holds {axis} {held}, but there is {there_is}", spot)
    return Fraction(first, length), Fraction(end, length)


def _count(spec: ModelSpec, axis: str) -> int:
    counts = {"kv_heads": spec.kv_heads, "heads": spec.heads, "ffn_columns": spec.ffn}
    return counts.get(axis, spec.vocab)


def _length(interval: Interval) -> Fraction:
    return interval[1] - interval[0]


def _meet(one: Rectangle, two: Rectangle) -> bool:
    return _overlap(one[0], two[0]) and _overlap(one[1], two[1])


def _overlap(one: Interval, two: Interval) -> bool:
    return one[0] < two[1] and two[0] < one[1]
