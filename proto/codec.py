"""Messages as bytes and back, with every claim checked: the type says what is possible, and nothing else gets in."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from potluck.proto.errors import FrameError, Refusal
from potluck.proto.step import MAX_ROWS, Result, Step

# A header carries a step's tokens or a result's scores; 128 Ki history tokens of 5 bytes each fit.
MAX_PACKED = 1 << 20
T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


class Reader(Generic[T]):
    """Reads messages of one type."""

    def __init__(self, type_: type[T], what: str) -> None:
        """`what` names them in errors."""
        self._decoder = msgspec.msgpack.Decoder(type_)
        self._what = what

    def read(self, data: bytes | bytearray | memoryview) -> T:
        """The message in bytes that anyone may have made.

        Raises:
            FrameError: not such a message; the error names the field by its place.
        """
        if len(data) > MAX_PACKED:
            raise FrameError(f"{self._what} of {len(data)} bytes exceeds {MAX_PACKED}", Refusal.OVERSIZED)
        try:
            return self._decoder.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise FrameError(f"{self._what}: {error}") from None


def pack(message: object) -> bytes:
    """A message as bytes."""
    return _encoder.encode(message)


_steps = Reader(Step, "step")
_results = Reader(Result, "result")


def pack_step(step: Step) -> bytes:
    """A step as bytes."""
    return pack(step)


def unpack_step(data: bytes | memoryview) -> Step:
    """The step in bytes that anyone may have made.

    Raises:
        FrameError: not a step; the message says which field.
    """
    step = _steps.read(data)
    if step.rows > MAX_ROWS:
        raise FrameError(f"step of {step.rows} rows exceeds {MAX_ROWS}")
    return step


def pack_result(result: Result) -> bytes:
    """A result as bytes."""
    return pack(result)


def unpack_result(data: bytes | memoryview) -> Result:
    """The result in bytes that anyone may have made.

    Raises:
        FrameError: not a result; the message says which field.
    """
    return _results.read(data)
