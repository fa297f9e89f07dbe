"""What nodes measured is kept while their hardware is the same; who has to be asked anew, and in which order."""

import json
import time

import pytest

from potluck.coordinator.calls import CallError, Callers
from potluck.coordinator.measured_fleet import fleet_of
from potluck.coordinator.measurements import Measurements, Question
from potluck.coordinator.node_probes import probe_nodes
from potluck.models.costs import FormatSpeed
from potluck.proto import cluster_pb2 as pb

DAY = 24 * 3600


@pytest.fixture
def kept(tmp_path):
    return Measurements(tmp_path / "cache" / "measured.json")


def asked(probed_workers, workers, kept, dtype="float32", **options):
    """What the workers answer to one who begins anew, as a new command does."""
    with probed_workers.listening(*workers) as found:
        callers = Callers(found, probed_workers.TOKEN)
        try:
            return probe_nodes(callers, Question(dtype, kept, **options))
        finally:
            callers.close()


def test_a_known_node_measures_nothing_and_tells_what_changed(probed_workers, kept):
    worker = probed_workers.ProbedWorker("a")
    first = asked(probed_workers, [worker], kept)["a"]
    worker.free = 5
    again = asked(probed_workers, [worker], kept)["a"]
    assert worker.measured == 1 and worker.asked[1].known == "a machine"
    assert (again.flops, again.memory_bandwidth, list(again.formats)) == (1e9, 1e10, list(first.formats))
    assert (first.memory_free, again.memory_free, again.unchanged) == (1 << 30, 5, False)
    # What the node does not have any more is not what it had then.
    assert (first.swap_free, again.swap_free) == (77, 0)


@pytest.mark.parametrize("change", ["hardware", "dtype", "anew", "forgotten", "all forgotten", "old", "future"])
def test_what_may_have_changed_is_measured_anew(probed_workers, kept, change):
    worker, other = probed_workers.ProbedWorker("a"), probed_workers.ProbedWorker("b", "another machine")
    asked(probed_workers, [worker, other], kept)
    if change == "hardware":
        worker.fingerprint = "a machine with more memory"
    if change in ("forgotten", "all forgotten"):
        kept.forget(*(["a"] if change == "forgotten" else []))
    if change in ("old", "future"):
        age = 31 * DAY if change == "old" else -DAY
        edit(kept, lambda entry: entry | ({"measured_at": time.time() - age} if entry["node"] == "a" else {}))
    dtype = "bfloat16" if change == "dtype" else "float32"
    reply = asked(probed_workers, [worker, other], kept, dtype, anew=change == "anew")["a"]
    assert reply.flops == 2e9 == kept.known("a", dtype).reply.flops
    assert other.measured == (2 if change in ("dtype", "anew", "all forgotten") else 1)


def edit(kept, change):
    data = json.loads(kept._file.read_text())
    data["nodes"] = [change(entry) for entry in data["nodes"]]
    kept._file.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        "{}",
        '{"version": 2, "nodes": []}',
        '{"version": 1, "nodes": [3]}',
        '{"version": 1, "nodes": [{"node": "a", "dtype": "float32", "measured_at": "today", "measured": {}}]}',
        '{"version": 1, "nodes": [{"node": "a", "dtype": "float32", "measured_at": 9e9, "measured": {"flops": []}}]}',
    ],
)
def test_a_damaged_file_keeps_nothing_and_is_written_anew(probed_workers, kept, text):
    kept._file.parent.mkdir()
    kept._file.write_text(text)
    assert kept.known("a", "float32") is None
    asked(probed_workers, [probed_workers.ProbedWorker("a")], kept)
    assert kept.known("a", "float32").age < 60


def test_a_speed_of_nothing_is_none(probed_workers, kept):
    asked(probed_workers, [probed_workers.ProbedWorker("a")], kept)
    edit(kept, lambda entry: entry | {"measured": entry["measured"] | {"flops": 0}})
    assert kept.known("a", "float32") is None


