"""What nodes measured is used again by the next command, for as long as they are the same; free memory is read anew."""

from contextlib import ExitStack

import pytest

from potluck.deploy import measured
from potluck.deploy.prepare import Where
from potluck.worker.hardware import hardware_fingerprint, node_fingerprint


class Fabric:
    """Workers that are there already; the time to start them is not what is tested."""

    def __init__(self, probed_workers):
        self._probed = probed_workers
        self.workers = [probed_workers.ProbedWorker("here", node_fingerprint("auto", 0))]
        self.started = 0
        self._stack = ExitStack()

    def start(self, token):
        self.started += 1
        return self._stack.enter_context(self._probed.listening(*self.workers))

    def stop(self):
        self._stack.close()

    def exits(self):
        return {}


@pytest.fixture
def fabric(probed_workers, monkeypatch):
    fabric = Fabric(probed_workers)
    monkeypatch.setattr(measured, "fabric_of", lambda where, emulated: fabric)
    return fabric


def fleet(cache, dtype="float32", address=None, threads=0, anew=False):
    where = Where(None, address, True, cache, threads=threads)
    return measured.measured_fleet(where, dtype, anew)


def test_this_machine_is_measured_once_and_anew_when_asked(fabric, tmp_path):
    speeds = [fleet(tmp_path, anew=anew).fleet.nodes[0].device.flops for anew in (False, False, True, False)]
    assert speeds == [1e9, 1e9, 2e9, 2e9]
    # What is known of this machine takes no worker.
    assert fabric.started == 2
    assert 0 < fleet(tmp_path).age < 60
    assert list(tmp_path.iterdir()) == [tmp_path / "measured.json"]


def test_memory_is_what_is_free_now(fabric, tmp_path, monkeypatch):
    assert fleet(tmp_path).fleet.nodes[0].device.memory == 1 << 30
    monkeypatch.setattr(measured, "host_memory_free", lambda: 12345)
    (node,) = fleet(tmp_path).fleet.nodes
    assert (node.name, node.device.memory, node.device.flops) == ("here", 12345, 1e9)
    assert node.device.memory_total > 12345 and node.cores > 0 and fabric.started == 1


@pytest.mark.parametrize("other", [{"dtype": "bfloat16"}, {"threads": 1}])
def test_what_would_measure_something_else_is_not_told_what_is_kept(fabric, tmp_path, other):
    fleet(tmp_path)
    fabric.workers[0].fingerprint = node_fingerprint("auto", other.get("threads", 0))
    assert fleet(tmp_path, **other).fleet.nodes[0].device.flops == 2e9


def test_a_cluster_is_asked_whether_it_is_still_the_same(fabric, probed_workers, tmp_path):
    fabric.workers.append(probed_workers.ProbedWorker("attic", "an old laptop"))
    here, attic = fabric.workers
    address = "10.0.0.1:6379"
    assert [fleet(tmp_path, address=address).age < 1 for _ in range(2)] == [True, True]
    assert (fabric.started, here.measured, attic.measured) == (2, 1, 1)
    attic.fingerprint, attic.free = "an old laptop with more memory", 1 << 31
    found = fleet(tmp_path, address=address).fleet
    assert [node.device.flops for node in found.nodes] == [1e9, 2e9] and found.nodes[1].device.memory == 1 << 31
    assert (here.measured, attic.measured) == (1, 2)


@pytest.mark.parametrize("damage", ["no JSON", "[]", "{}"])
def test_a_damaged_file_is_measured_again(fabric, tmp_path, damage):
    fleet(tmp_path)
    (tmp_path / "measured.json").write_text(damage)
    assert fleet(tmp_path).fleet.nodes[0].device.flops == 2e9


def test_a_gpus_free_memory_is_asked_of_a_worker(fabric, tmp_path):
    fleet(tmp_path)
    file = tmp_path / "measured.json"
    file.write_text(file.read_text().replace('"cpu"', '"cuda"'))
    assert fleet(tmp_path).fleet.nodes[0].device.flops == 1e9
    assert (fabric.started, fabric.workers[0].measured) == (2, 1)


def test_the_fingerprint_is_one_line_and_stays():
    assert hardware_fingerprint() == hardware_fingerprint()
    assert "torch" in hardware_fingerprint() and "\n" not in hardware_fingerprint()
    told = [node_fingerprint("auto", 0), node_fingerprint("cpu", 0), node_fingerprint("auto", 2)]
    assert len({*told, node_fingerprint("auto", 0, "a NAS")}) == 4
