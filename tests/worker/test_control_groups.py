"""Limits of control groups, of both versions, however deep a process sits and whatever of them it sees."""

import os

import pytest

from potluck.worker import capacity
from potluck.worker.capacity import Swap
from potluck.worker.control_groups import Limits, read_limits

GIB = 1 << 30
NO_LIMIT = "9223372036854771712"


@pytest.fixture
def groups(tmp_path):
    """groups(membership, {path: text}) -> the limits read from such folders."""

    def read(membership, files):
        for path, text in files.items():
            file = tmp_path / "cgroup" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
        (tmp_path / "self").write_text(membership)
        return read_limits(tmp_path / "cgroup", tmp_path / "self")

    return read


def test_without_any(groups, tmp_path):
    assert groups("0::/\n", {"cgroup.procs": ""}) == Limits()
    assert read_limits(tmp_path / "nothing", tmp_path / "nowhere") == Limits()


def test_version_2_takes_the_least_of_all_groups_above(groups):
    limits = groups(
        "0::/user/app\n",
        {
            "user/app/memory.max": "max",
            "user/app/memory.current": GIB,
            "user/app/memory.swap.max": GIB,
            "user/app/memory.swap.current": GIB // 4,
            "user/app/cpu.max": "max 100000",
            "user/memory.max": 4 * GIB,
            "user/memory.current": 3 * GIB,
            "user/memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file 7",
            "user/cpu.max": "150000 100000",
            "memory.max": 8 * GIB,
            "memory.current": 7 * GIB,
        },
    )
    # What the system may take back is left: of the group above 2 GiB, at the root 1.
    assert limits == Limits(4 * GIB, GIB, GIB, 3 * GIB // 4, 1.5)


@pytest.mark.parametrize("path", ["/docker/0123", "/../outside"])
def test_version_1_in_a_container_whose_path_is_the_hosts(groups, path):
    limits = groups(
        f"5:cpu,cpuacct:{path}\n4:memory:{path}\n1:name=systemd:{path}\n0::/\n",
        {
            "memory/memory.limit_in_bytes": 2 * GIB,
            "memory/memory.usage_in_bytes": GIB,
            "memory/memory.stat": f"total_inactive_file {GIB // 2}",
            "cpu/cpu.cfs_quota_us": 50000,
            "cpu/cpu.cfs_period_us": 100000,
        },
    )
    assert limits == Limits(2 * GIB, 3 * GIB // 2, None, None, 0.5)


def test_version_1_without_limits(groups):
    limits = groups(
        "4:memory:/\n3:cpu:/\n",
        {
            "memory/memory.limit_in_bytes": NO_LIMIT,
            "memory/memory.usage_in_bytes": GIB,
            "cpu/cpu.cfs_quota_us": -1,
            "cpu/cpu.cfs_period_us": 100000,
        },
    )
    assert limits == Limits()


def test_both_versions_at_once(groups):
    limits = groups(
        "4:memory:/a\n0::/b\n",
        {
            "memory/a/memory.limit_in_bytes": 3 * GIB,
            "memory/a/memory.usage_in_bytes": GIB,
            "unified/b/cpu.max": "200000 100000",
        },
    )
    assert limits == Limits(3 * GIB, 2 * GIB, None, None, 2.0)


@pytest.mark.parametrize("text", ["", "much", "-5", "1 2 3"])
def test_what_makes_no_sense_is_no_limit(groups, text):
    assert groups("0::/\n", {"memory.max": text, "memory.current": 5, "cpu.max": text}) == Limits()


def test_a_group_that_uses_more_than_it_may_has_nothing_left(groups):
    assert groups("0::/\n", {"memory.max": GIB, "memory.current": 2 * GIB}).memory_left == 0


def test_what_a_machine_has_is_what_its_groups_allow(monkeypatch):
    monkeypatch.setattr(capacity, "read_limits", lambda: Limits(3, 1000, 2, 1, 0.5))
    assert capacity.host_memory_free() == 800 and capacity.host_memory_total() == 3
    assert capacity.usable_cores() == 0.5 and capacity.default_threads() == 1
    monkeypatch.setattr(capacity.psutil, "swap_memory", lambda: Swap(GIB, GIB))
    assert capacity.swap_space() == (2, 1)
    monkeypatch.setattr(capacity, "read_limits", Limits)
    assert capacity.swap_space() == (GIB, GIB)
    assert GIB // 8 < capacity.host_memory_free() < capacity.host_memory_total()
    assert 1 <= capacity.default_threads() <= capacity.usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_processors_that_are_not_for_this_process_do_not_count():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert capacity.usable_cores() <= 1 and capacity.default_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)
