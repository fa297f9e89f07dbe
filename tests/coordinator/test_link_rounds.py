"""Which links are measured when, and what becomes of the numbers."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.link_rounds import (
    Direction,
    Trip,
    alone_seconds,
    both_ways,
    links,
    rounds,
    together_seconds,
)
from potluck.planner.fleet import Link


@pytest.mark.parametrize("count", range(12))
def test_every_two_meet_once_and_nobody_twice_in_a_round(count):
    nodes = [f"n{number}" for number in range(count)]
    found = rounds(nodes)
    assert len(found) == max(0, count - 1 + count % 2 - (count == 1))
    for pairs in found:
        met = [node for pair in pairs for node in pair]
        assert len(set(met)) == len(met) >= 2 * (count // 2)
    everybody = [frozenset(pair) for pairs in found for pair in pairs]
    assert sorted(map(sorted, everybody)) == [list(pair) for pair in itertools.combinations(sorted(nodes), 2)]


def test_both_ways():
    assert both_ways([("a", "b"), ("c", "d")]) == [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]


def test_eight_nodes_are_done_in_time():
    """Round trips take 0.4 s a round; the rest of 20 s is for opening sockets."""
    assert 7 * 0.4 + 56 * alone_seconds(8) + 7 * together_seconds(8) < 15
    assert alone_seconds(2) == together_seconds(2) == 0.3
    assert alone_seconds(1000) == together_seconds(1000) == 0.05


SECONDS = st.floats(0, 10)
RATES = st.floats(1e4, 1e12)


def trip(there, back, nbytes):
    """What a round trip takes over two directions that are equally far."""
    return Trip(2 * there.latency + nbytes / there.bandwidth + nbytes / back.bandwidth, nbytes)


@given(SECONDS, RATES, RATES, st.integers(0, 1 << 20))
def test_a_frame_of_the_measured_size_takes_what_it_took(latency, rate, other, nbytes):
    there, back = Link(latency, rate), Link(latency, other)
    found = links(
        {
            ("a", "b"): Direction(trip(there, back, nbytes), rate, Trip(0.0, 0), 0.0),
            ("b", "a"): Direction(trip(back, there, nbytes), other, Trip(0.0, 0), 0.0),
        }
    )
    assert found["a", "b"].latency == pytest.approx(latency, rel=1e-6, abs=1e-9)
    assert found["b", "a"].latency == pytest.approx(latency, rel=1e-6, abs=1e-9)
    assert [found["a", "b"].bandwidth, found["b", "a"].bandwidth] == [rate, other]
    assert found["a", "b"].loaded is None


def test_what_is_measured_under_load_stands_beside():
    there = Direction(Trip(0.002, 0), 1e6, Trip(0.5 + 0.002, 1000), 5e5)
    back = Direction(Trip(0.004, 0), 1e6, Trip(0.25 + 0.002, 1000), 1e6)
    found = links({("a", "b"): there, ("b", "a"): back})
    assert found["a", "b"] == Link(0.0015, 1e6, Link(0.25, 5e5))
    assert found["b", "a"] == Link(0.0015, 1e6, Link(0.125, 1e6))


def test_a_trip_that_bandwidth_alone_explains_is_no_journey_into_the_past():
    fast = Direction(Trip(1e-9, 8192), 1e6, Trip(1e-9, 8192), 1e6)
    assert links({("a", "b"): fast, ("b", "a"): fast})["a", "b"].latency == 0.0
