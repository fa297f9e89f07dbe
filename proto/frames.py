"""Frames: what travels on a Forward stream. A msgpack header and, between stages, the raw bytes of hidden rows.

A payload beyond PART_BYTES travels as several frames, so that one large step neither exceeds a message nor holds
up the step behind it. The packed step rides in the first part only and is passed on as it came.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import PROTOCOL
from potluck.proto.codec import MAX_ROWS, MAX_STAGES, from_times, pack_result, pack_step, to_times, unpack_result
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.fields import LARGEST, fields, integer, name, pack, raw, unpack
from potluck.proto.step import Result, StageTime, Step

PART_BYTES = 1 << 20
MAX_HIDDEN = 1 << 16
MAX_TENSOR = 1 << 28
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


class Kind(IntEnum):
    """What a frame is: tokens for the first stage, hidden rows for a later one, the answer, or what went wrong."""

    STEP = 1
    HIDDEN = 2
    RESULT = 3
    FAULT = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of a Forward stream, or one part of it.

    Attributes:
        number: of the step; 0 in a fault that concerns no step in particular.
        stage: the stage it is addressed to (a result or fault: the stage it comes from).
        body: the packed step, result or fault.
        times: what the stages so far spent on this step.
        dtype, shape: of the hidden rows, (rows, hidden); "" and (0, 0) where there are none.
        payload: rows x hidden x itemsize bytes, row by row, little-endian.
    """

    epoch: int
    number: int
    stage: int
    kind: Kind
    body: bytes = b""
    times: tuple[StageTime, ...] = ()
    dtype: str = ""
    shape: tuple[int, int] = (0, 0)
    payload: bytes | bytearray | memoryview = b""
    part: int = 0
    parts: int = 1

    @property
    def tensor_bytes(self) -> int:
        """Bytes of the whole tensor, over all parts."""
        return self.shape[0] * self.shape[1] * ITEM_BYTES.get(self.dtype, 0)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a step (0: the whole epoch) cannot go on, and on which node."""

    node: str
    number: int
    reason: str


def step_frame(epoch: int, step: Step) -> Frame:
    """The frame that starts a step at the route's first stage."""
    return Frame(epoch, step.number, 0, Kind.STEP, pack_step(step))


def result_frame(epoch: int, stage: int, result: Result) -> Frame:
    """The frame that answers a step."""
    return Frame(epoch, result.number, stage, Kind.RESULT, pack_result(result))


def fault_frame(epoch: int, stage: int, fault: Fault) -> Frame:
    """The frame that says why a step got no answer."""
    return Frame(epoch, fault.number, stage, Kind.FAULT, pack([fault.node, fault.reason]))


def read_result(frame: Frame) -> Result:
    """The result in a frame of kind RESULT.

    Raises:
        FrameError: it is not a result, or of another step than the frame.
    """
    result = unpack_result(frame.body)
    if result.number != frame.number:
        raise FrameError(f"the result of step {result.number} came in the frame of step {frame.number}")
    return result


def read_fault(frame: Frame) -> Fault:
    """The fault in a frame of kind FAULT.

    Raises:
        FrameError: it is not a fault.
    """
    node, reason = fields(unpack(frame.body, "fault"), 2, "fault")
    if not isinstance(reason, str):
        raise FrameError("the fault's reason is not a text")
    return Fault(name(node, "the fault's node"), frame.number, reason)


def pack_frame(frame: Frame) -> Iterator[pb.Frame]:
    """The messages of one frame: one for every PART_BYTES of payload, at least one."""
    payload = memoryview(frame.payload)
    parts = part_count(len(payload))
    for part in range(parts):
        piece = payload[part * PART_BYTES : (part + 1) * PART_BYTES]
        whole = frame if part == 0 else replace(frame, body=b"", times=())
        yield pb.Frame(header=_pack_header(replace(whole, part=part, parts=parts), piece), payload=bytes(piece))


def part_count(size: int) -> int:
    """How many frames a payload of `size` bytes travels in."""
    return max(1, -(-size // PART_BYTES))


def checksum(body: bytes, payload: bytes | memoryview) -> int:
    """CRC-32 over body and payload of one part: a flipped token is as wrong as a flipped activation."""
    return zlib.crc32(payload, zlib.crc32(body))


def _pack_header(frame: Frame, piece: memoryview) -> bytes:
    return pack(
        [
            PROTOCOL,
            frame.epoch,
            frame.number,
            frame.stage,
            int(frame.kind),
            frame.dtype,
            list(frame.shape),
            checksum(frame.body, piece),
            frame.part,
            frame.parts,
            from_times(list(frame.times)),
            frame.body,
        ]
    )


def unpack_frame(message: pb.Frame) -> Frame:
    """One part, with every claim of its header checked before anything is allocated for it.

    Raises:
        FrameError: malformed, oversized, of another protocol version, or damaged on the way.
    """
    frame, expected = _read_header(unpack(message.header, "frame header"))
    payload = message.payload
    _check_size(frame, len(payload))
    if checksum(frame.body, payload) != expected:
        raise FrameError(f"the checksum of step {frame.number}'s frame does not match its bytes", Refusal.CHECKSUM)
    return replace(frame, payload=payload)


def _read_header(value: object) -> tuple[Frame, int]:
    if isinstance(value, list) and value and value[0] != PROTOCOL:
        raise FrameError(f"the frame speaks protocol {value[0]!r:.20}, this node {PROTOCOL}", Refusal.MISMATCH)
    _, epoch, number_, stage, kind, dtype, shape, crc, part, parts, times, body = fields(value, 12, "frame header")
    rows, hidden = fields(shape, 2, "shape")
    frame = Frame(
        epoch=integer(epoch, 1, LARGEST, "epoch"),
        number=integer(number_, 0, LARGEST, "step number"),
        stage=integer(stage, 0, MAX_STAGES, "stage"),
        kind=Kind(integer(kind, min(Kind), max(Kind), "kind")),
        body=raw(body, "body"),
        times=tuple(to_times(times)),
        dtype=name(dtype, "dtype"),
        shape=(integer(rows, 0, MAX_ROWS, "rows"), integer(hidden, 0, MAX_HIDDEN, "hidden")),
        part=integer(part, 0, MAX_TENSOR // PART_BYTES, "part"),
        parts=integer(parts, 1, MAX_TENSOR // PART_BYTES, "parts"),
    )
    return frame, integer(crc, 0, 2**32 - 1, "checksum")


def _check_size(frame: Frame, size: int) -> None:
    if frame.kind is Kind.HIDDEN and frame.dtype not in ITEM_BYTES:
        raise FrameError(f"hidden rows of type {frame.dtype!r:.20}; known: {', '.join(ITEM_BYTES)}")
    if frame.number == 0 and frame.kind is not Kind.FAULT:
        raise FrameError("steps are numbered from 1")
    if frame.kind is not Kind.HIDDEN and (frame.dtype or frame.shape != (0, 0)):
        raise FrameError(f"a frame of kind {frame.kind.name} carries a tensor")
    total = frame.tensor_bytes
    if total > MAX_TENSOR:
        raise FrameError(f"a tensor of {total} bytes exceeds {MAX_TENSOR}", Refusal.OVERSIZED)
    if frame.parts != part_count(total) or frame.part >= frame.parts:
        raise FrameError(f"part {frame.part} of {frame.parts} for {total} bytes; parts hold {PART_BYTES}")
    expected = min(PART_BYTES, total - frame.part * PART_BYTES)
    if size != expected:
        raise FrameError(f"part {frame.part} has {size} bytes instead of {expected}")
