"""Steps and results: what is packed comes back; whatever else comes is a FrameError and nothing else."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack
from proto_messages import ANYTHING, RESULTS, STEPS

from potluck.proto.codec import MAX_PACKED, pack_result, pack_step, unpack_result, unpack_step
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.step import Outputs, Run, Sampling, Step

STEP = Step(7, [Run(1, 0, [5, 6], [0], Outputs.LAST, Sampling())], [3])


def read(unpack, data):
    """The FrameError that unpacking gives, or None."""
    try:
        unpack(data)
    except FrameError as error:
        assert "\n" not in error.reason
        return error
    return None


@given(STEPS)
def test_a_step_comes_back(step):
    assert unpack_step(pack_step(step)) == step


@given(RESULTS)
def test_a_result_comes_back(result):
    assert unpack_result(pack_result(result)) == result


@given(st.binary(max_size=200))
def test_any_bytes(data):
    read(unpack_step, data)
    read(unpack_result, data)


@given(ANYTHING)
def test_any_msgpack(value):
    data = msgpack.encode(value)
    read(unpack_step, data)
    read(unpack_result, data)


@given(STEPS, st.data())
def test_one_field_replaced_by_anything(step, data):
    value = msgpack.decode(pack_step(step))
    place = value
    while (choice := data.draw(st.integers(0, len(place) - 1))) is not None:
        if not (isinstance(place[choice], list) and place[choice]) or data.draw(st.booleans()):
            place[choice] = data.draw(ANYTHING)
            break
        place = place[choice]
    read(unpack_step, msgpack.encode(value))


@given(RESULTS, st.integers(0, 300), st.integers(1, 255))
def test_one_byte_changed(result, index, flip):
    data = bytearray(pack_result(result))
    data[index % len(data)] ^= flip
    read(unpack_result, bytes(data))


@given(STEPS, st.integers(0, 300))
def test_cut_anywhere(step, end):
    data = pack_step(step)
    assert read(unpack_step, data[: end % len(data)])


@pytest.mark.parametrize(
    ("field", "value"),
    [("number", 0), ("number", True), ("number", 1.0), ("number", 2**63)],
)
def test_numbers_out_of_range(field, value):
    packed = msgpack.decode(pack_step(STEP))
    packed[0] = value
    assert read(unpack_step, msgpack.encode(packed)).refusal is Refusal.MALFORMED


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), -1.0, "1"])
def test_temperatures_that_are_none(temperature):
    packed = msgpack.decode(pack_step(STEP))
    packed[1][0][5][2] = temperature
    assert "$[1][0][5][2]" in read(unpack_step, msgpack.encode(packed)).reason


def test_a_run_needs_tokens():
    packed = msgpack.decode(pack_step(STEP))
    packed[1][0][2] = []
    assert "$[1][0][2]" in read(unpack_step, msgpack.encode(packed)).reason


def test_too_many_rows_in_all():
    run = Run(1, 0, [1] * 40_000, [], Outputs.NONE)
    assert "80000 rows" in read(unpack_step, pack_step(Step(1, [run, run]))).reason


def test_too_long_to_look_at():
    error = read(unpack_step, bytes(MAX_PACKED + 1))
    assert error.refusal is Refusal.OVERSIZED


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 4 Gi items
        b"\xc6\xff\xff\xff\xff",  # 4 GiB of bytes
        b"\xdb\xff\xff\xff\xff",  # a text of 4 GiB
        b"\xdf\xff\xff\xff\xff",  # a map of 4 Gi entries
        b"\x91" * 100_000,  # nested beyond any depth
        b"\xc9\x00\x10\x00\x00\x01" + bytes(1 << 20),  # an extension type
    ],
)
def test_claims_allocate_nothing(data):
    tracemalloc.start()
    try:
        assert read(unpack_step, data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_the_densest_message_stays_bounded():
    """A megabyte of one-byte values is the most objects anyone can make us hold."""
    tracemalloc.start()
    try:
        assert read(unpack_step, (b"\xdd\x00\x03\xff\xff" + b"\x90" * 0x3FFFF) * 3)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
