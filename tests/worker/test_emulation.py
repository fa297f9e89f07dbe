"""Emulated nodes: slower by the described factor, as far away as described, with as much memory as described."""

import time

import grpc
import pytest

from potluck.proto import cluster_pb2 as pb
from potluck.proto.shaper import Shape
from potluck.proto.step import Outputs, Run, Sampling
from potluck.worker.emulation import Emulation, Slowness, read_emulation

PROMPT = [5, 9, 17, 33, 2, 8]


def burn(seconds):
    """Use the processor for this long."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_reading():
    emulation = read_emulation('{"slow_down": 2.5, "links": {"b": [0.01, 1000], "": [0.02, 0]}}')
    assert emulation == Emulation(2.5, {"b": Shape(0.01, 1000.0), "": Shape(0.02, 0.0)})
    assert [emulation.link("b"), emulation.link("z")] == [Shape(0.01, 1000.0), Shape(0.02, 0.0)]
    assert Emulation().link("b").is_off


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        '{"slow_down": "x"}',
        '{"slow_down": 0.9}',
        '{"slow_down": NaN}',
        '{"slow_down": Infinity}',
        '{"links": 3}',
        '{"links": {"b": [1]}}',
        '{"links": {"b": {}}}',
        '{"links": {"b": [-1, 0]}}',
    ],
)
def test_what_is_no_emulation(text):
    with pytest.raises(ValueError, match=r"\w"):
        read_emulation(text)


@pytest.mark.parametrize(("slow_down", "each"), [(3.0, 0.02), (2.0, 0.0005)])
def test_padding_follows_the_processor_time(slow_down, each):
    slowness, count = Slowness(slow_down), round(0.1 / each)
    begun, padded = time.thread_time(), 0.0
    for _ in range(count):
        start, used = time.perf_counter(), time.thread_time()
        with slowness.around():
            burn(each)
        # What was slept: time in which this thread neither ran nor, as far as it can tell, waited for a core.
        padded += time.perf_counter() - start - (time.thread_time() - used)
    used = time.thread_time() - begun
    assert padded >= 0.95 * (slow_down - 1) * used * 0.9


def test_no_padding_without_slowness():
    slowness = Slowness(1.0)
    used = time.thread_time()
    with slowness.around():
        burn(0.001)
    assert slowness._owed == 0.0
    assert time.thread_time() > used


def test_links_are_as_slow_as_described(processes, served, tmp_path):
    links = {"links": {"b": [0.05, 100_000]}}
    far = processes.Worker("a", tmp_path, emulate=links)
    with processes.running(far, processes.Worker("b", tmp_path)) as (first, second):
        for worker, assignment in zip((first, second), served.halves(1, first, second), strict=True):
            worker.load(assignment)
        with processes.client(1, first, second) as client:
            client.generate(PROMPT, 1)
            begun = time.monotonic()
            client.send([Run(2, 0, [3] * 60, [0, 1, 2, 3], Outputs.LAST, Sampling())])
            client.get()
            taken = time.monotonic() - begun
        payload = 60 * served.spec.hidden * 4
        assert 0.05 + payload / 100_000 <= taken
        peer = pb.Peer(node="b", address=second.address, data_port=second.data_port)
        assert first.stub.ProbeLink(pb.LinkRequest(peer=peer), timeout=60).round_trip >= 0.05 + 8192 / 100_000
        rate = first.stub.ProbeLink(pb.LinkRequest(peer=peer, bulk_seconds=0.1), timeout=60).bandwidth
        assert rate == pytest.approx(100_000, rel=0.1)


def test_a_share_beyond_the_budget_is_refused_with_numbers(processes, served, tmp_path):
    with processes.running(processes.Worker("a", tmp_path, memory=20 << 20)) as (worker,):
        code, detail = processes.refusal(lambda: worker.load(served.whole(1, worker, kv_blocks=100_000)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "this node has 20 MiB left" in detail and "needs 3126 MiB" in detail
        assert worker.load(served.whole(1, worker))[-1].ready
        # The epoch that is held counts.
        code, detail = processes.refusal(lambda: worker.load(served.whole(2, worker, kv_blocks=2300)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, detail
        assert worker.stub.Probe(pb.ProbeRequest(), timeout=60).memory_free == 20 << 20
        with processes.client(1, worker) as client:
            assert len(client.generate(PROMPT, 3)) == 3


def test_the_kernel_refuses_what_the_reckoning_missed(processes, served, tmp_path):
    import resource

    with processes.running(processes.Worker("a", tmp_path, memory=1 << 30)) as (worker,):
        worker.status()
        soft, hard = resource.prlimit(worker.pid, resource.RLIMIT_DATA)
        assert 1 << 30 < soft < 3 << 30
        # Less than what the budget would allow, as if the process had grown otherwise.
        resource.prlimit(worker.pid, resource.RLIMIT_DATA, (soft - (1 << 30) - (600 << 20), hard))
        code, detail = processes.refusal(lambda: worker.load(served.whole(1, worker, kv_blocks=20_000)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "out of memory" in detail and "\n" not in detail
        resource.prlimit(worker.pid, resource.RLIMIT_DATA, (soft, hard))
        assert worker.load(served.whole(1, worker))[-1].ready
