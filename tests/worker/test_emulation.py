"""Emulated workers behave as described, in compute, disk and links, and are measured as they are described."""

import statistics
import time

import grpc
import pytest

from potluck.kernels import packed
from potluck.models.costs import FormatSpeed
from potluck.models.sizes import weight_bytes
from potluck.proto import cluster_pb2 as pb
from potluck.proto.shaper import Shape
from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker import probe
from potluck.worker.described import Described
from potluck.worker.emulation import DescribedDevice, Emulation, read_emulation
from potluck.worker.kernel_speed import in_turn
from potluck.worker.windows import Window, parts_of

PROMPT = [5, 9, 17, 33, 2, 8]
# So slow that a core shared with others computes the tiny model in time: some 40 ms for a token, 200 for the prompt.
SLOW = {"flops": 2e7, "memory_bandwidth": 2e7}
DEVICE = DescribedDevice(**SLOW)


def test_reading():
    text = (
        '{"device": {"flops": 2e9, "memory_bandwidth": 1e9, "formats": {"Q4_0": {"flops": 3e9, "bandwidth": 5e8}}}, '
        '"links": {"b": [0.01, 1000], "": [0.02, 0]}, "disk": 1e6}'
    )
    emulation, device = read_emulation(text), DescribedDevice(2e9, 1e9, {"Q4_0": FormatSpeed(3e9, 5e8)})
    assert emulation == Emulation(device, {"b": Shape(0.01, 1000.0), "": Shape(0.02, 0.0)}, 1e6)
    assert [emulation.link("b"), emulation.link("z")] == [Shape(0.01, 1000.0), Shape(0.02, 0.0)]
    assert Emulation().link("b").is_off
    assert (device.seconds(4e9, 1e9), device.seconds(1e9, 3e9), device.seconds(0, 1e9, "Q4_0")) == (2.0, 3.0, 2.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        '{"slow_down": 2.0}',
        '{"device": {"flops": "x", "memory_bandwidth": 1}}',
        '{"device": {"flops": 1e9}}',
        '{"device": {"flops": 0, "memory_bandwidth": 1}}',
        '{"device": {"flops": 1e400, "memory_bandwidth": 1}}',
        '{"device": {"flops": 1, "memory_bandwidth": 1, "formats": {"Q4_0": {"flops": 1, "bandwidth": -1}}}}',
        '{"disk": -1}',
        '{"links": 3}',
        '{"links": {"b": [1]}}',
        '{"links": {"b": {}}}',
        '{"links": {"b": [-1, 0]}}',
    ],
)
def test_what_is_no_emulation(text):
    with pytest.raises(ValueError, match="--emulate"):
        read_emulation(text)


def computed(client, count, prompt=PROMPT):
    """The stage times of a prompt's step and of some that decode, by stage: [seconds of each step]."""
    position, new, steps = 0, list(prompt), []
    for _ in range(count):
        sampling = Sampling(temperature=0.0) if position == 0 else None
        run = Run(1, position, new, [0, 1] if position == 0 else [], Outputs.LAST, sampling)
        client.send([run])
        result = client.get()
        steps.append((run, result.times))
        position, new = position + len(new), [result.outcomes[0].token]
    return steps


def check(steps, described, slack=0.15):
    """Every stage took what the described node needs: the median of the steps that decode, and at least in each."""
    ratios = {}
    for run, times in steps:
        for time_ in times:
            wanted = sum(target.seconds for target in described[time_.node].targets(time_.stage, Step(1, [run])))
            ratios.setdefault((time_.node, time_.stage), []).append(time_.compute / wanted)
    for found in ratios.values():
        assert min(found) > 0.9 and statistics.median(found) < 1 + slack, ratios