def test_what_cannot_be_kept_is_told_all_the_same(probed_workers, tmp_path):
    (tmp_path / "file").write_text("")
    nowhere = Measurements(tmp_path / "file" / "measured.json")
    assert asked(probed_workers, [probed_workers.ProbedWorker("a")], nowhere)["a"].flops == 1e9


def test_quantized_is_measured_with_bfloat16_and_weight_only_is_not(probed_workers, kept):
    worker = probed_workers.ProbedWorker("a")
    for dtype in ("quantized", "bfloat16", "quantized"):
        assert asked(probed_workers, [worker], kept, dtype)["a"].flops == 1e9
    assert kept.of_hardware("a machine", "quantized").node == "a" and kept.age(["a"], "quantized") > 0
    assert asked(probed_workers, [worker], kept, "weight-only")["a"].flops == 2e9
    assert kept.known("a", "bfloat16").reply.flops == 1e9


def test_the_age_is_that_of_the_oldest(probed_workers, kept):
    workers = [probed_workers.ProbedWorker(name) for name in "ab"]
    asked(probed_workers, workers, kept)
    edit(kept, lambda entry: entry | ({"measured_at": time.time() - DAY} if entry["node"] == "b" else {}))
    assert kept.age(["a"], "float32") < 60 < DAY - 60 < kept.age(["a", "b"], "float32") < DAY + 60
    assert kept.age(["a", "b"], "bfloat16") == 0


def test_hosts_measure_at_once_and_workers_of_one_host_in_turn(probed_workers, kept):
    a, b, c = (probed_workers.ProbedWorker(name, seconds=0.4) for name in "abc")
    with probed_workers.listening(a, b, c, hosts=["127.0.0.1", "127.0.0.2", "127.0.0.1"]) as found:
        callers = Callers(found, probed_workers.TOKEN)
        replies = probe_nodes(callers, Question("float32"))
        callers.close()
    assert list(replies) == ["a", "b", "c"]
    (first,), (beside,), (second,) = a.spans, b.spans, c.spans
    assert beside[0] < first[1] and first[0] < beside[1], "other hosts need not wait"
    assert first[1] <= second[0] or second[1] <= first[0], "workers of one host would measure each other"


def test_a_node_that_cannot_measure_is_named_and_nothing_is_kept_of_it(probed_workers, kept):
    workers = [probed_workers.ProbedWorker("a"), probed_workers.ProbedWorker("b", refusal="out of memory")]
    with pytest.raises(CallError, match=r"^node 'b': out of memory$"):
        asked(probed_workers, workers, kept)
    assert kept.known("b", "float32") is None


def test_the_fleet_has_all_that_was_measured():
    reply = pb.ProbeReply(
        **{"device": "cpu", "device_name": "CPU", "flops": 123456e6, "memory_bandwidth": 2e10, "memory_free": 5},
        **{"memory_total": 9, "disk_bandwidth": 1e9, "disk_random": 3e8, "cores": 1.5, "swap_total": 7, "swap_free": 4},
        **{"layer_overhead": 1.23456e-5, "copy_bandwidth": 2e10},
        formats=[pb.FormatSpeed(format="Q4_0", flops=2e9, bandwidth=3e9)],
    )
    (node,) = fleet_of({"a": reply}, {}, "a").nodes
    device = node.device
    assert (device.flops, device.memory_bandwidth, device.layer_overhead) == (123.5e9, 2e10, 1.235e-5)
    assert (device.memory, device.memory_total, device.copy_bandwidth) == (5, 9, 2e10)
    assert device.formats == {"Q4_0": FormatSpeed(2e9, 3e9)}
    assert (node.disk_bandwidth, node.disk_random, node.cores) == (1e9, 3e8, 1.5)
    assert (node.swap, node.swap_free) == (7, 4)
