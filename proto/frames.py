"""Frames: what travels on a Forward stream. A msgpack header and, between stages, the raw bytes of hidden rows.

A payload beyond PART_BYTES travels as several frames, so that one large step neither exceeds a message nor holds
up the step behind it. The packed step rides in the first part only and is passed on as it came.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import PROTOCOL
from potluck.proto.codec import Reader, pack, pack_result, pack_step, unpack_result
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.step import LARGEST, MAX_ROWS, MAX_STAGES, Message, Name, Result, StageNumber, StageTime, Step

PART_BYTES = 1 << 20
MAX_HIDDEN = 1 << 16
MAX_TENSOR = 1 << 28
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


class Kind(IntEnum):
    """What a frame is: tokens for the first stage, hidden rows for a later one, the answer, what went wrong, or a step
    whose hidden rows are on their way."""

    STEP = 1
    HIDDEN = 2
    RESULT = 3
    FAULT = 4
    ANNOUNCE = 5


class Frame(Struct, frozen=True, gc=False):
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


class _Header(Message, frozen=True, gc=False):
    protocol: int
    epoch: Annotated[int, Meta(ge=1, le=LARGEST)]
    number: Annotated[int, Meta(ge=0, le=LARGEST)]
    stage: StageNumber
    kind: Kind
    dtype: Name
    shape: tuple[Annotated[int, Meta(ge=0, le=MAX_ROWS)], Annotated[int, Meta(ge=0, le=MAX_HIDDEN)]]
    crc: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    part: Annotated[int, Meta(ge=0, le=MAX_TENSOR // PART_BYTES)]
    parts: Annotated[int, Meta(ge=1, le=MAX_TENSOR // PART_BYTES)]
    times: Annotated[tuple[StageTime, ...], Meta(max_length=MAX_STAGES)]
    body: bytes


class _Protocol(Struct, array_like=True):
    """The one field of a header that every version has."""

    protocol: Any


class Fault(Struct, frozen=True):
    """Why a step (0: the whole epoch) cannot go on, and on which node."""

    node: str
    number: int
    reason: str


class _FaultBody(Message, frozen=True):
    node: Name
    reason: str


_headers = Reader(_Header, "frame header")
_protocols = Reader(_Protocol, "frame header")
_faults = Reader(_FaultBody, "fault")


def step_frame(epoch: int, step: Step) -> Frame:
    """The frame that starts a step at the route's first stage."""
    return Frame(epoch, step.number, 0, Kind.STEP, pack_step(step))


def announce_frame(step: Frame, stage: int) -> Frame:
    """A step's frame for a node whose first window is `stage`: it may prepare for the rows that will come."""
    return replace(step, kind=Kind.ANNOUNCE, stage=stage)


def result_frame(epoch: int, stage: int, result: Result) -> Frame:
    """The frame that answers a step."""
    return Frame(epoch, result.number, stage, Kind.RESULT, pack_result(result))


def fault_frame(epoch: int, stage: int, fault: Fault) -> Frame:
    """The frame that says why a step got no answer."""
    return Frame(epoch, fault.number, stage, Kind.FAULT, pack(_FaultBody(fault.node, fault.reason)))


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
    fault = _faults.read(frame.body)
    return Fault(fault.node, frame.number, fault.reason)


def pack_frame(frame: Frame) -> Iterator[pb.Frame]:
    """The gRPC messages of one frame."""
    for header, piece in pack_parts(frame):
        yield pb.Frame(header=header, payload=bytes(piece))


def pack_parts(frame: Frame) -> Iterator[tuple[bytes, memoryview]]:
    """Header and payload of every part of a frame: one for each PART_BYTES of payload, at least one."""
    payload = memoryview(frame.payload)
    parts = part_count(len(payload))
    if parts == 1:
        yield _pack_header(frame, payload), payload
        return
    for part in range(parts):
        piece = payload[part * PART_BYTES : (part + 1) * PART_BYTES]
        whole = frame if part == 0 else replace(frame, body=b"", times=())
        yield _pack_header(replace(whole, part=part, parts=parts), piece), piece


def part_count(size: int) -> int:
    """How many frames a payload of `size` bytes travels in."""
    return max(1, -(-size // PART_BYTES))


def checksum(body: bytes, payload: bytes | bytearray | memoryview) -> int:
    """CRC-32 over body and payload of one part: a flipped token is as wrong as a flipped activation."""
    return zlib.crc32(payload, zlib.crc32(body))


def _pack_header(frame: Frame, piece: memoryview) -> bytes:
    header = _Header(
        PROTOCOL,
        frame.epoch,
        frame.number,
        frame.stage,
        frame.kind,
        frame.dtype,
        frame.shape,
        checksum(frame.body, piece),
        frame.part,
        frame.parts,
        frame.times,
        frame.body,
    )
    return pack(header)


def unpack_frame(message: pb.Frame) -> Frame:
    """The part in a gRPC message; see `unpack_part`."""
    return unpack_part(message.header, message.payload)


def unpack_part(header: bytes | bytearray, payload: bytes | bytearray) -> Frame:
    """One part, with every claim of its header checked before anything is allocated for it.

    Raises:
        FrameError: malformed, oversized, of another protocol version, or damaged on the way.
    """
    head = _read_header(header)
    frame = Frame(
        head.epoch,
        head.number,
        head.stage,
        head.kind,
        head.body,
        head.times,
        head.dtype,
        head.shape,
        payload,
        head.part,
        head.parts,
    )
    _check_size(frame, len(payload))
    if checksum(head.body, payload) != head.crc:
        raise FrameError(f"the checksum of step {head.number}'s frame does not match its bytes", Refusal.CHECKSUM)
    return frame


def _read_header(data: bytes | bytearray) -> _Header:
    try:
        header = _headers.read(data)
    except FrameError:
        _check_protocol(_protocols.read(data).protocol)
        raise
    _check_protocol(header.protocol)
    return header


def _check_protocol(protocol: object) -> None:
    if protocol != PROTOCOL:
        raise FrameError(f"the frame speaks protocol {protocol!r:.20}, this node {PROTOCOL}", Refusal.MISMATCH)


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
