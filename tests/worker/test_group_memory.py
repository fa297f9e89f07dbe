"""A group whose members hold a few layers each and read the others while sums travel (TPI-LLM's sliding window)."""

import sys
import threading
from pathlib import Path

import pytest

from potluck.kernels import packed
from potluck.proto import cluster_pb2 as pb

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which pages of a file are resident")

PROMPT = [5, 9, 17, 33, 2, 8]
LAYERS = 30
# A layer's two sums take 6 ms; reading the first member's part of one at this speed takes longer.
SLOW = {"links": {"": [0.003, 0]}, "disk": 600e6}


def assignments(model, workers, cuts, windows):
    """Embedding and head with the first worker, the layers with both, at most so many of them in memory."""
    whole = [(0, model.spec.vocab)] * len(workers)
    made = []
    for place, (worker, one) in enumerate(zip(workers, model.grouped(1, workers, cuts), strict=True)):
        (window,) = one.windows
        window.stage, window.embedding, window.head, window.streamed = 1, False, False, True
        window.group.first_rows[:], window.group.end_rows[:] = zip(*whole, strict=True)
        if place == 0:
            window.next_nodes.append(worker.name)
            window.next_wants_sampled = True
            first = pb.Window(stage=0, embedding=True, next_nodes=[other.name for other in workers])
            ends = [first, window, pb.Window(stage=2, head=True)]
            one = model.assignment(1, ends, workers)
        one.stream_bytes = windows * layer_bytes(model.spec, cuts[place])
        made.append(one)
    return made


def layer_bytes(spec, cut):
    """Float32 bytes of one layer's share, with room for rounding up to pages."""
    heads, columns = cut.heads[1] - cut.heads[0], cut.columns[1] - cut.columns[0]
    keys = heads // (spec.heads // spec.kv_heads)
    return 4 * spec.hidden * (spec.head_dim * 2 * (heads + keys) + 3 * columns) + (64 << 10)


def resident_shards(pid):
    """Resident bytes of the layers' files that a process maps."""
    total, counted = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            counted = "/layer-" in line and ".shard" in line
        elif counted and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


class Peaks:
    """The most that processes had resident of their layers' files while it was open, looked at every 20 ms."""

    def __init__(self, workers):
        self.workers, self.most, self.over = workers, [0] * len(workers), threading.Event()
        self.thread = threading.Thread(target=self._look)

    def _look(self):
        while not self.over.wait(0.02):
            self.most = [max(most, resident_shards(one.pid)) for most, one in zip(self.most, self.workers, strict=True)]

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def run(processes, in_group, model, folder, windows):
    """Tokens, the members' peaks, and the seconds stalled in the tokens after the first."""
    with processes.running(*(processes.Worker(name, folder, emulate=SLOW) for name in "ab")) as workers:
        cuts = in_group.cuts_of(model.spec, (2, 1), 32)
        for worker, assignment in zip(workers, assignments(model, workers, cuts, windows), strict=True):
            worker.load(assignment)
        with processes.client(1, *workers) as client, Peaks(workers) as peaks:
            client.generate(PROMPT, 1)
            before = [worker.status().stall_seconds for worker in workers]
            tokens = client.generate(PROMPT, 4, sequence=2)
            stalls = [worker.status().stall_seconds - had for worker, had in zip(workers, before, strict=True)]
    return tokens, [most / layer_bytes(model.spec, cut) for most, cut in zip(peaks.most, cuts, strict=True)], stalls


def test_few_layers_in_memory_and_stalls_that_a_larger_window_ends(processes, in_group, smollm2_path, tmp_path):
    if not packed.has_vectors():
        pytest.skip("weights are mapped, but torch packs its own copy of them")
    model = processes.Model(smollm2_path)
    tokens, peaks, stalls = run(processes, in_group, model, tmp_path, windows=4)
    # What was used is dropped by another thread: one more layer may be resident while it is.
    assert all(2 <= peak <= 5 for peak in peaks), peaks
    assert stalls[0] > 0.05
    again, peaks, none = run(processes, in_group, model, tmp_path, windows=LAYERS)
    assert again == tokens
    assert all(LAYERS - 2 <= peak <= LAYERS for peak in peaks), peaks
    assert max(none) < 0.2 * stalls[0]
