"""Parts: in order, of one tensor, admitted before a buffer is made for them."""

import pytest
from msgspec.structs import replace

from potluck.proto.assembly import Assembly
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.frames import PART_BYTES, Frame, Kind

SIZE = 2 * PART_BYTES + 400
WHOLE = Frame(1, 4, 1, Kind.HIDDEN, b"step", (), "float32", (1, SIZE // 4), b"", 0, 3)
PARTS = [
    replace(WHOLE, part=part, body=b"step" if part == 0 else b"", payload=bytes([part + 1]) * size)
    for part, size in enumerate((PART_BYTES, PART_BYTES, 400))
]


def admit_all(frame):
    """No objection."""


def test_parts_become_one():
    assembly = Assembly(admit_all)
    assert assembly.add(PARTS[0]) is None
    assert assembly.add(PARTS[1]) is None
    whole = assembly.add(PARTS[2])
    assert whole.payload == b"\x01" * PART_BYTES + b"\x02" * PART_BYTES + b"\x03" * 400
    assert (whole.body, whole.part, whole.parts) == (b"step", 0, 1)


def test_the_next_tensor_has_its_own_buffer():
    assembly = Assembly(admit_all)
    small = Frame(1, 5, 1, Kind.HIDDEN, b"", (), "float32", (1, 1), b"abcd")
    first, second = assembly.add(small), assembly.add(replace(small, number=6, payload=b"efgh"))
    assert (first.payload, second.payload) == (b"abcd", b"efgh")


@pytest.mark.parametrize("order", [[1], [0, 2], [0, 0], [0, 1, 1]])
def test_parts_out_of_order(order):
    assembly = Assembly(admit_all)
    for part in order[:-1]:
        assembly.add(PARTS[part])
    with pytest.raises(FrameError, match="part"):
        assembly.add(PARTS[order[-1]])


@pytest.mark.parametrize("change", [{"number": 5}, {"shape": (SIZE // 4, 1)}, {"stage": 2}, {"epoch": 2}])
def test_another_tensor_between_the_parts(change):
    assembly = Assembly(admit_all)
    assembly.add(PARTS[0])
    with pytest.raises(FrameError, match="inside the parts of step 4"):
        assembly.add(replace(PARTS[1], **change))


def test_refused_before_anything_is_allocated():
    seen = []

    def refuse(frame):
        seen.append(frame.part)
        raise FrameError("too large for us", Refusal.OVERSIZED)

    with pytest.raises(FrameError, match="too large for us"):
        Assembly(refuse).add(PARTS[0])
    assert seen == [0]
