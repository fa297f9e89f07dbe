"""Emulated links: their arithmetic, and what frames and messages then take."""

import ctypes
import math
import socket
import statistics
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.proto.assembly import Assembly
from potluck.proto.exchange import Incoming, Outgoing, exchange
from potluck.proto.frames import Frame, Kind, unpack_part
from potluck.proto.member_link import MemberLink
from potluck.proto.outbox import Outbox
from potluck.proto.shaper import DelayLine, Shape, sleep_precisely, wait_until
from potluck.proto.tcp import read_message


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


LINKS = [Shape(0.3e-3, 125e6), Shape(3e-3, 37.5e6), Shape(7e-3, 12.5e6)]
IDS = ["1 Gbit", "300 Mbit", "100 Mbit"]
SIZES = [2_304, 260 * 2_304]
# What a thread needs to wake up and read. The best of some counts: others may have waited for a core.
WAKING = 0.4e-3


def frame_of(size):
    return Frame(1, 1, 1, Kind.HIDDEN, b"", (), "float32", (size // 2304, 576), bytes(size))


def seconds_of_frames(shape, size, count):
    """How long each frame takes from `send` until its last byte was read, over a socket of this machine."""
    ours, theirs = socket.socketpair()
    outbox, taken, assembly = Outbox(shape), [], Assembly(lambda frame: None)
    outbox.open(ours)
    with ours, theirs:
        for _ in range(count):
            begun = time.monotonic()
            outbox.send(frame_of(size), 5.0)
            while assembly.add(unpack_part(*read_message(theirs))) is None:
                pass
            taken.append(time.monotonic() - begun)
        outbox.end("over")
        outbox.join(1.0)
    return taken


@pytest.mark.parametrize("shape", LINKS, ids=IDS)
@pytest.mark.parametrize("size", SIZES)
def test_frames_take_what_the_link_is_said_to(shape, size):
    wanted = shape.latency + size / shape.bandwidth
    taken = seconds_of_frames(shape, size, 8)
    assert wanted <= min(taken) <= 1.1 * wanted + WAKING


def seconds_of_sums(shape, size, count):
    """How long an exchange of messages takes between two members, both ways at once."""
    links = [MemberLink(name, sock, shape, lambda: None) for name, sock in zip("ab", socket.socketpair(), strict=True)]
    payload, taken = bytes(size), []

    def go(link):
        for _ in range(count):
            begun = time.monotonic()
            exchange([Outgoing(link, payload)], [Incoming(link, memoryview(bytearray(size)))])
            taken.append(time.monotonic() - begun)

    threads = [threading.Thread(target=go, args=(link,)) for link in links]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for link in links:
        link.close()
    return taken


@pytest.mark.parametrize("shape", LINKS, ids=IDS)
@pytest.mark.parametrize("size", SIZES)
def test_members_messages_take_what_the_link_is_said_to(shape, size):
    wanted = shape.latency + size / shape.bandwidth
    taken = seconds_of_sums(shape, size, 8)
    # Who begins after the other has its message sooner, by as much as it was late.
    assert len(taken) == 16 and wanted * 0.9 <= statistics.median(taken) and min(taken) <= 1.1 * wanted + WAKING


@pytest.mark.skipif(sys.platform != "linux", reason="timer slack is Linux's")
def test_sleeps_are_precise_where_that_was_asked_for():
    slack = ctypes.CDLL(None).prctl

    def asked():
        before = slack(30, 0, 0, 0, 0)
        sleep_precisely()
        found.append((before, slack(30, 0, 0, 0, 0)))

    found = []
    thread = threading.Thread(target=asked)
    thread.start()
    thread.join()
    assert found[0][1] == 1 and slack(30, 0, 0, 0, 0) == found[0][0] != 1
