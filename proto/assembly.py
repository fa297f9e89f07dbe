"""Puts the parts of a large payload together again, in a buffer whose size was checked first."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from potluck.proto.errors import FrameError
from potluck.proto.frames import PART_BYTES, Frame


class Assembly:
    """The tensor being received on one stream; parts come in order, one tensor at a time."""

    def __init__(self, admit: Callable[[Frame], None]) -> None:
        """`admit` sees the first part before its tensor gets a buffer, and raises FrameError to refuse it."""
        self._admit = admit
        self._first: Frame | None = None
        self._buffer = bytearray()
        self._next = 0

    def add(self, frame: Frame) -> Frame | None:
        """Take one part; the whole frame, its payload a bytearray of its own, when this was the last.

        Raises:
            FrameError: refused by `admit`, or not the part that was due.
        """
        if self._first is None:
            if frame.part != 0:
                raise FrameError(f"part {frame.part} of step {frame.number} came before part 0")
            self._admit(frame)
            if frame.parts == 1:
                owned = isinstance(frame.payload, bytearray) or not frame.payload
                return frame if owned else replace(frame, payload=bytearray(frame.payload))
            self._first, self._buffer, self._next = frame, bytearray(frame.tensor_bytes), 0
        self._check(self._first, frame)
        start = frame.part * PART_BYTES
        self._buffer[start : start + len(frame.payload)] = frame.payload
        self._next += 1
        if self._next < frame.parts:
            return None
        whole = replace(self._first, payload=self._buffer, part=0, parts=1)
        self._first, self._buffer = None, bytearray()
        return whole

    def _check(self, first: Frame, frame: Frame) -> None:
        same = (first.epoch, first.number, first.stage, first.kind, first.dtype, first.shape)
        if same != (frame.epoch, frame.number, frame.stage, frame.kind, frame.dtype, frame.shape):
            raise FrameError(f"step {frame.number} began inside the parts of step {first.number}")
        if frame.part != self._next:
            raise FrameError(f"part {frame.part} of step {frame.number} came where part {self._next} was due")
