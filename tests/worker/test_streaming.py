"""Weights that come and go: the window, its thread, and what a disk sees of it under a memory limit."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.worker.pieces import Unit
from potluck.worker.streaming import Cycle, Streamer, StreamError

RING = Path(__file__).parents[2] / "bench" / "streamed_ring.py"
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def fill(cycle):
    """Bring in all that fits; what came, in order."""
    came = []
    while (wanted := cycle.wanted()) is not None:
        cycle.begun()
        came.append(wanted)
    return came


@given(SIZES, st.integers(1, 40), st.integers(1, 4))
def test_a_steady_cycle_reads_every_unit_once_a_step(sizes, budget, steps):
    cycle, read = Cycle(sizes, budget), []
    read += fill(cycle)
    for _ in range(steps):
        for index in range(len(sizes)):
            cycle.needed(index)
            read += fill(cycle)
            assert index in cycle.held
            cycle.done(index)
            cycle.released()
            read += fill(cycle)
    if cycle.all_fit:
        assert read == list(range(len(sizes)))
        return
    assert read == [number % len(sizes) for number in range(len(read))]
    assert steps * len(sizes) <= len(read) <= (steps + 1) * len(sizes)


@given(SIZES, st.integers(1, 40), st.lists(st.integers(0, 7), max_size=20))
def test_memory_stays_within_the_budget_whatever_is_asked_for(sizes, budget, asked):
    cycle = Cycle(sizes, budget)
    fill(cycle)
    for index in (number % len(sizes) for number in asked):
        cycle.needed(index)
        cycle.released()
        fill(cycle)
        held = [sizes[number] for number in cycle.held]
        assert len(held) <= 1 or sum(held) <= budget
        assert index in cycle.held
        assert len(set(cycle.held)) == len(cycle.held)
        cycle.done(index)


class Fake:
    """A unit that takes some time to read."""

    def __init__(self, number, log, seconds=0.0, error=None):
        self.unit, self.nbytes, self.log, self.seconds, self.error = Unit("layer", number), 10, log, seconds, error

    def bring_in(self, going, asked):
        self.log.append(("in", self.unit.layer))
        time.sleep(self.seconds)
        if self.error:
            raise self.error

    def drop(self):
        self.log.append(("out", self.unit.layer))


def test_the_next_units_come_while_one_is_used():
    log = []
    streamer = Streamer([Fake(number, log) for number in range(4)], 20)
    try:
        for _ in range(3):
            for number in range(4):
                with streamer.here(Unit("layer", number)):
                    # The one after it is there already, or on its way.
                    deadline = time.monotonic() + 5
                    while ("in", (number + 1) % 4) not in log[-3:] and time.monotonic() < deadline:
                        time.sleep(0.001)
                    assert log[-1] == ("in", (number + 1) % 4)
    finally:
        streamer.close()
    came = [number for what, number in log if what == "in"]
    assert came == [number % 4 for number in range(len(came))] and 13 <= len(came) <= 15


def test_a_unit_that_stays_is_not_waited_for():
    streamer = Streamer([Fake(0, [], seconds=0.2)], 10)
    with streamer.here(Unit("layer", 7)):
        pass
    assert streamer.stall_seconds == 0
    with streamer.here(Unit("layer", 0)):
        pass
    assert 0.05 < streamer.stall_seconds < 5
    streamer.close()


def test_one_unit_alone_is_read_again_for_every_step():
    log = []
    streamer = Streamer([Fake(0, log)], 9)
    for _ in range(4):
        with streamer.here(Unit("layer", 0)):
            assert log[-1] == ("in", 0)
    streamer.close()
    assert log.count(("in", 0)) >= 4


def test_steps_that_end_early_do_not_confuse_it():
    log = []
    streamer = Streamer([Fake(number, log) for number in range(5)], 30)
    for number in (0, 1, 0, 1, 2, 3, 4, 0, 3, 3, 2):
        with streamer.here(Unit("layer", number)):
            held = {index for what, index in log if what == "in"}
            assert number in held
    streamer.close()


def test_a_unit_that_cannot_be_read_is_an_error_not_a_wait():
    streamer = Streamer([Fake(0, []), Fake(1, [], error=OSError(5, "bad sector"))], 20)
    with streamer.here(Unit("layer", 0)):
        pass
    with pytest.raises(StreamError, match=r"layer-001 cannot be read: .*bad sector"), streamer.here(Unit("layer", 1)):
        pass
    streamer.close()


def test_closing_ends_whoever_waits():
    streamer = Streamer([Fake(0, [], seconds=0.5)], 10)
    seen = []

    def use():
        try:
            with streamer.here(Unit("layer", 0)):
                seen.append("computed")
        except StreamError as error:
            seen.append(str(error))

    user = threading.Thread(target=use)
    user.start()
    streamer.close()
    user.join(5)
    assert seen == ["layer-000 cannot be read: the shard was released"]


@pytest.fixture(scope="module")
def ring_folder(tmp_path_factory):
    """Six units of 33 MiB on a disk."""
    folder = tmp_path_factory.mktemp("ring")
    subprocess.run([sys.executable, RING, folder, "none", "build"], check=True)
    return folder


def ring(folder, memory_limit, mode):
    """Steps of the ring in 310 MiB: the process takes 140 of its own, two of the three windows 132, all three 198."""
    program = [sys.executable, str(RING), str(folder), mode]
    try:
        with memory_limit(f"ring_{mode}", 310 << 20) as enter:
            done = subprocess.run(program, preexec_fn=enter, capture_output=True, text=True, timeout=120, check=False)
    except OSError as error:
        pytest.skip(f"no memory control group can be made here ({error})")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.root
def test_under_a_memory_limit_every_byte_is_read_once_and_in_time(ring_folder, memory_limit):
    # The first step begins with what was brought in before it; the second is as good as any.
    for step in ring(ring_folder, memory_limit, "prefetch")[1:]:
        assert 0.9 <= step["read"] <= 1.1
        assert step["resident"] >= 0.95
        # The others' compute covers the loading.
        assert step["stall"] <= 0.1 * step["load"]
