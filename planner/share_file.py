"""A share of a stage as a plan file writes it.

    {node: desktop, kv_heads: 0-2, ffn_columns: 0-1023, vocabulary: 0-32767}
    {node: nas, heads: 6-7, ffn_columns: 1024-1535, residency: streamed, window: 2}
    {node: laptop, experts: [0, 3], sequence: [0, 1/2], residency: host}

Ranges of heads, columns and rows name their first and last, as `layers 0-9` does; `sequence` is from where to where,
as fractions of the positions. An axis that is not named is held whole.
"""

from __future__ import annotations

import re
from fractions import Fraction

from potluck.planner.axes import range_text
from potluck.planner.fields import FieldError, fields, items, one_of, shown, text, whole
from potluck.planner.fleet import NodeName
from potluck.planner.place import Place
from potluck.planner.plan import WHOLE, Residency, Share

_RANGES = ("kv_heads", "heads", "ffn_columns", "vocabulary")
_SHARE = ("node", *_RANGES, "experts", "sequence", "residency", "window")
_RANGE = re.compile(r"([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?", re.ASCII)
_FRACTION = re.compile(r"([0-9]{1,9})(?:/([0-9]{1,9}))?", re.ASCII)


def share_from(value: object, where: Place) -> Share:
    """The share that plain data describes.

    Raises:
        FieldError: anything unknown, missing or of the wrong kind.
    """
    data = fields(value, where, _SHARE, ("node",))
    if "heads" in data and "kv_heads" in data:
        raise FieldError(f"{where.at(data, 'heads')}: give either 'kv_heads' or 'heads' (query heads), not both")
    ranges = {axis: _range(data[axis], where.field(data, axis)) for axis in _RANGES if axis in data}
    residency = Residency(one_of(data.get("residency", "resident"), where.field(data, "residency"), list(Residency)))
    return Share(
        node=NodeName(text(data["node"], where.field(data, "node"))),
        kv_heads=ranges.get("kv_heads"),
        ffn_columns=ranges.get("ffn_columns"),
        vocabulary=ranges.get("vocabulary"),
        heads=ranges.get("heads"),
        experts=_experts(data["experts"], where.field(data, "experts")) if "experts" in data else None,
        sequence=_sequence(data["sequence"], where.field(data, "sequence")) if "sequence" in data else WHOLE,
        residency=residency,
        window=_window(data["window"], residency, where.at(data, "window")) if "window" in data else None,
    )


def share_to_data(share: Share) -> dict[str, object]:
    """Plain data that describes a share, without what is held whole."""
    data: dict[str, object] = {"node": str(share.node)}
    for axis in _RANGES:
        held: tuple[int, int] | None = getattr(share, axis)
        if held is not None:
            # As a number, a single one needs no quotes in the file.
            data[axis] = range_text(held) if held[1] - held[0] > 1 else held[0]
    if share.experts is not None:
        data["experts"] = list(share.experts)
    if share.sequence != WHOLE:
        data["sequence"] = [str(end) for end in share.sequence]
    if share.residency is not Residency.RESIDENT:
        data["residency"] = share.residency.value
    if share.window is not None:
        data["window"] = share.window
    return data


def _window(value: object, residency: Residency, where: Place) -> int:
    if residency is not Residency.STREAMED:
        raise FieldError(f"{where}: 'window' is for layers read from disk; say residency: streamed, or leave it out")
    return whole(value, Place(f"{where.name}: window", where.line), 1)


def _range(value: object, where: Place) -> tuple[int, int]:
    match = _RANGE.fullmatch(str(value).strip()) if isinstance(value, str | int) else None
    if match is None or isinstance(value, bool):
        raise FieldError(f"{where} must be a range such as 0-2, first and last included, not {shown(value)}")
    first = int(match[1])
    last = int(match[2]) if match[2] else first
    if last < first:
        raise FieldError(f"{where}: the range {shown(value)} runs backwards")
    return first, last + 1


def _experts(value: object, where: Place) -> tuple[int, ...]:
    return tuple(whole(number, where) for number in items(value, where))


def _sequence(value: object, where: Place) -> tuple[Fraction, Fraction]:
    ends = items(value, where)
    if len(ends) != 2:
        raise FieldError(f"{where} must be two fractions such as [0, 1/2], not {shown(value)}")
    first, end = (_fraction(number, where) for number in ends)
    if not 0 <= first < end <= 1:
        raise FieldError(f"{where} must lie between 0 and 1 and run forwards, not {shown(value)}")
    return first, end


def _fraction(value: object, where: Place) -> Fraction:
    match = _FRACTION.fullmatch(str(value)) if isinstance(value, str | int) else None
    if match is None or isinstance(value, bool) or (match[2] and int(match[2]) == 0):
        raise FieldError(f"{where}: {shown(value)} is no fraction; write 0, 1 or for example 1/2")
    return Fraction(int(match[1]), int(match[2] or 1))
