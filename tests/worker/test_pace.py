"""The clock of a described node: how long parts take, whatever this machine needs for them."""

import time

import pytest
import torch

from potluck.worker.operations import CPU
from potluck.worker.pace import Pace, Target, at_least, counting

# Sleeping is exact to some 0.1 ms on a machine that has nothing else to do; this one may be busy.
SLACK = 0.02


def burn(seconds):
    """Use the processor for this long."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def timed(pace, targets, body):
    begun = time.perf_counter()
    with pace.window(lambda: targets):
        body()
    return time.perf_counter() - begun


def test_computing_hides_in_the_target():
    pace = Pace()
    assert 0.05 <= timed(pace, [Target(0.02), Target(0.03)], lambda: burn(0.01)) < 0.05 + SLACK
    assert pace.behind < SLACK


def test_waiting_for_a_core_hides_in_it_too():
    assert 0.05 <= timed(Pace(), [Target(0.05)], lambda: time.sleep(0.03)) < 0.05 + SLACK


def test_who_needs_longer_is_behind():
    pace = Pace()
    timed(pace, [Target(0.005)], lambda: burn(0.02))
    # Of 15 ms, one may count as overslept.
    assert pace.behind >= 0.0139


def test_what_was_slept_too_long_is_made_good():
    pace, windows = Pace(), 200
    begun = time.perf_counter()
    for _ in range(windows):
        timed(pace, [Target(0.0005)], lambda: None)
    taken = time.perf_counter() - begun
    assert 0.0005 * windows * 0.99 <= taken < 0.0005 * windows * 1.2 + SLACK


def test_what_is_aside_begins_when_parts_are_due_and_is_not_scaled():
    pace, moments = Pace(), []
    begun = time.perf_counter()
    with pace.window(lambda: [Target(0.02), Target(0.01)]):
        pace.done()
        with pace.aside():
            moments.append(time.perf_counter() - begun)
            time.sleep(0.03)
    assert 0.0199 <= moments[0] < 0.02 + SLACK
    assert 0.0599 <= time.perf_counter() - begun < 0.06 + 2 * SLACK


def test_pieces_are_due_as_their_products_are():
    pace, moments = Pace(), []
    begun = time.perf_counter()
    with pace.window(lambda: [Target(0.04, last=0.5), Target(0.01)]):
        for left in (0.75, 0.5, 0.0):
            with pace.apart(left):
                moments.append(time.perf_counter() - begun)
    moments.append(time.perf_counter() - begun)
    for moment, wanted in zip(moments, (0.025, 0.03, 0.04, 0.05), strict=True):
        assert wanted - 1e-3 <= moment < wanted + SLACK


def test_a_window_whose_parts_were_all_counted_is_waited_for():
    pace = Pace()
    assert timed(pace, [Target(0.02), Target(0.02)], lambda: (pace.done(), pace.done())) >= 0.0399


def test_members_go_by_the_clock_of_the_described_node():
    pace, latency = Pace(), 0.01
    begun = time.monotonic()
    with pace.window(lambda: [Target(0.01)] * 4):
        for part in range(4):
            time.sleep(0.035 if part == 1 else 0.0)
            with pace.apart():
                pace.wait_until(pace.now() + latency)
    # The second part was 25 ms late; what followed made it good.
    assert 0.08 <= time.monotonic() - begun + 1e-4 < 0.08 + SLACK
    assert pace.behind < SLACK


def test_more_parts_than_targets_cost_nothing():
    pace = Pace()
    with pace.window(lambda: [Target(0.001)]):
        for _ in range(3):
            pace.done()
    assert timed(pace, [], lambda: None) < SLACK


def test_a_node_alone_counts_its_parts_without_waiting():
    pace = Pace()
    operations = counting(CPU, pace)
    begun = time.perf_counter()
    with pace.window(lambda: [Target(0.02), Target(0.02)]):
        part = torch.ones(2, 3)
        assert operations.sum(part) is part
        assert operations.summed(lambda x: x + 1, part).equal(part + 1)
        assert time.perf_counter() - begun < 0.02
        with pace.aside():
            assert time.perf_counter() - begun >= 0.0399


def test_one_operation():
    begun = time.perf_counter()
    with at_least(0.02):
        pass
    assert time.perf_counter() - begun >= 0.02
    with pytest.raises(KeyError), at_least(5.0):
        raise KeyError
    assert time.perf_counter() - begun < 1.0
