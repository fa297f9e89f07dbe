"""Frames: parts, sizes and checksums, and that no message makes anything but a frame or a FrameError."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack
from msgspec.structs import replace
from proto_messages import ANYTHING, RESULTS, STEPS, TIMES

from potluck.proto import cluster_pb2 as pb
from potluck.proto.assembly import Assembly
from potluck.proto.channel import MAX_MESSAGE, PROTOCOL
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.frames import (
    PART_BYTES,
    Fault,
    Frame,
    Kind,
    checksum,
    fault_frame,
    pack_frame,
    read_fault,
    read_result,
    result_frame,
    step_frame,
    unpack_frame,
)
from potluck.proto.step import Result, Step

HIDDEN = Frame(3, 8, 1, Kind.HIDDEN, b"body", (), "float32", (2, 3), bytes(range(24)))
LARGE = Frame(3, 8, 1, Kind.HIDDEN, b"body", (), "float32", (700, 1000), bytes(2_800_000))
FIELDS = ("protocol", "epoch", "number", "stage", "kind", "dtype", "shape", "crc", "part", "parts", "times", "body")


def altered(frame, field, value):
    """The frame's only message, with one field of its header replaced."""
    (message,) = pack_frame(frame)
    header = msgpack.decode(message.header)
    header[FIELDS.index(field)] = value
    return pb.Frame(header=msgpack.encode(header), payload=message.payload)


def refusal(message):
    with pytest.raises(FrameError) as caught:
        unpack_frame(message)
    return caught.value.refusal


@given(STEPS)
def test_a_step_frame_comes_back(step):
    (message,) = pack_frame(step_frame(5, step))
    assert unpack_frame(message) == step_frame(5, step)


@given(RESULTS)
def test_a_result_comes_back(result):
    (message,) = pack_frame(result_frame(5, 2, result))
    assert read_result(unpack_frame(message)) == result


@given(st.text(max_size=50), st.text(max_size=500), st.integers(0, 2**63 - 1))
def test_a_fault_comes_back(node, reason, number):
    fault = Fault(node, number, reason)
    (message,) = pack_frame(fault_frame(5, 2, fault))
    assert read_fault(unpack_frame(message)) == fault


@given(st.integers(0, 9), st.integers(1, 9), st.sampled_from(["float32", "bfloat16"]), st.lists(TIMES, max_size=3))
def test_hidden_rows_come_back(rows, hidden, dtype, times):
    size = rows * hidden * (4 if dtype == "float32" else 2)
    frame = Frame(1, 1, 1, Kind.HIDDEN, b"", tuple(times), dtype, (rows, hidden), bytes(size))
    (message,) = pack_frame(frame)
    assert unpack_frame(message) == frame


def test_large_rows_travel_in_parts_that_fit_messages():
    messages = list(pack_frame(LARGE))
    assert [len(message.payload) for message in messages] == [PART_BYTES, PART_BYTES, 2_800_000 - 2 * PART_BYTES]
    assert all(message.ByteSize() < MAX_MESSAGE for message in messages)
    assembly = Assembly(lambda frame: None)
    *before, whole = [assembly.add(unpack_frame(message)) for message in messages]
    assert before == [None, None]
    assert whole == replace(LARGE, payload=bytearray(2_800_000))


@given(st.sampled_from(FIELDS), ANYTHING)
def test_a_header_with_anything_in_a_field(field, value):
    try:
        frame = unpack_frame(altered(HIDDEN, field, value))
    except FrameError as error:
        assert "\n" not in error.reason
    else:
        assert len(frame.payload) == frame.tensor_bytes


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_any_bytes(header, payload):
    refusal(pb.Frame(header=header, payload=payload))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_never_passes_as_another_frame(index, flip):
    (message,) = pack_frame(HIDDEN)
    header, payload = bytearray(message.header), bytearray(message.payload)
    target = payload if index % 2 else header
    target[index % len(target)] ^= flip
    try:
        frame = unpack_frame(pb.Frame(header=bytes(header), payload=bytes(payload)))
    except FrameError:
        return
    assert (frame.body, frame.payload) == (HIDDEN.body, HIDDEN.payload)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("protocol", PROTOCOL + 1, Refusal.MISMATCH),
        ("protocol", "one", Refusal.MISMATCH),
        ("epoch", 0, Refusal.MALFORMED),
        ("kind", 9, Refusal.MALFORMED),
        ("number", 0, Refusal.MALFORMED),
        ("dtype", "float64", Refusal.MALFORMED),
        ("shape", [2, 4], Refusal.MALFORMED),
        ("shape", [16384, 16384], Refusal.OVERSIZED),
        ("shape", [-1, 3], Refusal.MALFORMED),
        ("parts", 2, Refusal.MALFORMED),
        ("part", 1, Refusal.MALFORMED),
        ("crc", 1, Refusal.CHECKSUM),
        ("body", b"bodx", Refusal.CHECKSUM),
    ],
)
def test_refusals(field, value, expected):
    assert refusal(altered(HIDDEN, field, value)) is expected


def test_a_damaged_payload_is_data_loss():
    (message,) = pack_frame(HIDDEN)
    message.payload = message.payload[:-1] + b"\x00"
    with pytest.raises(FrameError, match="checksum of step 8") as caught:
        unpack_frame(message)
    assert caught.value.status is grpc.StatusCode.DATA_LOSS


def test_only_hidden_frames_carry_tensors():
    step = step_frame(1, Step(1, []))
    assert refusal(altered(step, "shape", [0, 4])) is Refusal.MALFORMED
    assert refusal(altered(step, "dtype", "float32")) is Refusal.MALFORMED


def test_a_result_in_the_frame_of_another_step():
    frame = replace(result_frame(1, 0, Result(4, [], [])), number=5)
    with pytest.raises(FrameError, match="result of step 4 came in the frame of step 5"):
        read_result(frame)


@given(ANYTHING)
def test_a_fault_of_anything(value):
    try:
        read_fault(Frame(1, 1, 0, Kind.FAULT, msgpack.encode(value)))
    except FrameError:
        return
    assert isinstance(value, list)


def test_the_checksum_covers_body_and_payload():
    assert len({checksum(b"a", b"b"), checksum(b"b", b"b"), checksum(b"a", b"a")}) == 3
