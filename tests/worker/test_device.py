"""Which device a worker takes. No GPU is needed: what torch says of one is imitated."""

import sys

import pytest
import torch

from potluck.coordinator.calls import fleet_of
from potluck.coordinator.processes import WorkerError, WorkerLaunch, spawn_worker
from potluck.proto import cluster_pb2 as pb
from potluck.worker import probe
from potluck.worker.assignment import read_assignment
from potluck.worker.device import CPU, DeviceError, choose_device
from potluck.worker.operations import CPU as CPU_OPERATIONS
from potluck.worker.operations import operations_of

GPU = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of 24 GiB with 20 free; torch keeps one of the used ones for later."""
    gib = 1 << 30
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "RTX 3090")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 * gib, 24 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 3 * gib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * gib)
    monkeypatch.setitem(sys.modules, "triton", sys)
    return gib


def test_a_gpu_is_taken_unless_the_cpu_is_asked_for(gpu):
    assert [choose_device(wanted) for wanted in ("auto", "cuda", "cpu")] == [GPU, GPU, CPU]


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        ("gpu", "torch finds no GPU"),
        ("capability", "compute capability 7.5; 8.0"),
        ("triton", "Triton is not installed"),
    ],
)
def test_what_is_lacking_is_said_and_auto_takes_the_cpu(gpu, monkeypatch, lacking, reason):
    if lacking == "gpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    elif lacking == "capability":
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    else:
        monkeypatch.setitem(sys.modules, "triton", None)
    assert choose_device("auto") == CPU
    with pytest.raises(DeviceError, match=reason) as error:
        choose_device("cuda")
    assert "\n" not in str(error.value)


def test_without_a_gpu_triton_is_not_even_looked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("potluck.worker.device.import_module", lambda name: pytest.fail(f"imported {name}"))
    assert choose_device("auto") == CPU
    assert operations_of("cpu", 4) is CPU_OPERATIONS


def test_a_gpus_memory_and_name(gpu):
    assert probe.free_memory(None, GPU) == int(21 * gpu * 0.9)
    assert probe.free_memory(5, GPU) == 5
    assert probe.total_memory(GPU) == 24 * gpu
    assert probe.device_name(GPU, 8) == "RTX 3090"
    assert probe.device_name(CPU, 8) == "CPU, 8 threads"
    assert probe.native_dtype(GPU) == "bfloat16"


def test_a_plan_knows_the_device_that_was_measured():
    reply = pb.ProbeReply(device="cuda", device_name="RTX 3090", flops=1e13, memory_bandwidth=9e11, memory_free=1 << 34)
    device = fleet_of({"attic": reply, "cellar": reply}, {}, "cellar").node("attic").device
    assert (device.kind, device.name, device.memory) == ("cuda", "RTX 3090", 1 << 34)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_assignment_is_read_for_the_nodes_device(processes, served, monkeypatch, device):
    # Nothing is allocated on the device that is not there: only the configuration is of interest.
    monkeypatch.setattr("potluck.worker.assignment.Shard", lambda *_: None)
    window = pb.Window(stage=0, embedding=True, first_layer=0, end_layer=len(served.spec.layers), head=True)
    config = read_assignment(served.assignment(1, [window], []), "a", torch.device(device)).config
    assert (config.device.type, config.kernels) == (device, "gpu" if device == "cuda" else "cpu")
    assert not (config.form.packed and device == "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_worker_that_must_have_a_gpu_ends_with_one_line(tmp_path):
    log = tmp_path / "attic.log"
    with pytest.raises(WorkerError, match=r"exit code 2.*torch finds no GPU"):
        spawn_worker(WorkerLaunch("attic", str(tmp_path), device="cuda", log=str(log)), "t" * 32)
    assert len(log.read_text().splitlines()) == 1
