"""Reading untrusted msgpack: every value has a type, a range and a bounded count before anything uses it."""

from __future__ import annotations

import math
from typing import cast

import msgpack  # type: ignore[import-untyped]

from potluck.proto.errors import FrameError, Refusal

# A header carries a step's tokens or a result's scores; 128 Ki history tokens of 5 bytes each fit.
MAX_PACKED = 1 << 20
MAX_COUNT = 1 << 18
MAX_NAME = 256
LARGEST = 2**63 - 1


def pack(value: object) -> bytes:
    """Arrays, numbers, texts and bytes as msgpack."""
    packed: bytes = msgpack.packb(value)
    return packed


def unpack(data: bytes | memoryview, what: str) -> object:
    """Decode one msgpack value of arrays, numbers and bytes; maps and extension types are refused.

    Raises:
        FrameError: not msgpack, too long, or of a kind never sent.
    """
    if len(data) > MAX_PACKED:
        raise FrameError(f"{what} of {len(data)} bytes exceeds {MAX_PACKED}", Refusal.OVERSIZED)
    try:
        return msgpack.unpackb(data, max_map_len=0, max_ext_len=0, max_array_len=MAX_COUNT, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        detail = str(error) or type(error).__name__
        raise FrameError(f"{what} is not valid msgpack: {detail}") from error


def fields(value: object, count: int, what: str) -> list[object]:
    """`value` as an array of exactly `count` fields.

    Raises:
        FrameError: it is something else.
    """
    if not isinstance(value, list) or len(value) != count:
        raise FrameError(f"{what} is not an array of {count} fields")
    return cast("list[object]", value)


def array(value: object, most: int, what: str) -> list[object]:
    """`value` as an array of at most `most` items.

    Raises:
        FrameError: it is something else.
    """
    if not isinstance(value, list):
        raise FrameError(f"{what} is not an array")
    if len(value) > most:
        raise FrameError(f"{what} has {len(value)} items, more than {most}", Refusal.OVERSIZED)
    return cast("list[object]", value)


def integer(value: object, low: int, high: int, what: str) -> int:
    """`value` as an integer in low..high.

    Raises:
        FrameError: it is something else (a bool is not an integer).
    """
    if type(value) is not int or not low <= value <= high:
        raise FrameError(f"{what} is not an integer in {low}..{high}")
    return value


def integers(value: object, most: int, high: int, what: str) -> list[int]:
    """`value` as an array of at most `most` integers in 0..high.

    Raises:
        FrameError: it is something else.
    """
    items = array(value, most, what)
    if not all(type(item) is int for item in items):
        raise FrameError(f"{what} holds something that is not an integer")
    numbers = cast("list[int]", items)
    if numbers and (min(numbers) < 0 or max(numbers) > high):
        raise FrameError(f"{what} holds a number outside 0..{high}")
    return numbers


def number(value: object, low: float, high: float, what: str) -> float:
    """`value` as a float in low..high; not-a-number is refused.

    Raises:
        FrameError: it is something else.
    """
    if type(value) not in (int, float):
        raise FrameError(f"{what} is not a number")
    result = float(cast("float", value))
    if math.isnan(result) or not low <= result <= high:
        raise FrameError(f"{what} is not a number in {low}..{high}")
    return result


def name(value: object, what: str) -> str:
    """`value` as a short text.

    Raises:
        FrameError: it is something else.
    """
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise FrameError(f"{what} is not a text of at most {MAX_NAME} characters")
    return value


def raw(value: object, what: str) -> bytes:
    """`value` as bytes.

    Raises:
        FrameError: it is something else.
    """
    if not isinstance(value, bytes):
        raise FrameError(f"{what} is not bytes")
    return value
