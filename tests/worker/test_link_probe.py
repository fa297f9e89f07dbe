"""Measuring one link: what arrives when, who may ask for it, and that those who are served notice nothing."""

import contextlib
import math
import socket
import time

import grpc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from potluck.proto import cluster_pb2 as pb
from potluck.proto.codec import pack
from potluck.proto.echo import BULK_BYTES, MOST_BYTES, Ask, Report, bulk_size, pack_message, read_ask, read_report
from potluck.proto.errors import FrameError
from potluck.proto.stream import StreamHead
from potluck.proto.tcp import PREFIX, Notice, greet, message, read_message
from potluck.worker.echo import steady_rate

Code = grpc.StatusCode
PROBE = StreamHead("stranger", "probe", 0)


def arrivals(rate, sizes, begun=5.0):
    """Messages that follow each other at this rate."""
    marks = [(begun, 0)]
    for size in sizes:
        marks.append((marks[-1][0] + size / rate, size))
    return marks


@given(st.floats(1e3, 1e10), st.lists(st.integers(1 << 10, BULK_BYTES), min_size=1, max_size=100))
@example(1e6, [1 << 10])
def test_a_steady_bulk_has_its_rate(rate, sizes):
    assert steady_rate(arrivals(rate, sizes)) == pytest.approx(rate, rel=0.01)


def test_a_slow_start_does_not_count():
    slow = arrivals(1e6, [1000] * 100)
    fast = arrivals(1e8, [100_000] * 200, slow[-1][0])
    assert steady_rate([*slow, *fast[1:]]) == pytest.approx(1e8)


@pytest.mark.parametrize("at", [30, 45, 59])
def test_a_pause_makes_some_messages_late_and_no_link_slow(at):
    """The receiver sleeps for 10 ms of 60 ms, then finds what has come meanwhile."""
    marks = arrivals(1e8, [100_000] * 60)
    wakes = marks[at][0] + 0.01
    late = [(max(when, wakes) if when > marks[at][0] else when, size) for when, size in marks]
    assert steady_rate(late) == pytest.approx(1e8, rel=0.12)


def test_messages_that_come_at_once_have_a_rate():
    assert math.isfinite(steady_rate([(1.0, 0), (1.0, 10), (1.0, 10), (1.0, 10)]))


def test_a_bulk_begins_small():
    sizes = [bulk_size(number) for number in range(1000)]
    assert sizes[:9] == [16 << 10] * 8 + [32 << 10]
    assert sizes == sorted(sizes) and sizes[-1] == BULK_BYTES


@pytest.mark.parametrize(
    "asked",
    [b"", b"\xc1", pack(("king", 1.0)), pack(("bulk", -1.0)), pack(("bulk", 2.5)), pack(("bulk", math.nan)), pack(7)],
)
def test_what_is_no_ask(asked):
    with pytest.raises(FrameError, match="probe"):
        read_ask(asked)


def test_what_is_no_report():
    for said in (0.0, -1.0, math.nan):
        with pytest.raises(FrameError, match="report"):
            read_report(pack((said,)))
    assert read_report(pack_message(Report(5.0))).rate == 5.0


def measure(source, target, seconds=0.0, meanwhile=True):
    peer = pb.Peer(node=target.name, address=target.address, data_port=target.data_port)
    return source.stub.ProbeLink(pb.LinkRequest(peer=peer, bulk_seconds=seconds, trips_meanwhile=meanwhile), timeout=30)


def test_loopback_is_near_and_wide(two_workers):
    here, there = two_workers
    trips, bulk = measure(here, there), measure(here, there, 0.1)
    assert (trips.failure, trips.bandwidth, trips.trip_bytes) == ("", 0.0, 8192)
    assert 0.0 <= trips.round_trip < 0.02
    assert bulk.failure == "" and bulk.bandwidth > 1e6
    assert 0.0 < bulk.round_trip < 1.0
    # Other programs may have the processors for a while.
    alone = [measure(here, there, 0.1, meanwhile=False) for _ in range(4)]
    assert max(one.bandwidth for one in alone) > 20e6 and not any(one.round_trip for one in alone)


def test_those_who_are_served_get_their_answers(undisturbed, two_workers):
    for source, target in (two_workers, two_workers[::-1]):
        assert measure(source, target, 0.3).bandwidth > 0


def test_nobody_at_the_port(two_workers):
    here, there = two_workers
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for seconds in (0.0, 0.1):
        peer = pb.Peer(node="b", address=there.address, data_port=port)
        report = here.stub.ProbeLink(pb.LinkRequest(peer=peer, bulk_seconds=seconds), timeout=30)
        assert report == pb.LinkReport(failure="Connection refused")


def connect(worker):
    return contextlib.closing(socket.create_connection(("127.0.0.1", worker.data_port), timeout=20))


def refused(sock):
    with pytest.raises(Notice) as ended:
        read_message(sock)
    assert "\n" not in ended.value.reason
    return ended.value.status


def test_no_measuring_without_the_token(two_workers):
    with connect(two_workers[0]) as sock, pytest.raises(Notice) as ended:
        greet(sock, PROBE, "u" * 32)
    assert ended.value.status is Code.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (message(pack(("king", 1.0)), b""), Code.INVALID_ARGUMENT),
        (message(pack(("bulk", 3600.0)), b""), Code.INVALID_ARGUMENT),
        (message(pack_message(Ask("trip")), b"x" * MOST_BYTES), Code.RESOURCE_EXHAUSTED),
        (PREFIX.pack(2**32 - 1, 2**32 - 1), Code.RESOURCE_EXHAUSTED),
        (message(pack_message(Ask("bulk", 1.0)), b"") + PREFIX.pack(9, 2**32 - 1), Code.RESOURCE_EXHAUSTED),
    ],
)
def test_what_nobody_would_ask_ends_the_stream(undisturbed, processes, said, status):
    with connect(undisturbed[0]) as sock:
        greet(sock, PROBE, processes.TOKEN)
        sock.sendall(said)
        assert refused(sock) is status


def test_few_at_a_time_and_none_for_long(two_workers, processes):
    """Eight who say nothing keep a ninth out, but only until they are shown out."""
    worker = two_workers[0]
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            greet(stack.enter_context(connect(worker)), PROBE, processes.TOKEN)
        with pytest.raises(Notice) as ended:
            greet(stack.enter_context(connect(worker)), PROBE, processes.TOKEN)
        assert ended.value.status is Code.RESOURCE_EXHAUSTED
        begun = time.monotonic()
        assert processes.wait_for(lambda: not measure(*two_workers[::-1]).failure, 20)
        assert time.monotonic() - begun > 1.0


def test_a_bulk_that_trickles_is_over_in_seconds(two_workers, processes):
    """Whoever keeps a stream alive with a message now and then gets a report of that, and no more time."""
    with connect(two_workers[0]) as sock:
        greet(sock, PROBE, processes.TOKEN)
        begun = time.monotonic()
        sock.settimeout(0.5)
        ask = pack_message(Ask("bulk", 0.1))
        report = None
        while report is None and time.monotonic() < begun + 10:
            sock.sendall(message(ask, b"x" * 100))
            with contextlib.suppress(TimeoutError):
                report = read_report(read_message(sock)[0])
        assert report is not None and 20 < report.rate < 1000