def test_a_pipelines_nodes_take_what_is_described(processes, served, tmp_path):
    spec, faster = served.spec, DescribedDevice(8e7, 4e7)
    fast = {"flops": 8e7, "memory_bandwidth": 4e7}
    workers = (
        processes.Worker("a", tmp_path, emulate={"device": SLOW}),
        processes.Worker("b", tmp_path, emulate={"device": fast}),
    )
    middle, end = len(spec.layers) // 2, len(spec.layers)
    with processes.running(*workers) as (first, second):
        for worker, assignment in zip(workers, served.halves(1, first, second), strict=True):
            worker.load(assignment)
        with processes.client(1, first, second) as client:
            steps = computed(client, 6)
        assert all(worker.status().behind_seconds < 0.05 for worker in workers)
    described = {
        "a": Described(spec, [Window(0, True, range(middle), False)], (DEVICE, "float32")),
        "b": Described(spec, [Window(1, False, range(middle, end), True)], (faster, "float32")),
    }
    check(steps, described)


def test_a_groups_members_take_what_is_described(processes, members, tiny_model, tmp_path):
    model = processes.Model(tiny_model("llama2", 4, num_attention_heads=8, num_key_value_heads=8))
    spec, cuts = (
        model.spec,
        members.cuts(model.spec, (6,), (model.spec.ffn * 3 // 4 // 16 * 16,), (model.spec.vocab // 2 // 16 * 16,)),
    )
    # The lead has three quarters of the work and half the speed: it is waited for.
    quick = {"flops": 4e7, "memory_bandwidth": 4e7}
    workers = (
        processes.Worker("a", tmp_path, emulate={"device": SLOW}),
        processes.Worker("b", tmp_path, emulate={"device": quick}),
    )
    with processes.running(*workers):
        for worker, assignment in zip(workers, model.grouped(1, workers, cuts), strict=True):
            worker.load(assignment)
        with processes.client(1, *workers, entries=2) as client:
            steps = computed(client, 6)
        figures = [worker.status() for worker in workers]
    window = Window(0, True, range(len(spec.layers)), True, cut=cuts[0])
    check(steps, {"a": Described(spec, [window], (DEVICE, "float32"))})
    assert figures[1].sum_seconds > 0.4 * figures[1].compute_seconds, "the quick member waits in sums"


def test_streamed_layers_come_as_fast_as_the_described_disk(processes, tiny_model, tmp_path):
    model = processes.Model(tiny_model("qwen3"))
    spec = model.spec
    layer = weight_bytes(spec, list(parts_of([Window(0, False, range(1), False)])), "float32")
    emulate = {"device": {"flops": 1e10, "memory_bandwidth": 1e9}, "disk": layer / 0.05}
    with processes.running(processes.Worker("a", tmp_path, emulate=emulate)) as (worker,):
        window = pb.Window(stage=0, embedding=True, end_layer=len(spec.layers), head=True, streamed=True)
        worker.load(model.assignment(1, [window], [worker], stream_bytes=round(2.2 * layer)))
        with processes.client(1, worker) as client:
            times = [times[0].compute for _, times in computed(client, 6)[1:]]
        read = worker.status().streamed_bytes
    assert 6 <= read / (layer * len(spec.layers)) <= 7
    assert 0.85 <= statistics.median(times) / (0.05 * len(spec.layers)) <= 1.2


def test_measuring_gives_back_the_description():
    # So slow that a product takes ten times as long as a busy machine may let a process wait.
    device = DescribedDevice(3e9, 1.5e9, {"Q4_0": FormatSpeed(6e9, 2e8)})
    known = ["F32", *(["Q4_0"] if packed.available() else [])]
    found = in_turn(known, probe.kernel_bench(described=device), lambda: False)
    for encoding, speed in (("F32", FormatSpeed(3e9, 1.5e9)), *device.formats.items()):
        if encoding in known:
            assert found[encoding].flops == pytest.approx(speed.flops, rel=0.15)
            assert found[encoding].bandwidth == pytest.approx(speed.bandwidth, rel=0.15)


def test_links_are_as_slow_as_described(processes, served, tmp_path):
    links = {"device": {"flops": 3e9, "memory_bandwidth": 1e9}, "links": {"b": [0.05, 100_000]}, "disk": 3e8}
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
        found = first.stub.Probe(pb.ProbeRequest(), timeout=60)
        assert (found.flops, found.memory_bandwidth) == (pytest.approx(3e9, rel=0.15), pytest.approx(1e9, rel=0.15))
        assert found.disk_bandwidth == 3e8


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
