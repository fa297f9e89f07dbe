"""The arithmetic of emulated links, without a clock."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.proto.shaper import DelayLine, Shape, wait_until


def test_off_is_at_once():
    assert DelayLine(Shape()).due(1 << 30, 5.0) == 5.0


def test_frames_queue_and_latencies_overlap():
    line = DelayLine(Shape(0.25, 100.0))
    assert [line.due(100, 0.0), line.due(50, 0.0), line.due(100, 10.0)] == [1.25, 1.75, 11.25]


def test_latency_alone_queues_nothing():
    line = DelayLine(Shape(0.5))
    assert [line.due(1 << 30, 1.0), line.due(1, 1.0)] == [1.5, 1.5]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1)), min_size=1, max_size=20), st.floats(1, 1e9))
def test_never_faster_than_the_wire_and_never_out_of_order(frames, bandwidth):
    line, now, dues = DelayLine(Shape(0.01, bandwidth)), 0.0, []
    for size, pause in frames:
        now += pause
        dues.append(line.due(size, now))
        assert dues[-1] >= now + 0.01
    assert dues == sorted(dues)
    sent = sum(size for size, _ in frames)
    assert dues[-1] >= sent / bandwidth * (1 - 1e-9)


@pytest.mark.parametrize("shape", [(-1.0, 0.0), (0.0, -1.0), (math.nan, 0.0), (0.0, math.nan)])
def test_times_do_not_run_backwards(shape):
    with pytest.raises(ValueError, match="0 or more"):
        Shape(*shape)


def test_waiting_is_not_cut_short():
    due = time.monotonic() + 0.02
    wait_until(due)
    assert time.monotonic() >= due
