"""What a worker with a real model takes of a machine's memory."""

import sys

import pytest

from potluck.kernels import packed
from potluck.proto import cluster_pb2 as pb

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells files' pages from memory of one's own"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A worker's cache, where the shards of one test are those of the next."""
    return tmp_path_factory.mktemp("memory")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "quantized"])
def test_weights_are_files_and_the_rest_is_small(processes, smollm2_path, cache, dtype):
    if not packed.has_vectors():
        pytest.skip("weights are mapped, but torch packs its own copy of them")
    model = processes.Model(smollm2_path)
    with processes.running(processes.Worker("a", cache / dtype)) as (worker,):
        loaded = worker.load(model.whole(1, worker, dtype=dtype, kv_blocks=128))[-1]
        with processes.client(1, worker) as client:
            client.generate([5, 9, 17, 33, 2, 8] * 8, 4)
        status = worker.stub.Status(pb.StatusRequest(), timeout=5)
    assert status.anonymous_bytes <= loaded.kv_bytes + (400 << 20)
    files = status.resident_bytes - status.anonymous_bytes
    # Beside the shard there are the pages of programs and libraries.
    assert loaded.weight_bytes <= files <= loaded.weight_bytes + (300 << 20)
    assert status.streamed_bytes == 0


def test_streamed_layers_are_read_once_per_step_and_not_kept(processes, smollm2_path, cache):
    """20 of 30 layers through memory for 5: the text is that of resident weights."""
    model, prompt, steps = processes.Model(smollm2_path), [5, 9, 17, 33, 2, 8], 6
    with processes.running(processes.Worker("a", cache / "float32")) as (worker,):
        worker.load(model.whole(1, worker))
        with processes.client(1, worker) as client:
            tokens = client.generate(prompt, steps)
        worker.release(1)
        layer = next((cache / "float32" / "a" / "shards").rglob("layer-010*.shard")).stat().st_size
        windows = [
            pb.Window(stage=0, embedding=True, end_layer=10, next_nodes=["a"]),
            pb.Window(stage=1, first_layer=10, end_layer=30, head=True, streamed=True),
        ]
        worker.load(model.assignment(2, windows, [worker], stream_bytes=5 * layer))
        with processes.client(2, worker) as client:
            assert client.generate(prompt, steps) == tokens
        status = worker.stub.Status(pb.StatusRequest(), timeout=5)
    # One step more drops the sequence; it passes no layer. What is ahead of the last step was read, too.
    assert steps * 20 * layer <= status.streamed_bytes <= (steps * 20 + 5) * layer
    assert status.stall_seconds > 0
    assert status.resident_bytes - status.anonymous_bytes < 30 * layer + (300 << 20)


def by_turns(kept, streamed, turns):
    """Windows of layers that stay and layers that are streamed, by turns."""
    windows, first = [], 0
    for turn in range(turns):
        for count, away in ((kept, False), (streamed, True)):
            last = turn == turns - 1 and away
            windows.append(
                pb.Window(
                    stage=len(windows), embedding=not windows, first_layer=first, end_layer=first + count, head=last,
                    streamed=away, next_nodes=[] if last else ["a"],
                )
            )  # fmt: skip
            first += count
    return windows


def test_a_window_of_one_layer_and_layers_that_lie_apart(processes, smollm2_path, cache):
    """As the planner lays them: ten of 30 layers, each after two that stay, through room for one."""
    model, prompt, steps = processes.Model(smollm2_path), [5, 9, 17, 33, 2, 8], 6
    with processes.running(processes.Worker("a", cache / "float32")) as (worker,):
        worker.load(model.whole(1, worker))
        with processes.client(1, worker) as client:
            tokens = client.generate(prompt, steps)
        worker.release(1)
        layer = next((cache / "float32" / "a" / "shards").rglob("layer-010*.shard")).stat().st_size
        worker.load(model.assignment(2, by_turns(2, 1, 10), [worker], stream_bytes=layer))
        with processes.client(2, worker) as client:
            assert client.generate(prompt, steps) == tokens
        status = worker.stub.Status(pb.StatusRequest(), timeout=5)
    assert steps * 10 * layer <= status.streamed_bytes <= (steps * 10 + 1) * layer
